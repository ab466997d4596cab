"""PURE: a socket filter that compares the length in an IP header with the length of the frame.

In: a link type, the snaplen, the filter that the socket has. Out: a classic BPF program that does
the same, and cuts frames whose IP header claims more than the frame has.

Why in the kernel
-----------------
libpcap's fast way to read gives no length of the frame on the link (`pcap.py`), and an IP header
can claim any length. A frame that was captured whole needs no other proof. Of a frame that was cut
only the kernel has the length, and a socket filter can load it. A filter returns one number, how
many bytes to capture, so this one returns its verdict in that number:

| frame | captured bytes |
|---|---|
| shorter than the snaplen | all |
| not shorter, and its packet ends within the frame | as many as the snaplen |
| any other | fewer than the snaplen |

So the reader takes a frame with fewer bytes than the snaplen for a whole one (`decode/decoder.py`),
and rejects each packet that reaches beyond its end. A frame of the third kind is rejected unless
its packet fits into what is left of it, and then the length is right.

Constraints
-----------
- A load beyond the end of a frame drops the frame. So only frames of nearly the snaplen are looked
  into. No load of a link header reaches beyond `_LINK_REACH`, and loads of an IP header come after
  a comparison with what is left of the frame.
- The frame as libpcap returns it may be longer than the frame that the filter runs on: libpcap puts
  the VLAN tag back that the network card removed, and writes the header of a cooked frame.
- What the program does not find is not proven: the third kind is the default. It finds a packet
  behind all headers that `decode/scalar_link.py` knows for these link types.

Known limits
------------
- A jumbo payload option is found only where Linux puts it, as the first option.
"""

from collections.abc import Callable, Sequence

from hogpipe.capture.decode.scalar_ip import BIG_TCP_FLOOR, HOP_BY_HOP
from hogpipe.capture.decode.scalar_link import (
    ETHERTYPE_PPPOE_SESSION,
    ETHERTYPE_VERSIONS,
    LLC_SNAP,
    LLC_UNNUMBERED,
    MAX_LABELS,
    MAX_TAGS,
    MIN_ETHERTYPE,
    MPLS_ETHERTYPES,
    PPP_MPLS,
    PPP_VERSIONS,
    PPPOE_SESSION,
    VLAN_ETHERTYPES,
    LinkType,
)
from hogpipe.capture.formats.filter_program import Instruction

MAX_INSTRUCTIONS = 4096
"""BPF_MAXINSNS, include/uapi/linux/bpf_common.h."""
# Behind the first ethertype: SNAP headers, PPPoE, labels, and the first byte of the packet.
_LINK_REACH = 8 * MAX_TAGS + 8 + 4 * MAX_LABELS + 1
_VLAN_TAG_BYTES, _ETHERNET_BYTES, _COOKED_BYTES = 4, 14, 16
_PROTOCOL = 0xFFFFF000  # SKF_AD_OFF + SKF_AD_PROTOCOL, include/uapi/linux/filter.h
_FIRST_OPTION_JUMBO = 0xC204  # type and length of the option, RFC 2675
_IPV4_HEADER, _IPV6_HEADER, _OPTION_HEADER = 20, 40, 8
# Cells of the scratch memory: what is left of the frame at X, and a value while X changes.
_ROOM, _KEPT = 0, 1

# Operations, include/uapi/linux/bpf_common.h; A and X are the two registers.
_RETURN = 0x06
_JUMP, _IF_EQUAL, _IF_AT_LEAST, _IF_ABOVE_X = 0x05, 0x15, 0x35, 0x2D
_LOAD_LENGTH = 0x80
_LOAD_U8, _LOAD_U16 = 0x30, 0x28
_LOAD_U8_FROM_X, _LOAD_U16_FROM_X, _LOAD_U32_FROM_X = 0x50, 0x48, 0x40
_STORE, _LOAD_STORED, _LOAD_X, _SET_X = 0x02, 0x60, 0x61, 0x01
_A_TO_X, _X_TO_A = 0x07, 0x87
_ADD, _SUBTRACT, _SUBTRACT_X, _AND = 0x04, 0x14, 0x1C, 0x54


def add_length_check(
    link_type: int, snaplen: int, existing: Sequence[Instruction]
) -> list[Instruction] | None:
    """Return a program that filters as `existing` does, which may be empty, and proves lengths.

    `snaplen` is the number of captured bytes from which on a length is proven. None if there is no
    program for the link type or so small a snaplen, or if it would be too long.
    """
    find_packet = _FINDERS.get(link_type)
    added = _VLAN_TAG_BYTES + (_COOKED_BYTES if link_type == LinkType.LINUX_SLL else 0)
    reach = _LINK_REACH + (_ETHERNET_BYTES if link_type == LinkType.ETHERNET else 0)
    if find_packet is None or snaplen - added < reach:
        return None
    accepted = [operand for code, _, _, operand in existing if code == _RETURN and operand]
    check = _Assembler()
    check.load(_LOAD_LENGTH)
    check.go_unless(_IF_AT_LEAST, snaplen - added, "proven")
    find_packet(check)
    _compare_lengths(check)
    check.label("not proven")
    check.load(_RETURN, snaplen - added - 1)
    check.label("proven")
    check.load(_RETURN, max(accepted, default=snaplen))
    entry = len(existing)
    filtering = [
        (_JUMP, 0, 0, entry - place - 1) if one[0] == _RETURN and one[3] else one
        for place, one in enumerate(existing)
    ]
    program = filtering + check.assemble()
    return program if len(program) <= MAX_INSTRUCTIONS else None


class _Assembler:
    """Instructions with jumps to labels; a label stands before the instruction added next.

    A comparison can only skip 255 instructions, so each is followed by a jump.
    """

    def __init__(self) -> None:
        self._lines: list[tuple[int, int, int, int | str]] = []
        self._labels: dict[str, int] = {}

    def load(self, operation: int, operand: int = 0) -> None:
        """Add an instruction that is no jump."""
        self._lines.append((operation, 0, 0, operand))

    def go(self, label: str) -> None:
        """Add a jump."""
        self._lines.append((_JUMP, 0, 0, label))

    def go_if(self, operation: int, operand: int, label: str) -> None:
        """Add a jump that is taken if the comparison of A is true."""
        self._lines.append((operation, 0, 1, operand))
        self.go(label)

    def go_unless(self, operation: int, operand: int, label: str) -> None:
        """Add a jump that is taken if the comparison of A is false."""
        self._lines.append((operation, 1, 0, operand))
        self.go(label)

    def advance(self, count: int) -> None:
        """Add `count` to X; A is kept."""
        self.load(_STORE, _KEPT)
        self.load(_X_TO_A)
        self.load(_ADD, count)
        self.load(_A_TO_X)
        self.load(_LOAD_STORED, _KEPT)

    def label(self, name: str) -> None:
        """Name the next instruction."""
        self._labels[name] = len(self._lines)

    def assemble(self) -> list[Instruction]:
        """Return the instructions."""
        return [
            (
                operation,
                if_true,
                if_false,
                self._labels[operand] - place - 1 if isinstance(operand, str) else operand,
            )
            for place, (operation, if_true, if_false, operand) in enumerate(self._lines)
        ]


def _find_in_ethernet(check: _Assembler) -> None:
    """Go to "version 4" or "version 6" with X at the packet, or to "not proven"."""
    check.load(_SET_X, _ETHERNET_BYTES)
    check.load(_LOAD_U16, _ETHERNET_BYTES - 2)
    _find_behind_ethertype(check)


def _find_in_cooked(check: _Assembler) -> None:
    """Find the packet of a frame whose link header the kernel removed, for libpcap to write one."""
    check.load(_SET_X, 0)
    check.load(_LOAD_U16, _PROTOCOL)
    _find_behind_ethertype(check)


def _find_in_raw(check: _Assembler) -> None:
    check.load(_SET_X, 0)
    _find_by_version(check)


_FINDERS: dict[int, Callable[[_Assembler], None]] = {
    LinkType.ETHERNET: _find_in_ethernet,
    LinkType.RAW: _find_in_raw,
    LinkType.LINUX_SLL: _find_in_cooked,
}


def _find_behind_ethertype(check: _Assembler) -> None:
    """Find the packet behind the ethertype in A, where X is."""
    for tags in range(MAX_TAGS + 1):
        check.label(f"ethertype {tags}")
        for ethertype, version in ETHERTYPE_VERSIONS.items():
            check.go_if(_IF_EQUAL, ethertype, f"version {version}")
        check.go_if(_IF_EQUAL, ETHERTYPE_PPPOE_SESSION, "session")
        for ethertype in sorted(MPLS_ETHERTYPES):
            check.go_if(_IF_EQUAL, ethertype, "labels")
        if tags == MAX_TAGS:
            check.go("not proven")
            break
        for ethertype in sorted(VLAN_ETHERTYPES):
            check.go_if(_IF_EQUAL, ethertype, f"tag {tags}")
        check.go_if(_IF_AT_LEAST, MIN_ETHERTYPE, "not proven")
        _skip_snap(check)
        check.go(f"ethertype {tags + 1}")
        check.label(f"tag {tags}")
        check.load(_LOAD_U16_FROM_X, 2)
        check.advance(4)
    _find_in_session(check)
    _find_behind_labels(check)


def _skip_snap(check: _Assembler) -> None:
    """Load the ethertype of the LLC and SNAP headers at X, and move X behind them."""
    check.load(_LOAD_U16_FROM_X, 0)
    check.go_unless(_IF_EQUAL, LLC_SNAP, "not proven")
    check.load(_LOAD_U16_FROM_X, 2)
    check.go_unless(_IF_EQUAL, LLC_UNNUMBERED << 8, "not proven")  # with the organisation, 0
    check.load(_LOAD_U16_FROM_X, 4)
    check.go_unless(_IF_EQUAL, 0, "not proven")
    check.load(_LOAD_U16_FROM_X, 6)
    check.advance(8)


def _find_in_session(check: _Assembler) -> None:
    """Find the packet in the PPPoE session whose header X is at."""
    check.label("session")
    check.load(_LOAD_U16_FROM_X, 0)
    check.go_unless(_IF_EQUAL, PPPOE_SESSION, "not proven")
    check.load(_LOAD_U16_FROM_X, 6)
    check.advance(7)  # behind the header and a protocol of one byte (RFC 1661, 6.5)
    protocols = {protocol: f"version {version}" for protocol, version in PPP_VERSIONS.items()}
    protocols |= dict.fromkeys(PPP_MPLS, "labels")
    for protocol in protocols:
        check.go_if(_IF_EQUAL, protocol, f"protocol {protocol}")
    check.load(_AND, 0xFF00)
    for protocol, version in PPP_VERSIONS.items():
        check.go_if(_IF_EQUAL, protocol << 8, f"version {version}")
    check.go("not proven")
    for protocol, label in protocols.items():
        check.label(f"protocol {protocol}")
        check.advance(1)
        check.go(label)


def _find_behind_labels(check: _Assembler) -> None:
    """Find the packet behind the MPLS labels at X."""
    check.label("labels")
    for _ in range(MAX_LABELS):
        check.load(_LOAD_U8_FROM_X, 2)
        check.load(_AND, 1)  # BOTTOM_OF_STACK
        check.advance(4)
        check.go_if(_IF_EQUAL, 1, "bottom")
    check.go("not proven")
    check.label("bottom")
    _find_by_version(check)


def _find_by_version(check: _Assembler) -> None:
    check.load(_LOAD_U8_FROM_X, 0)
    check.load(_AND, 0xF0)
    for version in (4, 6):
        check.go_if(_IF_EQUAL, version << 4, f"version {version}")
    check.go("not proven")


def _compare_lengths(check: _Assembler) -> None:
    """Go to "proven" if the packet at X ends within the frame; else reach the end."""
    check.label("version 6")
    _store_room(check, _IPV6_HEADER)
    check.load(_LOAD_U16_FROM_X, 4)
    check.go_if(_IF_EQUAL, 0, "no payload length")
    check.load(_ADD, _IPV6_HEADER)
    check.go("compare")

    check.label("version 4")
    _store_room(check, _IPV4_HEADER)
    check.load(_LOAD_U16_FROM_X, 2)
    check.go_if(_IF_EQUAL, 0, "big tcp")
    check.go("compare")

    check.label("no payload length")
    check.load(_LOAD_U8_FROM_X, 6)
    check.go_unless(_IF_EQUAL, HOP_BY_HOP, "big tcp")
    _store_room(check, _IPV6_HEADER + _OPTION_HEADER)
    check.load(_SUBTRACT, _IPV6_HEADER)  # a sum with the length of a jumbogram may wrap
    check.load(_STORE, _ROOM)
    check.load(_LOAD_U16_FROM_X, _IPV6_HEADER + 2)
    check.go_unless(_IF_EQUAL, _FIRST_OPTION_JUMBO, "not proven")
    check.load(_LOAD_U32_FROM_X, _IPV6_HEADER + 4)
    check.go("compare")

    # No length at all: BIG TCP, which the reader counts with the least length at first.
    check.label("big tcp")
    check.load(_LOAD_STORED, _ROOM)
    check.go_if(_IF_AT_LEAST, BIG_TCP_FLOOR, "proven")
    check.go("not proven")

    check.label("compare")
    check.load(_LOAD_X, _ROOM)
    check.go_unless(_IF_ABOVE_X, 0, "proven")


def _store_room(check: _Assembler, least: int) -> None:
    """Store in _ROOM how much of the frame is left at X; not proven if less than `least`."""
    check.load(_LOAD_LENGTH)
    check.load(_SUBTRACT_X)
    check.go_unless(_IF_AT_LEAST, least, "not proven")
    check.load(_STORE, _ROOM)

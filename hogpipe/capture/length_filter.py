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
  into, and no load reaches further than `_MAX_REACH`.
- The frame as libpcap returns it may be longer than the frame that the filter runs on: libpcap puts
  the VLAN tag back that the network card removed, and writes the header of a cooked frame.
- What the program does not find is not proven: the third kind is the default.

Known limits
------------
- A jumbo payload option is found only where Linux puts it, as the first option.
- VLAN tags of cooked frames are not skipped.
"""

from collections.abc import Callable, Sequence

from hogpipe.capture.decode.scalar_ip import BIG_TCP_FLOOR, HOP_BY_HOP
from hogpipe.capture.decode.scalar_link import (
    ETHERTYPE_PPPOE_SESSION,
    ETHERTYPE_VERSIONS,
    MAX_TAGS,
    PPP_VERSIONS,
    PPPOE_SESSION,
    VLAN_ETHERTYPES,
    LinkType,
)
from hogpipe.capture.formats.filter_program import Instruction

MAX_INSTRUCTIONS = 4096
"""BPF_MAXINSNS, include/uapi/linux/bpf_common.h."""
_MAX_REACH = 86  # behind four VLAN tags and PPPoE: a jumbo payload option
_VLAN_TAG_BYTES, _COOKED_BYTES = 4, 16
_PROTOCOL = 0xFFFFF000  # SKF_AD_OFF + SKF_AD_PROTOCOL, include/uapi/linux/filter.h
_FIRST_OPTION_JUMBO = 0xC204  # type and length of the option, RFC 2675
_IPV6_HEADER = 40

# Operations, include/uapi/linux/bpf_common.h; A and X are the two registers.
_RETURN = 0x06
_JUMP, _IF_EQUAL, _IF_AT_LEAST, _IF_AT_LEAST_X = 0x05, 0x15, 0x35, 0x3D
_LOAD_LENGTH = 0x80
_LOAD_U8, _LOAD_U16 = 0x30, 0x28
_LOAD_U8_FROM_X, _LOAD_U16_FROM_X, _LOAD_U32_FROM_X = 0x50, 0x48, 0x40
_STORE, _SET_X, _LOAD_X = 0x02, 0x01, 0x61
_A_TO_X, _X_TO_A = 0x07, 0x87
_ADD, _ADD_X, _SUBTRACT, _SUBTRACT_X, _AND = 0x04, 0x0C, 0x14, 0x1C, 0x54


def add_length_check(
    link_type: int, snaplen: int, existing: Sequence[Instruction]
) -> list[Instruction] | None:
    """Return a program that filters as `existing` does, which may be empty, and proves lengths.

    `snaplen` is the number of captured bytes from which on a length is proven. None if there is no
    program for the link type or so small a snaplen, or if it would be too long.
    """
    find_packet = _FINDERS.get(link_type)
    added = _VLAN_TAG_BYTES + (_COOKED_BYTES if link_type == LinkType.LINUX_SLL else 0)
    if find_packet is None or snaplen - added < _MAX_REACH:
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
    """Instructions with jumps to labels; a label stands before the instruction added next."""

    def __init__(self) -> None:
        self._lines: list[tuple[int, int, str, str]] = []
        self._labels: dict[str, int] = {}

    def load(self, operation: int, operand: int = 0) -> None:
        """Add an instruction that is no jump."""
        self._lines.append((operation, operand, "", ""))

    def go(self, label: str) -> None:
        """Add a jump."""
        self._lines.append((_JUMP, 0, label, ""))

    def go_if(self, operation: int, operand: int, label: str) -> None:
        """Add a jump that is taken if the comparison of A is true."""
        self._lines.append((operation, operand, label, ""))

    def go_unless(self, operation: int, operand: int, label: str) -> None:
        """Add a jump that is taken if the comparison of A is false."""
        self._lines.append((operation, operand, "", label))

    def label(self, name: str) -> None:
        """Name the next instruction."""
        self._labels[name] = len(self._lines)

    def assemble(self) -> list[Instruction]:
        """Return the instructions."""
        program: list[Instruction] = []
        for place, (operation, operand, if_true, if_false) in enumerate(self._lines):
            skips = [self._labels[name] - place - 1 if name else 0 for name in (if_true, if_false)]
            if operation == _JUMP:
                program.append((operation, 0, 0, skips[0]))
            else:
                program.append((operation, skips[0], skips[1], operand))
        return program


def _find_in_ethernet(check: _Assembler) -> None:
    """Go to "version 4" or "version 6" with X at the packet; to "not proven" otherwise."""
    for tags in range(MAX_TAGS + 1):
        at = 14 + 4 * tags
        check.load(_LOAD_U16, at - 2)
        check.load(_SET_X, at)
        _go_by_ethertype(check)
        check.go_if(_IF_EQUAL, ETHERTYPE_PPPOE_SESSION, "session")
        for ethertype in sorted(VLAN_ETHERTYPES):
            check.go_if(_IF_EQUAL, ethertype, f"tag {tags}")
        check.go("not proven")
        check.label(f"tag {tags}")
    check.go("not proven")
    _find_in_session(check)


def _go_by_ethertype(check: _Assembler) -> None:
    for ethertype, version in ETHERTYPE_VERSIONS.items():
        check.go_if(_IF_EQUAL, ethertype, f"version {version}")


def _find_in_session(check: _Assembler) -> None:
    """Find the packet in the PPPoE session whose header X is at."""
    check.label("session")
    check.load(_LOAD_U16_FROM_X, 0)
    check.go_unless(_IF_EQUAL, PPPOE_SESSION, "not proven")
    check.load(_X_TO_A)
    check.load(_ADD, 7)  # behind the header and a protocol of one byte (RFC 1661, 6.5)
    check.load(_STORE, 1)
    check.load(_LOAD_U16_FROM_X, 6)
    check.load(_LOAD_X, 1)
    for protocol, version in PPP_VERSIONS.items():
        check.go_if(_IF_EQUAL, protocol, f"long {version}")
    check.load(_AND, 0xFF00)
    for protocol, version in PPP_VERSIONS.items():
        check.go_if(_IF_EQUAL, protocol << 8, f"version {version}")
    check.go("not proven")
    for version in PPP_VERSIONS.values():
        check.label(f"long {version}")
        check.load(_X_TO_A)
        check.load(_ADD, 1)
        check.load(_A_TO_X)
        check.go(f"version {version}")


def _find_in_raw(check: _Assembler) -> None:
    check.load(_SET_X, 0)
    check.load(_LOAD_U8, 0)
    check.load(_AND, 0xF0)
    for version in (4, 6):
        check.go_if(_IF_EQUAL, version << 4, f"version {version}")
    check.go("not proven")


def _find_in_cooked(check: _Assembler) -> None:
    """Find the packet of a frame whose link header the kernel removed, for libpcap to write one."""
    check.load(_SET_X, 0)
    check.load(_LOAD_U16, _PROTOCOL)
    _go_by_ethertype(check)
    check.go("not proven")


_FINDERS: dict[int, Callable[[_Assembler], None]] = {
    LinkType.ETHERNET: _find_in_ethernet,
    LinkType.RAW: _find_in_raw,
    LinkType.LINUX_SLL: _find_in_cooked,
}


def _compare_lengths(check: _Assembler) -> None:
    """Go to "proven" if the packet at X ends within the frame; else reach the end."""
    check.label("version 6")
    check.load(_LOAD_U16_FROM_X, 4)
    check.go_if(_IF_EQUAL, 0, "no payload length")
    check.load(_ADD, _IPV6_HEADER)
    check.go("compare")

    check.label("version 4")
    check.load(_LOAD_U16_FROM_X, 2)
    check.go_if(_IF_EQUAL, 0, "big tcp")
    check.label("compare")
    check.load(_ADD_X)
    check.load(_A_TO_X)
    check.load(_LOAD_LENGTH)
    check.go_if(_IF_AT_LEAST_X, 0, "proven")
    check.go("not proven")

    check.label("no payload length")
    check.load(_LOAD_U8_FROM_X, 6)
    check.go_unless(_IF_EQUAL, HOP_BY_HOP, "big tcp")

    # A jumbogram: its length is added to nothing, for the sum may have more than 32 bits.
    check.load(_LOAD_U16_FROM_X, _IPV6_HEADER + 2)
    check.go_unless(_IF_EQUAL, _FIRST_OPTION_JUMBO, "not proven")
    check.load(_LOAD_U32_FROM_X, _IPV6_HEADER + 4)
    check.load(_STORE, 0)
    check.load(_LOAD_LENGTH)
    check.load(_SUBTRACT_X)
    check.load(_SUBTRACT, _IPV6_HEADER)
    check.load(_LOAD_X, 0)
    check.go_if(_IF_AT_LEAST_X, 0, "proven")
    check.go("not proven")

    # No length at all: BIG TCP, which the reader counts with the least length at first.
    check.label("big tcp")
    check.load(_LOAD_LENGTH)
    check.load(_SUBTRACT_X)
    check.go_if(_IF_AT_LEAST, BIG_TCP_FLOOR, "proven")

"""PURE: where the IP packets begin in many frames of one link type at once.

In: the data of a batch and the extent of each frame. Out: `Packets`, columns. Gives the result of
`scalar_link` for the usual headers, and marks a frame UNUSUAL where it does not: `scalar_link`
decides about those.

Reads are clipped to the data, not to the frame. Each read moves the row's offset `at` past what it
has read, so a row whose `at` is beyond the end of its frame has used bytes of another frame. Such a
row is UNUSUAL, too.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hogpipe.capture.decode.columns import (
    Indices,
    Octets,
    RowType,
    gather_rows,
    gather_values,
    row_type,
)
from hogpipe.capture.decode.scalar_link import (
    ARPHRD_LOOPBACK,
    BOTTOM_OF_STACK,
    COOKED_OUTGOING,
    ETHERTYPE_PPPOE_SESSION,
    ETHERTYPE_VERSIONS,
    FAMILY_VERSIONS,
    LLC_SNAP,
    LLC_UNNUMBERED,
    MAX_LABELS,
    MAX_TAGS,
    MIN_ETHERTYPE,
    MPLS_ETHERTYPES,
    PPP_ADDRESS_CONTROL,
    PPP_VERSIONS,
    PPPOE_SESSION,
    VLAN_ETHERTYPES,
    LinkType,
)
from hogpipe.capture.decode.wire_key import Direction

NOT_IP, UNUSUAL = 0, 1
"""Kinds of row beside 4 and 6, the versions of IP. Any other number is unusual, too."""
_TAGGED, _LLC, _SESSION, _LABELLED = 7, 8, 9, 10

_U8, _U16, _U32 = np.dtype(np.uint8), np.dtype(">u2"), np.dtype(">u4")
_SLL = row_type(16, {"packet_type": (">u2", 0), "hardware": (">u2", 2), "ethertype": (">u2", 14)})
_SLL2 = row_type(20, {"ethertype": (">u2", 0), "hardware": (">u2", 8), "packet_type": ("u1", 10)})
_INCOMING, _OUTGOING, _LOOPBACK = map(
    np.uint8, (Direction.INCOMING, Direction.OUTGOING, Direction.LOOPBACK)
)


class Packets(NamedTuple):
    """Columns: offset of the IP packet in the data; 4, 6, NOT_IP or UNUSUAL; a `Direction`."""

    at: Indices
    kind: Octets
    direction: Octets

    def take(self, rows: Indices) -> "Packets":
        """Return these rows."""
        return Packets(self.at.take(rows), self.kind.take(rows), self.direction.take(rows))


def locate_packets(link_type: int, data: bytes, start: Indices, end: Indices) -> Packets:
    """Return where the packets of the frames from `start` to before `end` in `data` begin.

    `data` has 20 bytes at least. An unknown link type makes all rows UNUSUAL.
    """
    locate = _LOCATORS.get(link_type)
    if locate is None:
        return Packets(start, np.full(len(start), UNUSUAL, np.uint8), _no_direction(start))
    packets = locate(data, start)
    beyond = packets.at > end
    if np.count_nonzero(beyond):
        packets.kind[beyond] = UNUSUAL
    return packets


def _u16_at(data: bytes, at: Indices) -> NDArray[np.uint16]:
    return gather_values(data, at, _U16)


def _no_direction(start: Indices) -> Octets:
    return np.zeros(len(start), np.uint8)


def _table(versions: dict[int, int], default: int) -> Octets:
    table = np.full(1 << 16, default, np.uint8)
    for number, version in versions.items():
        table[number] = version
    return table


_BY_ETHERTYPE = _table(
    ETHERTYPE_VERSIONS
    | dict.fromkeys(VLAN_ETHERTYPES, _TAGGED)
    | dict.fromkeys(range(MIN_ETHERTYPE), _LLC)
    | dict.fromkeys(MPLS_ETHERTYPES, _LABELLED)
    | {ETHERTYPE_PPPOE_SESSION: _SESSION},
    NOT_IP,
)
_BY_PPP_PROTOCOL = _table(PPP_VERSIONS, UNUSUAL)  # others may be a one-byte protocol


def _ethernet(data: bytes, start: Indices) -> Packets:
    return _by_ethertype(data, start + 14, _u16_at(data, start + 12), _no_direction(start))


def _cooked(data: bytes, start: Indices, header: RowType) -> Packets:
    rows = gather_rows(data, start, header)
    direction = np.where(rows["packet_type"] == COOKED_OUTGOING, _OUTGOING, _INCOMING)
    direction[rows["hardware"] == ARPHRD_LOOPBACK] = _LOOPBACK
    return _by_ethertype(data, start + header.size, rows["ethertype"], direction)


def _by_ethertype(
    data: bytes, at: Indices, ethertype: NDArray[np.uint16], direction: Octets
) -> Packets:
    kind = _BY_ETHERTYPE.take(ethertype)
    if np.count_nonzero(kind >= _TAGGED):
        _skip_headers(data, at, kind)
    return Packets(at, kind, direction)


def _skip_headers(data: bytes, at: Indices, kind: Octets) -> None:
    """Move `at` past all headers between the link's and IP, and set the packet's `kind`."""
    for _ in range(MAX_TAGS):
        # Both are found before any row moves, so that a row moves past one header at a time.
        tagged, llc = np.flatnonzero(kind == _TAGGED), np.flatnonzero(kind == _LLC)
        if not len(tagged) + len(llc):
            break
        kind[tagged] = _BY_ETHERTYPE[_u16_at(data, at[tagged] + 2)]
        at[tagged] += 4
        at[llc], kind[llc] = _llc(data, at[llc])
    sessions = np.flatnonzero(kind == _SESSION)
    inner = _pppoe(data, at[sessions])
    at[sessions], kind[sessions] = inner.at, inner.kind
    labelled = np.flatnonzero(kind == _LABELLED)
    at[labelled], kind[labelled] = _mpls(data, at[labelled])


def _llc(data: bytes, at: Indices) -> tuple[Indices, Octets]:
    """Return where the LLC headers at `at` end, and what follows them."""
    snap = _u16_at(data, at) == LLC_SNAP
    snap &= gather_values(data, at + 2, _U8) == LLC_UNNUMBERED
    organisation = gather_values(data, at + 3, _U8) | _u16_at(data, at + 4)
    ethertyped = _BY_ETHERTYPE[_u16_at(data, at + 6)]
    kind = np.where(snap & (organisation == 0), ethertyped, np.uint8(NOT_IP))
    return np.where(snap, at + 8, at + 3), kind


def _mpls(data: bytes, at: Indices) -> tuple[Indices, Octets]:
    """Return where the stacks of labels at `at` end, and what follows them."""
    at, kind = at.copy(), np.full(len(at), UNUSUAL, np.uint8)
    labelled = np.arange(len(at))
    for _ in range(MAX_LABELS):
        bottom = gather_values(data, at[labelled], _U32) & np.uint32(BOTTOM_OF_STACK) != 0
        at[labelled] += 4
        ended = labelled[bottom]
        version = gather_values(data, at[ended], _U8) >> np.uint8(4)
        is_ip = (version == 4) | (version == 6)
        kind[ended] = np.where(is_ip, version, np.uint8(NOT_IP))
        at[ended[~is_ip]] += 1  # past the octet that was read
        labelled = labelled[~bottom]
    return at, kind


def _pppoe(data: bytes, start: Indices) -> Packets:
    packets = _by_ppp_protocol(data, start + 6)
    packets.kind[_u16_at(data, start) != PPPOE_SESSION] = UNUSUAL
    return packets


def _ppp(data: bytes, start: Indices) -> Packets:
    framed = _u16_at(data, start) == PPP_ADDRESS_CONTROL
    return _by_ppp_protocol(data, np.where(framed, start + 2, start))


def _by_ppp_protocol(data: bytes, at: Indices) -> Packets:
    return Packets(at + 2, _BY_PPP_PROTOCOL[_u16_at(data, at)], _no_direction(at))


def _raw(data: bytes, start: Indices) -> Packets:
    kind = gather_values(data, start, _U8) >> np.uint8(4)
    kind[(kind != 4) & (kind != 6)] = UNUSUAL
    return Packets(start, kind, _no_direction(start))


def _only(version: int) -> Callable[[bytes, Indices], Packets]:
    def locate(_data: bytes, start: Indices) -> Packets:
        return Packets(start, np.full(len(start), version, np.uint8), _no_direction(start))

    return locate


def _loop(data: bytes, start: Indices) -> Packets:
    return _by_family(start, gather_values(data, start, _U32))


def _null(data: bytes, start: Indices) -> Packets:
    family = gather_values(data, start, _U32)
    return _by_family(start, np.minimum(family, family.byteswap()))


def _by_family(start: Indices, family: NDArray[np.uint32]) -> Packets:
    kind = np.full(len(start), UNUSUAL, np.uint8)
    for number, version in FAMILY_VERSIONS.items():
        kind[family == number] = version
    return Packets(start + 4, kind, _no_direction(start))


_LOCATORS: dict[int, Callable[[bytes, Indices], Packets]] = {
    LinkType.NULL: _null,
    LinkType.ETHERNET: _ethernet,
    LinkType.PPP: _ppp,
    LinkType.RAW: _raw,
    LinkType.RAW_OPENBSD: _raw,
    LinkType.PPP_SERIAL: _ppp,
    LinkType.PPP_ETHER: _pppoe,
    LinkType.RAW_FILE: _raw,
    LinkType.LOOP: _loop,
    LinkType.LINUX_SLL: lambda data, start: _cooked(data, start, _SLL),
    LinkType.PPP_PPPD: lambda data, start: _by_ppp_protocol(data, start + 2),
    LinkType.IPV4: _only(4),
    LinkType.IPV6: _only(6),
    LinkType.LINUX_SLL2: lambda data, start: _cooked(data, start, _SLL2),
}

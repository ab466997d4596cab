"""PURE: where the IP packet begins in one frame, and the numbers of the link layer.

In: a link type and the captured bytes of a frame. Out: a `Packet`, or a `Rejection` that says why
there is none. Any bytes are valid input: a frame that is cut before its IP header is undecoded.

Headers between the link header and IP are skipped: VLAN tags and LLC/SNAP in any order, then PPPoE
or a stack of MPLS labels. MPLS does not name what it carries: the first four bits after the stack
are taken for the version of IP.

The reference for `vector_link`, which takes its numbers from here. Formats: IEEE 802.3 and 802.1Q,
RFC 1042 (LLC/SNAP), RFC 3032 and 4928 (MPLS), RFC 2516 (PPPoE), RFC 1661 and 1662 (PPP),
https://www.tcpdump.org/linktypes.html (all others).
Numbers: libpcap's pcap/dlt.h (link types), include/uapi/linux/if_ether.h (ethertypes), RFC 1661,
1332 and 5072 (PPP protocols).
"""

import struct
from collections.abc import Callable
from enum import Enum, IntEnum, auto

import msgspec

from hogpipe.capture.decode.wire_key import Direction


class LinkType(IntEnum):
    """The link types that can be decoded, by their DLT_* number in libpcap on Linux.

    Raw IP is 12 there, 14 on OpenBSD and 101 in a file.
    """

    NULL = 0
    ETHERNET = 1
    PPP = 9
    RAW = 12
    RAW_OPENBSD = 14
    PPP_SERIAL = 50
    PPP_ETHER = 51
    RAW_FILE = 101
    LOOP = 108
    LINUX_SLL = 113
    PPP_PPPD = 166
    IPV4 = 228
    IPV6 = 229
    LINUX_SLL2 = 276


ETHERTYPE_VERSIONS = {0x0800: 4, 0x86DD: 6}
ETHERTYPE_PPPOE_SESSION = 0x8864
VLAN_ETHERTYPES = frozenset({0x8100, 0x88A8, 0x9100, 0x9200})
MPLS_ETHERTYPES = frozenset({0x8847, 0x8848})
MIN_ETHERTYPE = 0x600
"""A value below is the length of an IEEE 802.3 frame, or 4 in a cooked one: LLC follows."""
MAX_TAGS = 4
"""Frames with more VLAN tags and LLC headers than this are undecoded."""
LLC_SNAP, LLC_UNNUMBERED = 0xAAAA, 0x03
"""Both service access points, and the control field, of an LLC header before SNAP."""
MAX_LABELS = 8
"""Frames with more MPLS labels than this are undecoded."""
BOTTOM_OF_STACK = 0x100

PPP_VERSIONS = {0x0021: 4, 0x0057: 6}
PPP_MPLS = frozenset({0x0281, 0x0283})
PPP_ADDRESS_CONTROL = 0xFF03
PPPOE_SESSION = 0x1100
"""The first two bytes of a PPPoE session header: version 1, type 1, code 0 (RFC 2516)."""

FAMILY_VERSIONS = {2: 4, 10: 6, 24: 6, 28: 6, 30: 6}
"""Address families of NULL and LOOP; AF_INET6 has another number on each system."""

COOKED_OUTGOING = 4
"""The packet type PACKET_OUTGOING, include/uapi/linux/if_packet.h."""
ARPHRD_LOOPBACK = 772

_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_U32_LITTLE = struct.Struct("<I")
_LLC = struct.Struct(">HB")  # service access points, control
_SNAP = struct.Struct(">BHH")  # organisation (in two parts), ethertype
_SLL = struct.Struct(">HH10xH")  # packet type, ARPHRD, address, protocol
_SLL2 = struct.Struct(">H6xHB9x")  # protocol, interface, ARPHRD, packet type, address


class Rejection(Enum):
    """Why a frame is in no flow."""

    NOT_IP = auto()
    """A well-formed frame of another network protocol."""
    UNDECODED = auto()
    """Malformed, cut before the IP addresses end, or of an unknown link type."""


class Packet(msgspec.Struct, frozen=True, gc=False):
    """An IP packet in a frame: its offset, the version of IP that the link header announces."""

    at: int
    version: int
    direction: Direction


def locate_packet(link_type: int, frame: bytes) -> Packet | Rejection:
    """Return where the IP packet of `frame` begins, or why there is none."""
    locate = _LOCATORS.get(link_type)
    if locate is None:
        return Rejection.UNDECODED
    try:
        return locate(frame)
    except (struct.error, IndexError):  # a read beyond the end: the frame is cut
        return Rejection.UNDECODED


def _ethernet(frame: bytes) -> Packet | Rejection:
    (ethertype,) = _U16.unpack_from(frame, 12)
    return _by_ethertype(frame, 14, ethertype, Direction.UNKNOWN)


def _sll(frame: bytes) -> Packet | Rejection:
    packet_type, hardware, ethertype = _SLL.unpack_from(frame)
    return _by_ethertype(frame, _SLL.size, ethertype, _cooked_direction(packet_type, hardware))


def _sll2(frame: bytes) -> Packet | Rejection:
    ethertype, hardware, packet_type = _SLL2.unpack_from(frame)
    return _by_ethertype(frame, _SLL2.size, ethertype, _cooked_direction(packet_type, hardware))


def _cooked_direction(packet_type: int, hardware: int) -> Direction:
    if hardware == ARPHRD_LOOPBACK:
        return Direction.LOOPBACK
    return Direction.OUTGOING if packet_type == COOKED_OUTGOING else Direction.INCOMING


def _by_ethertype(
    frame: bytes, at: int, ethertype: int, direction: Direction
) -> Packet | Rejection:
    tags = 0
    while ethertype in VLAN_ETHERTYPES or ethertype < MIN_ETHERTYPE:
        tags += 1
        if tags > MAX_TAGS:
            return Rejection.UNDECODED
        if ethertype in VLAN_ETHERTYPES:
            (ethertype,) = _U16.unpack_from(frame, at + 2)
            at += 4
        else:
            points, control = _LLC.unpack_from(frame, at)
            if (points, control) != (LLC_SNAP, LLC_UNNUMBERED):
                return Rejection.NOT_IP
            organisation_high, organisation_low, ethertype = _SNAP.unpack_from(frame, at + 3)
            if organisation_high or organisation_low:
                return Rejection.NOT_IP
            at += 8
    if ethertype == ETHERTYPE_PPPOE_SESSION:
        return _pppoe(frame, at, direction)
    if ethertype in MPLS_ETHERTYPES:
        return _mpls(frame, at, direction)
    version = ETHERTYPE_VERSIONS.get(ethertype)
    return Rejection.NOT_IP if version is None else Packet(at, version, direction)


def _mpls(frame: bytes, at: int, direction: Direction) -> Packet | Rejection:
    for _ in range(MAX_LABELS):
        (entry,) = _U32.unpack_from(frame, at)
        at += 4
        if entry & BOTTOM_OF_STACK:
            version = frame[at] >> 4
            return Packet(at, version, direction) if version in (4, 6) else Rejection.NOT_IP
    return Rejection.UNDECODED


def _pppoe(frame: bytes, at: int, direction: Direction) -> Packet | Rejection:
    (header,) = _U16.unpack_from(frame, at)
    if header >> 8 != PPPOE_SESSION >> 8:
        return Rejection.UNDECODED
    if header != PPPOE_SESSION:
        return Rejection.NOT_IP
    return _by_ppp_protocol(frame, at + 6, direction)


def _ppp(frame: bytes) -> Packet | Rejection:
    (start,) = _U16.unpack_from(frame)
    return _by_ppp_protocol(frame, 2 if start == PPP_ADDRESS_CONTROL else 0, Direction.UNKNOWN)


def _by_ppp_protocol(frame: bytes, at: int, direction: Direction) -> Packet | Rejection:
    protocol = frame[at]
    if protocol & 1:  # the first of two bytes is even: this one stands alone (RFC 1661, 6.5)
        at += 1
    else:
        (protocol,) = _U16.unpack_from(frame, at)
        at += 2
    if protocol in PPP_MPLS:
        return _mpls(frame, at, direction)
    version = PPP_VERSIONS.get(protocol)
    return Rejection.NOT_IP if version is None else Packet(at, version, direction)


def _raw(frame: bytes) -> Packet | Rejection:
    version = frame[0] >> 4
    return Packet(0, version, Direction.UNKNOWN) if version in (4, 6) else Rejection.UNDECODED


def _null(frame: bytes) -> Packet | Rejection:
    (family,) = _U32.unpack_from(frame)
    (swapped,) = _U32_LITTLE.unpack_from(frame)
    return _by_family(min(family, swapped))  # a family is small in its own byte order only


def _by_family(family: int) -> Packet | Rejection:
    version = FAMILY_VERSIONS.get(family)
    return Rejection.NOT_IP if version is None else Packet(4, version, Direction.UNKNOWN)


_LOCATORS: dict[int, Callable[[bytes], Packet | Rejection]] = {
    LinkType.NULL: _null,
    LinkType.ETHERNET: _ethernet,
    LinkType.PPP: _ppp,
    LinkType.RAW: _raw,
    LinkType.RAW_OPENBSD: _raw,
    LinkType.PPP_SERIAL: _ppp,
    LinkType.PPP_ETHER: lambda frame: _pppoe(frame, 0, Direction.UNKNOWN),
    LinkType.RAW_FILE: _raw,
    LinkType.LOOP: lambda frame: _by_family(_U32.unpack_from(frame)[0]),
    LinkType.LINUX_SLL: _sll,
    # As PPP_SERIAL, with a direction in place of the address byte.
    LinkType.PPP_PPPD: lambda frame: _by_ppp_protocol(frame, 2, Direction.UNKNOWN),
    LinkType.IPV4: lambda _frame: Packet(0, 4, Direction.UNKNOWN),
    LinkType.IPV6: lambda _frame: Packet(0, 6, Direction.UNKNOWN),
    LinkType.LINUX_SLL2: _sll2,
}

"""Where the IP packet begins in one frame, plainly.

The reference that `bulk_link` is tested against. Bytes in, a place or a reason out; a frame that is
cut before it tells is undecoded. Formats: IEEE 802.3 and 802.1Q, RFC 2516 (PPPoE), RFC 1661 and
1662 (PPP), https://www.tcpdump.org/linktypes.html (all others).
"""

import struct
from collections.abc import Callable
from enum import Enum, auto

import msgspec

from hogpipe.capture.decode.link_types import (
    ARPHRD_LOOPBACK,
    COOKED_OUTGOING,
    ETHERTYPE_PPPOE_SESSION,
    ETHERTYPE_VERSIONS,
    FAMILY_VERSIONS,
    MAX_VLAN_TAGS,
    PPP_ADDRESS_CONTROL,
    PPP_VERSIONS,
    PPPOE_SESSION,
    VLAN_ETHERTYPES,
    LinkType,
)
from hogpipe.capture.decode.wire_key import Path

_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_U32_LITTLE = struct.Struct("<I")
_SLL = struct.Struct(">HH10xH")  # packet type, ARPHRD, address, protocol
_SLL2 = struct.Struct(">H6xHB9x")  # protocol, interface, ARPHRD, packet type, address


class Rejection(Enum):
    """Why a frame is in no flow."""

    NOT_IP = auto()
    """A well-formed frame of another network protocol."""
    UNDECODED = auto()
    """Malformed, cut before the IP addresses end, or of an unknown link type."""


class Packet(msgspec.Struct, frozen=True, gc=False):
    """Where an IP packet is: its offset in the frame, the version it should have, its path."""

    at: int
    version: int
    path: Path


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
    return _by_ethertype(frame, 14, ethertype, Path.UNKNOWN)


def _sll(frame: bytes) -> Packet | Rejection:
    packet_type, hardware, ethertype = _SLL.unpack_from(frame)
    return _by_ethertype(frame, _SLL.size, ethertype, _cooked_path(packet_type, hardware))


def _sll2(frame: bytes) -> Packet | Rejection:
    ethertype, hardware, packet_type = _SLL2.unpack_from(frame)
    return _by_ethertype(frame, _SLL2.size, ethertype, _cooked_path(packet_type, hardware))


def _cooked_path(packet_type: int, hardware: int) -> Path:
    if hardware == ARPHRD_LOOPBACK:
        return Path.LOOPBACK
    return Path.OUTGOING if packet_type == COOKED_OUTGOING else Path.INCOMING


def _by_ethertype(frame: bytes, at: int, ethertype: int, path: Path) -> Packet | Rejection:
    tags = 0
    while ethertype in VLAN_ETHERTYPES:
        tags += 1
        if tags > MAX_VLAN_TAGS:
            return Rejection.UNDECODED
        (ethertype,) = _U16.unpack_from(frame, at + 2)
        at += 4
    if ethertype == ETHERTYPE_PPPOE_SESSION:
        return _pppoe(frame, at, path)
    version = ETHERTYPE_VERSIONS.get(ethertype)
    # A value below 0x600 is a length: LLC follows, and IP does not travel in that.
    return Rejection.NOT_IP if version is None else Packet(at, version, path)


def _pppoe(frame: bytes, at: int, path: Path) -> Packet | Rejection:
    (header,) = _U16.unpack_from(frame, at)
    if header >> 8 != PPPOE_SESSION >> 8:
        return Rejection.UNDECODED
    if header != PPPOE_SESSION:
        return Rejection.NOT_IP
    return _by_ppp_protocol(frame, at + 6, path)


def _ppp(frame: bytes) -> Packet | Rejection:
    (start,) = _U16.unpack_from(frame)
    return _by_ppp_protocol(frame, 2 if start == PPP_ADDRESS_CONTROL else 0, Path.UNKNOWN)


def _by_ppp_protocol(frame: bytes, at: int, path: Path) -> Packet | Rejection:
    protocol = frame[at]
    if protocol & 1:  # the first of two bytes is even: this one stands alone (RFC 1661, 6.5)
        at += 1
    else:
        (protocol,) = _U16.unpack_from(frame, at)
        at += 2
    version = PPP_VERSIONS.get(protocol)
    return Rejection.NOT_IP if version is None else Packet(at, version, path)


def _raw(frame: bytes) -> Packet | Rejection:
    version = frame[0] >> 4
    return Packet(0, version, Path.UNKNOWN) if version in (4, 6) else Rejection.UNDECODED


def _null(frame: bytes) -> Packet | Rejection:
    (family,) = _U32.unpack_from(frame)
    (swapped,) = _U32_LITTLE.unpack_from(frame)
    return _by_family(min(family, swapped))  # a family is small in its own byte order only


def _by_family(family: int) -> Packet | Rejection:
    version = FAMILY_VERSIONS.get(family)
    return Rejection.NOT_IP if version is None else Packet(4, version, Path.UNKNOWN)


_LOCATORS: dict[int, Callable[[bytes], Packet | Rejection]] = {
    LinkType.NULL: _null,
    LinkType.ETHERNET: _ethernet,
    LinkType.PPP: _ppp,
    LinkType.RAW: _raw,
    LinkType.RAW_OPENBSD: _raw,
    LinkType.PPP_SERIAL: _ppp,
    LinkType.PPP_ETHER: lambda frame: _pppoe(frame, 0, Path.UNKNOWN),
    LinkType.RAW_FILE: _raw,
    LinkType.LOOP: lambda frame: _by_family(_U32.unpack_from(frame)[0]),
    LinkType.LINUX_SLL: _sll,
    # As PPP_SERIAL, with a direction in place of the address byte.
    LinkType.PPP_PPPD: lambda frame: _by_ppp_protocol(frame, 2, Path.UNKNOWN),
    LinkType.IPV4: lambda _frame: Packet(0, 4, Path.UNKNOWN),
    LinkType.IPV6: lambda _frame: Packet(0, 6, Path.UNKNOWN),
    LinkType.LINUX_SLL2: _sll2,
}

"""PURE: one frame to one wire key and IP length.

In: a link type, the captured bytes of a frame, its length on the link where known. Out: a
`DecodedFrame` or a `Rejection`; any bytes are valid input, and nothing raises.

A packet ends within its frame: a header that claims a length beyond the end of the frame on the
link is undecoded. Bytes of the frame behind the packet are padding, and count nowhere.

The reference for `vector_ip`, and the decoder of the frames that `vector_ip` leaves over: IPv4
options, IPv6 extension headers, fragments, BIG TCP, cut frames. Formats: RFC 791 (IPv4), RFC 8200
(IPv6), RFC 2675 (jumbograms), RFC 4302 (AH), RFC 792 and 4443 (ICMP).
"""

import struct

import msgspec

from hogpipe.capture.decode.fragments import FirstFragment, LaterFragment
from hogpipe.capture.decode.scalar_link import Packet, Rejection, locate_packet
from hogpipe.capture.decode.wire_key import DIRECTION_SHIFT, KEY
from hogpipe.protocols import ICMP, ICMPV6, TCP, WITH_PORTS

HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION = 0, 43, 44, 51
DESTINATION_OPTIONS, MOBILITY, HIP, SHIM6 = 60, 135, 139, 140
EXTENSIONS = frozenset(
    {HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION_OPTIONS, MOBILITY, HIP, SHIM6}
)
ECHO_TYPES = {(4, ICMP): (8, 0), (6, ICMPV6): (128, 129)}
"""ICMP types of the echo request and reply, by IP version and protocol."""

MAX_EXTENSIONS = 8
"""IPv6 extension headers beyond this many are not followed."""
BIG_TCP_FLOOR = 65_536
"""The least length of a BIG TCP packet, whose header has no room for its length."""

_MAX_OPTIONS = 8  # in a hop-by-hop header, as Linux allows (net.ipv6.max_hbh_opts_number)
_PAD1, _JUMBO = 0x00, 0xC2
TCP_FLAGS, SYN, ACK = 13, 0x02, 0x10
"""Offset of the flags in a TCP header; an opening packet has SYN and not ACK."""

_IPV4 = struct.Struct(">BxHHHxBxx4s4s")
_IPV6 = struct.Struct(">4xHBx16s16s")
# Next header, length; in a fragment header then offset and identification.
_EXTENSION = struct.Struct(">BBHI")
_OPTION = struct.Struct(">BBI")  # type, length, jumbo payload length
_PORTS = struct.Struct(">HH")
_ECHO = struct.Struct(">B3xH")  # type, identifier
_IDENT = struct.Struct(">BBB16s16sI")


class DecodedFrame(msgspec.Struct, frozen=True, gc=False):
    """An IP packet: its packed wire key and its length in bytes."""

    key: bytes
    length: int
    opened: bool
    """A TCP SYN without ACK, in a packet that is whole or in a first fragment."""
    fragment: FirstFragment | LaterFragment | None
    length_floored: bool
    """Whether `length` is only the least that the packet can have."""
    beyond_captured: bool
    """Whether the packet is longer than what was captured of it."""


class _ExtensionChain(msgspec.Struct, frozen=True, gc=False):
    """What follows IPv6 extension headers: a protocol and its offset; and the fragment header."""

    protocol: int
    at: int
    fragment: tuple[type[FirstFragment | LaterFragment], int] | None
    """Its kind, and the identification of the packet."""


_Transport = tuple[int, int, bool]
"""Source port, destination port, and whether it is a TCP SYN without ACK."""
_NO_TRANSPORT: _Transport = (0, 0, False)


def decode_frame(
    link_type: int, frame: bytes, original_length: int | None
) -> DecodedFrame | Rejection:
    """Return the IP packet in `frame`, or why there is none.

    `frame` is the captured bytes, `original_length` the length on the link where known. Where it is
    not, what the IP header claims has no bound.
    """
    wire_length = None if original_length is None else max(original_length, len(frame))
    packet = locate_packet(link_type, frame)
    if not isinstance(packet, Packet):
        return packet
    if packet.version == 4:
        return _decode_ipv4(frame, packet, wire_length)
    return _decode_ipv6(frame, packet, wire_length)


def _decode_ipv4(frame: bytes, packet: Packet, wire_length: int | None) -> DecodedFrame | Rejection:
    at = packet.at
    if len(frame) - at < _IPV4.size:
        return Rejection.UNDECODED
    first, total, identification, flags_offset, protocol, source, destination = _IPV4.unpack_from(
        frame, at
    )
    header = (first & 0x0F) * 4
    length, floored = total, False
    if total == 0 and protocol == TCP:
        length, floored = _big_tcp_length(frame, at, wire_length)
    if first >> 4 != 4 or header < _IPV4.size or length < header:
        return Rejection.UNDECODED
    if wire_length is not None and at + length > wire_length:
        return Rejection.UNDECODED
    offset, more = flags_offset & 0x1FFF, flags_offset & 0x2000
    fragment: FirstFragment | LaterFragment | None = None
    if offset or more:
        ident = _IDENT.pack(4, protocol, packet.direction, source, destination, identification)
        fragment = LaterFragment(ident) if offset else FirstFragment(ident)
    transport = _NO_TRANSPORT
    if not offset:
        end = min(len(frame), at + length)
        transport = _decode_transport(frame, at + header, end, 4, protocol)
    source_port, destination_port, opened = transport
    version = 4 | packet.direction << DIRECTION_SHIFT
    key = KEY.pack(version, protocol, 0, source_port, destination_port, source, destination)
    return DecodedFrame(key, length, opened, fragment, floored, at + length > len(frame))


def _decode_ipv6(frame: bytes, packet: Packet, wire_length: int | None) -> DecodedFrame | Rejection:
    at = packet.at
    if len(frame) - at < _IPV6.size or frame[at] >> 4 != 6:
        return Rejection.UNDECODED
    payload, next_header, source, destination = _IPV6.unpack_from(frame, at)
    length, floored = _IPV6.size + payload, False
    if payload == 0 and next_header == HOP_BY_HOP:
        length = _IPV6.size + _decode_jumbo_length(frame, at + _IPV6.size)
    elif payload == 0 and next_header == TCP:
        length, floored = _big_tcp_length(frame, at, wire_length)
    if wire_length is not None and at + length > wire_length:
        return Rejection.UNDECODED
    end = min(len(frame), at + length)
    chain = _follow_extensions(frame, at + _IPV6.size, end, next_header)
    fragment = None
    if chain.fragment is not None:
        kind, identification = chain.fragment
        # Only the first fragment's next header is valid (RFC 8200, 4.5): no protocol here.
        fragment = kind(_IDENT.pack(6, 0, packet.direction, source, destination, identification))
    transport = _NO_TRANSPORT
    if not isinstance(fragment, LaterFragment):
        transport = _decode_transport(frame, chain.at, end, 6, chain.protocol)
    source_port, destination_port, opened = transport
    version = 6 | packet.direction << DIRECTION_SHIFT
    key = KEY.pack(version, chain.protocol, 0, source_port, destination_port, source, destination)
    return DecodedFrame(key, length, opened, fragment, floored, at + length > len(frame))


def _big_tcp_length(frame: bytes, at: int, wire_length: int | None) -> tuple[int, bool]:
    """Return the length of the BIG TCP packet at `at`, and whether that is only the least length.

    The header has no room for the length, which follows from the frame's length on the link.
    """
    if wire_length is None:
        return max(BIG_TCP_FLOOR, len(frame) - at), True
    return wire_length - at, False


def _decode_jumbo_length(frame: bytes, at: int) -> int:
    """Return the jumbo payload length in the hop-by-hop header at `at`; 0 without one."""
    if at + 2 > len(frame):
        return 0
    end = min(len(frame), at + (frame[at + 1] + 1) * 8)
    at += 2
    for _ in range(_MAX_OPTIONS):
        if at + _OPTION.size > end:
            break
        kind, size, jumbo = _OPTION.unpack_from(frame, at)
        if kind == _JUMBO and size == 4:
            return int(jumbo)
        at += 1 if kind == _PAD1 else 2 + size
    return 0


def _follow_extensions(frame: bytes, at: int, end: int, protocol: int) -> _ExtensionChain:
    """Skip IPv6 extension headers from `at`, up to MAX_EXTENSIONS and as far as captured."""
    fragment: tuple[type[FirstFragment | LaterFragment], int] | None = None
    for _ in range(MAX_EXTENSIONS):
        if protocol not in EXTENSIONS or at + _EXTENSION.size > end:
            break
        next_header, size, offset_more, identification = _EXTENSION.unpack_from(frame, at)
        if protocol == FRAGMENT:
            size = 0
            if offset_more & ~7:
                return _ExtensionChain(next_header, at, (LaterFragment, identification))
            if offset_more & 1:
                fragment = FirstFragment, identification
        at += (size + 2) * 4 if protocol == AUTHENTICATION else (size + 1) * 8
        protocol = next_header
    return _ExtensionChain(protocol, at, fragment)


def _decode_transport(frame: bytes, at: int, end: int, version: int, protocol: int) -> _Transport:
    """Return the ports of the transport header between `at` and `end`."""
    if protocol in WITH_PORTS and at + _PORTS.size <= end:
        source, destination = _PORTS.unpack_from(frame, at)
        flags = frame[at + TCP_FLAGS] if protocol == TCP and at + TCP_FLAGS < end else 0
        return source, destination, flags & (SYN | ACK) == SYN
    if (version, protocol) in ECHO_TYPES and at + _ECHO.size <= end:
        kind, identifier = _ECHO.unpack_from(frame, at)
        if kind in ECHO_TYPES[version, protocol]:
            return identifier, identifier, False
    return _NO_TRANSPORT

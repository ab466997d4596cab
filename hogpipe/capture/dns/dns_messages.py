"""PURE: the DNS messages in IP packets: datagrams of UDP, and parts of streams of TCP.

In: bytes that begin with an IP header. Out: a `Segment`, or None where there is none that is whole;
and the messages that segments complete. Any bytes are valid input, and nothing raises.

A stream of TCP has each message behind its length (RFC 1035, 4.2.2). It is followed from its SYN
on; one with a gap, or with a message that is longer than `MAX_MESSAGE`, is dropped: its later
messages are not seen. A segment that comes again adds nothing.

Bounds: `MAX_STREAMS` directions of connections, of each less than two messages.

Known limits: fragments are not joined, and IPv6 packets with extension headers are left out. DNS
over UDP avoids fragments (RFC 9715).
"""

import struct
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from hogpipe.model.peer_names import Endpoint
from hogpipe.protocols import TCP, UDP

MAX_STREAMS = 256
MAX_MESSAGE = 8192
_FIN, _SYN, _RST = 0x01, 0x02, 0x04
_LENGTH = 2
_SEQUENCES = 1 << 32

_IPV4 = struct.Struct(">BxHxxHxBxx4s4s")
_IPV6 = struct.Struct(">BxxxHBx16s16s")
_UDP = struct.Struct(">HHHxx")
_TCP = struct.Struct(">HHIxxxxBB")
_FRAGMENT = 0x3FFF  # more fragments, and the offset


class Segment(NamedTuple):
    """A datagram or segment, with its payload."""

    protocol: int
    source: Endpoint
    destination: Endpoint
    payload: bytes
    sequence: int = 0
    """Of TCP, and so are the flags."""
    flags: int = 0


def decode_segment(packet: bytes) -> Segment | None:
    """Return the segment in a packet, None if there is none, or if it is cut."""
    if not packet:
        return None
    if packet[0] >> 4 == 4:
        return _decode_ipv4(packet)
    return _decode_ipv6(packet) if packet[0] >> 4 == 6 else None


def _decode_ipv4(packet: bytes) -> Segment | None:
    if len(packet) < _IPV4.size:
        return None
    first, length, fragment, protocol, source, destination = _IPV4.unpack_from(packet)
    if fragment & _FRAGMENT or not (first & 0x0F) * 4 <= length <= len(packet):
        return None
    return _decode_transport(packet[(first & 0x0F) * 4 : length], protocol, source, destination)


def _decode_ipv6(packet: bytes) -> Segment | None:
    if len(packet) < _IPV6.size:
        return None
    _first, length, protocol, source, destination = _IPV6.unpack_from(packet)
    if _IPV6.size + length > len(packet):
        return None
    payload = packet[_IPV6.size : _IPV6.size + length]
    return _decode_transport(payload, protocol, source, destination)


def _decode_transport(
    data: bytes, protocol: int, source: bytes, destination: bytes
) -> Segment | None:
    if protocol == UDP and len(data) >= _UDP.size:
        source_port, destination_port, length = _UDP.unpack_from(data)
        if not _UDP.size <= length <= len(data):
            return None
        payload, sequence, flags = data[_UDP.size : length], 0, 0
    elif protocol == TCP and len(data) >= _TCP.size:
        source_port, destination_port, sequence, offset, flags = _TCP.unpack_from(data)
        if not 20 <= (offset >> 4) * 4 <= len(data):
            return None
        payload = data[(offset >> 4) * 4 :]
    else:
        return None
    return Segment(
        protocol,
        Endpoint(source, source_port),
        Endpoint(destination, destination_port),
        payload,
        sequence,
        flags,
    )


class _Stream:
    """One direction of a connection: what is not a whole message yet."""

    def __init__(self, next_sequence: int) -> None:
        self.next = next_sequence
        self.data = bytearray()


class TcpMessages:
    """The streams that are followed, the one that began first is evicted first."""

    def __init__(self) -> None:
        self._streams: OrderedDict[tuple[Endpoint, Endpoint], _Stream] = OrderedDict()

    def __len__(self) -> int:
        return len(self._streams)

    def ingest(self, segment: Segment) -> Iterator[bytes]:
        """Yield the messages that a segment completes."""
        key = segment.source, segment.destination
        if segment.flags & _SYN:
            self._streams.pop(key, None)
            if len(self._streams) >= MAX_STREAMS:
                self._streams.popitem(last=False)
            self._streams[key] = _Stream((segment.sequence + 1) % _SEQUENCES)
            return
        stream = self._streams.get(key)
        if stream is None:
            return
        if segment.payload and not _append(stream, segment):
            del self._streams[key]
            return
        if segment.flags & (_FIN | _RST):
            del self._streams[key]
        yield from _take_messages(stream)
        if len(stream.data) > MAX_MESSAGE:
            self._streams.pop(key, None)


def _append(stream: _Stream, segment: Segment) -> bool:
    """Add what is new in a segment; return False if something before it is missing."""
    known = (stream.next - segment.sequence) % _SEQUENCES
    if known >= _SEQUENCES // 2:
        return False
    new = segment.payload[known:]
    stream.data += new
    stream.next = (stream.next + len(new)) % _SEQUENCES
    return True


def _take_messages(stream: _Stream) -> Iterator[bytes]:
    data = stream.data
    while len(data) >= _LENGTH:
        end = _LENGTH + int.from_bytes(data[:_LENGTH], "big")
        if end > len(data):
            return
        yield bytes(data[_LENGTH:end])
        del data[:end]

"""DNS messages in IP packets, as they pass between a resolver here and a server."""

import struct
from typing import NamedTuple

import dns.flags
import dns.message
import dns.rrset

from hogpipe.protocols import UDP

HERE, SERVER = b"\x0a\0\0\x01", b"\x0a\0\0\x35"
HERE_V6, SERVER_V6 = bytes(15) + b"\x01", bytes(15) + b"\x35"


class Ends(NamedTuple):
    """Who asks whom."""

    local: bytes = HERE
    port: int = 40000
    server: bytes = SERVER


ENDS = Ends()


def make_query(name: str, kind: str = "A", number: int = 7) -> bytes:
    """Return a query."""
    query = dns.message.make_query(name, kind)
    query.id = number
    return query.to_wire()


def make_answer(query: bytes, *records: str, flags: int = 0) -> bytes:
    """Return an answer with records that are written `NAME TTL KIND VALUE`."""
    reply = dns.message.make_response(dns.message.from_wire(query))
    reply.flags |= flags
    for record in records:
        name, ttl, kind, value = record.split(maxsplit=3)
        reply.answer.append(dns.rrset.from_text(name, int(ttl), "IN", kind, value))
    return reply.to_wire()


def to_server(message: bytes, ends: Ends = ENDS) -> bytes:
    """Return the packet of a query over UDP."""
    return make_packet(UDP, (ends.local, ends.port), (ends.server, 53), make_datagram(message))


def to_client(message: bytes, ends: Ends = ENDS) -> bytes:
    """Return the packet of an answer over UDP."""
    return make_packet(UDP, (ends.server, 53), (ends.local, ends.port), make_datagram(message))


def make_datagram(message: bytes) -> bytes:
    """Return what follows the ports of UDP."""
    return struct.pack("!HH", 8 + len(message), 0) + message


def make_segment(sequence: int, payload: bytes = b"", flags: int = 0x10) -> bytes:
    """Return what follows the ports of TCP."""
    return struct.pack("!IIBBHHH", sequence % (1 << 32), 0, 5 << 4, flags, 0, 0, 0) + payload


def make_packet(
    protocol: int, source: tuple[bytes, int], target: tuple[bytes, int], rest: bytes
) -> bytes:
    """Return an IP packet between two endpoints; `rest` follows the ports."""
    payload = struct.pack("!HH", source[1], target[1]) + rest
    if len(source[0]) == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0)
    else:
        head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64)
    return head + source[0] + target[0] + payload

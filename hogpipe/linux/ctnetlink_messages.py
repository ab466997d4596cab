"""PURE: messages of ctnetlink: queries for one connection, and connections parsed from answers.

Any bytes parse: an answer that is malformed or of another kind is no connection, never an
error of Python.

The kernel (conntrack) keeps two tuples of each connection: that of its first packet, and that which
the packets of the other direction have when they arrive. Each is a tuple as on the wire before
translation. A query by either tuple finds the connection.

Headers are in the host's byte order, ports, addresses and identifiers in network byte order.
Sources: include/uapi/linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h, and
net/netfilter/nf_conntrack_netlink.c (ctnetlink_get_conntrack).
"""

import struct
from typing import NamedTuple

import msgspec

from hogpipe.linux.netlink_messages import build_attribute, parse_attributes
from hogpipe.protocols import ICMP, ICMPV6

AF_INET, AF_INET6 = 2, 10

_GET, _NEW = 0x101, 0x100  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_NEW
_NLMSG_ERROR = 2
_NLM_F_REQUEST = 0x1
_NESTED = 0x8000

_ORIGINAL, _REPLY = 1, 2  # CTA_TUPLE_ORIG, CTA_TUPLE_REPLY
_ADDRESSES, _PROTOCOL = 1, 2  # CTA_TUPLE_IP, CTA_TUPLE_PROTO
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3  # CTA_PROTO_NUM and the two ports
_SOURCE_AND_DESTINATION = {4: (1, 2), 16: (3, 4)}  # CTA_IP_*, by the bytes of an address
_ICMP_FIELDS = {ICMP: (4, 5, 6), ICMPV6: (7, 8, 9)}  # CTA_PROTO_ICMP*: identifier, type, code

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_FAMILY = struct.Struct("=BBH")  # nfgenmsg: family, version, resource
_ERROR = struct.Struct("=i")

ECHO_REPLY = {ICMP: 0, ICMPV6: 129}
ECHO_REQUEST = {ICMP: 8, ICMPV6: 128}


class ConnectionTuple(NamedTuple):
    """What identifies one direction of a connection.

    Of an ICMP echo, both ports are its identifier, and `icmp_type` says which of the two messages.
    Ports are 0 if the protocol has none.
    """

    protocol: int
    source: bytes
    source_port: int
    destination: bytes
    destination_port: int
    icmp_type: int = 0


class Connection(NamedTuple):
    """A connection that the kernel tracks; without translation each tuple mirrors the other."""

    original: ConnectionTuple
    """Of its first packet."""
    reply: ConnectionTuple
    """Of the other direction."""


class Answer(msgspec.Struct, frozen=True):
    """The content of one datagram from the kernel, which answers one query."""

    connection: Connection | None = None
    error: int = 0
    """The errno of the kernel's refusal, or 0."""


def build_query(asked: ConnectionTuple) -> bytes:
    """Return the request for the connection of which `asked` is one of the tuples."""
    family = AF_INET if len(asked.source) == 4 else AF_INET6
    payload = _FAMILY.pack(family, 0, 0) + _build_tuple(asked)
    return _HEADER.pack(_HEADER.size + len(payload), _GET, _NLM_F_REQUEST, 0, 0) + payload


def parse_answer(data: bytes) -> Answer:
    """Return the content of a datagram that answers a query."""
    if len(data) < _HEADER.size:
        return Answer()
    length, kind, _flags, _sequence, _port = _HEADER.unpack_from(data)
    body = data[_HEADER.size : length]
    if kind == _NLMSG_ERROR and len(body) >= _ERROR.size:
        return Answer(error=abs(_ERROR.unpack_from(body)[0]))
    if kind != _NEW:
        return Answer()
    attributes = parse_attributes(body[_FAMILY.size :], until=_REPLY)
    original = _parse_tuple(attributes.get(_ORIGINAL, b""))
    reply = _parse_tuple(attributes.get(_REPLY, b""))
    if original is None or reply is None:
        return Answer()
    return Answer(Connection(original, reply))


def _build_tuple(asked: ConnectionTuple) -> bytes:
    source, destination = _SOURCE_AND_DESTINATION[len(asked.source)]
    addresses = build_attribute(source, asked.source) + build_attribute(
        destination, asked.destination
    )
    protocol = build_attribute(_NUMBER, bytes([asked.protocol]))
    if asked.protocol in _ICMP_FIELDS:
        identifier, kind, code = _ICMP_FIELDS[asked.protocol]
        protocol += build_attribute(identifier, asked.source_port.to_bytes(2, "big"))
        protocol += build_attribute(kind, bytes([asked.icmp_type])) + build_attribute(code, b"\0")
    else:  # GRE needs them too, and the kernel ignores those of a protocol that has none
        protocol += build_attribute(_SOURCE_PORT, asked.source_port.to_bytes(2, "big"))
        protocol += build_attribute(_DESTINATION_PORT, asked.destination_port.to_bytes(2, "big"))
    parts = build_attribute(_ADDRESSES | _NESTED, addresses) + build_attribute(
        _PROTOCOL | _NESTED, protocol
    )
    return build_attribute(_ORIGINAL | _NESTED, parts)


def _parse_tuple(data: bytes) -> ConnectionTuple | None:
    parts = parse_attributes(data)
    addresses = parse_attributes(parts.get(_ADDRESSES, b""))
    fields = parse_attributes(parts.get(_PROTOCOL, b""))
    protocol = _number(fields, _NUMBER)
    for size, (source_kind, destination_kind) in _SOURCE_AND_DESTINATION.items():
        source, destination = addresses.get(source_kind), addresses.get(destination_kind)
        if source is None or destination is None:
            continue
        if len(source) != size or len(destination) != size:
            return None
        if protocol in _ICMP_FIELDS:
            identifier, icmp_type, _code = (_number(fields, one) for one in _ICMP_FIELDS[protocol])
            return ConnectionTuple(protocol, source, identifier, destination, identifier, icmp_type)
        ports = _number(fields, _SOURCE_PORT), _number(fields, _DESTINATION_PORT)
        return ConnectionTuple(protocol, source, ports[0], destination, ports[1])
    return None


def _number(fields: dict[int, bytes], kind: int) -> int:
    """Return a number in network byte order; 0 if there is none."""
    return int.from_bytes(fields.get(kind, b""), "big")

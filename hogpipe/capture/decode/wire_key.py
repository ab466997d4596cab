"""PURE: the wire key: a five-tuple as on the wire, in 40 bytes.

Five 64-bit words, so that a column of keys is hashed and compared word by word. A wire key has a
source and a destination, not a local and a remote side: which addresses are local is not known to
the decoders (see `capture/orientation.py`).
"""

import struct
from enum import IntEnum

import msgspec

KEY = struct.Struct(">BBHHH16s16s")
"""Kind, protocol, interface, source port, destination port, source, destination.

The kind is the version and, shifted by DIRECTION_SHIFT, the direction. An IPv4 address is
left-aligned and padded with zeros.
"""
DIRECTION_SHIFT = 4
_VERSION_MASK = (1 << DIRECTION_SHIFT) - 1


class Direction(IntEnum):
    """Which way a packet passed, where the link header has it: Linux cooked captures only."""

    UNKNOWN = 0
    INCOMING = 1
    OUTGOING = 2
    LOOPBACK = 3


_DIRECTIONS = tuple(Direction)


class WireKey(msgspec.Struct, frozen=True, gc=False):
    """A five-tuple as on the wire.

    `version` is 4 or 6 and addresses have 4 or 16 bytes accordingly. `protocol` is the number of
    the innermost header that was reached. Ports are 0 where there are none; an ICMP echo has its
    identifier in both. `interface` is a number (`wire_table.py`): the decoders leave it at 0.
    """

    version: int
    protocol: int
    direction: Direction
    source: bytes
    source_port: int
    destination: bytes
    destination_port: int
    interface: int = 0


def pack_key(key: WireKey) -> bytes:
    """Return the 40 bytes of `key`."""
    return KEY.pack(
        key.version | key.direction << DIRECTION_SHIFT,
        key.protocol,
        key.interface,
        key.source_port,
        key.destination_port,
        key.source,
        key.destination,
    )


def unpack_key(packed: bytes) -> WireKey:
    """Return the wire key of 40 bytes that `pack_key` or a decoder made."""
    kind, protocol, interface, source_port, destination_port, source, destination = KEY.unpack(
        packed
    )
    version = kind & _VERSION_MASK
    width = 4 if version == 4 else 16
    return WireKey(
        version,
        protocol,
        _DIRECTIONS[kind >> DIRECTION_SHIFT],
        source[:width],
        source_port,
        destination[:width],
        destination_port,
        interface,
    )

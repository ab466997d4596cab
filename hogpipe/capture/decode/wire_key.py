"""The packed wire key: a five-tuple as on the wire, and how the link saw it, in 40 bytes.

Five 64-bit words, so that a column of keys can be hashed and compared word by word. Not turned
towards any host: that takes its addresses, which decoding does not know.
"""

import struct
from enum import IntEnum

import msgspec

KEY = struct.Struct(">BBBxHH16s16s")
"""Version, protocol, path, source port, destination port, source, destination.

An IPv4 address is left-aligned and padded with zeros.
"""


class Path(IntEnum):
    """Which way a packet went, where the link tells it: Linux cooked headers only."""

    UNKNOWN = 0
    INCOMING = 1
    OUTGOING = 2
    LOOPBACK = 3


_PATHS = tuple(Path)


class WireKey(msgspec.Struct, frozen=True, gc=False):
    """A five-tuple as on the wire.

    `version` is 4 or 6 and addresses have 4 or 16 bytes accordingly. `protocol` is the number of
    the innermost header that was reached. Ports are 0 where there are none; an ICMP echo has its
    identifier in both.
    """

    version: int
    protocol: int
    path: Path
    source: bytes
    source_port: int
    destination: bytes
    destination_port: int


def pack_key(key: WireKey) -> bytes:
    """Return the 40 bytes of `key`."""
    return KEY.pack(
        key.version,
        key.protocol,
        key.path,
        key.source_port,
        key.destination_port,
        key.source,
        key.destination,
    )


def unpack_key(packed: bytes) -> WireKey:
    """Return the wire key of 40 bytes that `pack_key` or a decoder made."""
    version, protocol, path, source_port, destination_port, source, destination = KEY.unpack(packed)
    width = 4 if version == 4 else 16
    return WireKey(
        version,
        protocol,
        _PATHS[path],
        source[:width],
        source_port,
        destination[:width],
        destination_port,
    )

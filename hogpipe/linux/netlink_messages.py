"""PURE: the form that all messages of netlink have: a header, a payload, attributes.

Any bytes parse: what is truncated ends a message or its attributes. Numbers are in the host's byte
order. Sources: netlink(7), include/uapi/linux/netlink.h.
"""

import struct
from collections.abc import Iterator

MESSAGE = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_TYPE_MASK = 0x3FFF  # without the NESTED and BYTEORDER flags


def parse_messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (type, payload) of each netlink message; stop at a truncated message."""
    at = 0
    while at + MESSAGE.size <= len(data):
        length, kind, *_ = MESSAGE.unpack_from(data, at)
        if length < MESSAGE.size or at + length > len(data):
            return
        yield kind, data[at + MESSAGE.size : at + length]
        at += (length + 3) & ~3


def parse_attributes(data: bytes, until: int | None = None) -> dict[int, bytes]:
    """Return the attributes of a message by type, up to the first that is truncated.

    Those behind the first one of the type `until` are left out.
    """
    attributes: dict[int, bytes] = {}
    at, end = 0, len(data) - _ATTRIBUTE.size
    while at <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size or at + length > len(data):
            break
        kind &= _TYPE_MASK
        attributes[kind] = data[at + _ATTRIBUTE.size : at + length]
        if kind == until:
            break
        at += (length + 3) & ~3
    return attributes


def build_attribute(kind: int, value: bytes) -> bytes:
    """Return an attribute, padded."""
    padding = bytes(-len(value) % 4)
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + padding

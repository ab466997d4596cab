"""PURE: the blocks of a section of a pcapng file, little-endian, with owners of packets.

In: interfaces, frames with their comments, counters. Out: bytes of whole blocks, in the order that
a section needs: its header, each interface before its first frame, statistics at the end.

Numbers of options are those of draft-ietf-opsawg-pcapng. The owner of a packet is in
`epb_processid_threadid`, whose thread is 0: it is not known which one used the socket.

Bounds: a comment is cut at `_MAX_COMMENT_BYTES`, a name at as many as a reader keeps.
"""

import struct
from collections.abc import Iterable
from typing import NamedTuple

from hogpipe.capture.formats.pcapng_blocks import ENHANCED, INTERFACE, SECTION

_STATISTICS = 5
INBOUND, OUTBOUND = 1, 2
"""The direction in the flags of a packet; 0 where it is not known, or both."""
_RESOLUTION = 9  # of timestamps, a negative power of ten
_BYTE_ORDER = 0x1A2B3C4D
_UNKNOWN_LENGTH = -1
_COMMENT = 1
_SECTION_OS, _SECTION_APPLICATION = 3, 4
_INTERFACE_NAME, _INTERFACE_RESOLUTION, _INTERFACE_FILTER = 2, 9, 11
_PACKET_FLAGS, _PACKET_PROCESS = 2, 8
_START, _END, _RECEIVED, _INTERFACE_DROPS, _ACCEPTED, _KERNEL_DROPS, _DELIVERED = range(2, 9)
_MAX_COMMENT_BYTES = 4096
_MAX_NAME_BYTES = 256
_HEAD, _TAIL = struct.Struct("<II"), struct.Struct("<I")
_OPTION = struct.Struct("<HH")
_PACKET = struct.Struct("<IIIII")
_END_OF_OPTIONS = bytes(4)

_Option = tuple[int, bytes]


class InterfaceCounts(NamedTuple):
    """What a statistics block says of an interface; times are nanoseconds since the epoch."""

    start_ns: int
    end_ns: int
    received: int
    """Frames that were captured."""
    delivered: int
    """Those that were written."""
    interface_dropped: int
    kernel_dropped: int
    comment: str


def encode_section(application: str, system: str) -> bytes:
    """Return a section header."""
    fixed = struct.pack("<IHHq", _BYTE_ORDER, 1, 0, _UNKNOWN_LENGTH)
    options = [(_SECTION_OS, system.encode()), (_SECTION_APPLICATION, application.encode())]
    return _encode_block(SECTION, fixed + _encode_options(options))


def encode_interface(link_type: int, snaplen: int, name: str, expression: str) -> bytes:
    """Return the description of an interface; its number is how many are before it."""
    options = [(_INTERFACE_RESOLUTION, bytes([_RESOLUTION]))]
    if name:
        options.insert(0, (_INTERFACE_NAME, _cut(name, _MAX_NAME_BYTES)))
    if expression:  # the first byte: it is a filter in the syntax of libpcap
        options.append((_INTERFACE_FILTER, b"\0" + _cut(expression, _MAX_COMMENT_BYTES)))
    fixed = struct.pack("<HHI", link_type, 0, snaplen)
    return _encode_block(INTERFACE, fixed + _encode_options(options))


def encode_annotation(comments: Iterable[str], process_id: int, direction: int) -> bytes:
    """Return the options of packets with these comments and owner; 0 where it is not known."""
    options = [(_COMMENT, _cut(text, _MAX_COMMENT_BYTES)) for text in comments]
    if direction:
        options.append((_PACKET_FLAGS, direction.to_bytes(4, "little")))
    if process_id:
        options.append((_PACKET_PROCESS, struct.pack("<II", process_id, 0)))
    return _encode_options(options)


def encode_packet(
    interface: int, time_ns: int, frame: bytes, original_length: int, annotation: bytes
) -> bytes:
    """Return a packet with what `encode_annotation` returned."""
    padding = bytes(-len(frame) % 4)
    size = _HEAD.size + _PACKET.size + len(frame) + len(padding) + len(annotation) + _TAIL.size
    upper, lower = divmod(time_ns, 1 << 32)
    fixed = _PACKET.pack(interface, upper, lower, len(frame), original_length)
    head, tail = _HEAD.pack(ENHANCED, size), _TAIL.pack(size)
    return b"".join((head, fixed, frame, padding, annotation, tail))


def encode_statistics(interface: int, counts: InterfaceCounts) -> bytes:
    """Return the statistics of an interface, from the beginning of the capture on."""
    numbers = {
        _RECEIVED: counts.received,
        _INTERFACE_DROPS: counts.interface_dropped,
        _ACCEPTED: counts.received,
        _KERNEL_DROPS: counts.kernel_dropped,
        _DELIVERED: counts.delivered,
    }
    options = [(_COMMENT, _cut(counts.comment, _MAX_COMMENT_BYTES))]
    options += [(_START, _encode_time(counts.start_ns)), (_END, _encode_time(counts.end_ns))]
    options += [(code, number.to_bytes(8, "little")) for code, number in numbers.items()]
    fixed = struct.pack("<I", interface) + _encode_time(counts.end_ns)
    return _encode_block(_STATISTICS, fixed + _encode_options(options))


def _encode_time(time_ns: int) -> bytes:
    upper, lower = divmod(time_ns, 1 << 32)
    return struct.pack("<II", upper, lower)


def _encode_block(kind: int, body: bytes) -> bytes:
    size = _HEAD.size + len(body) + _TAIL.size
    return _HEAD.pack(kind, size) + body + _TAIL.pack(size)


def _encode_options(options: Iterable[_Option]) -> bytes:
    """Return a list of options with its end; nothing if there are none."""
    encoded = b"".join(
        _OPTION.pack(code, len(value)) + value + bytes(-len(value) % 4) for code, value in options
    )
    return encoded + _END_OF_OPTIONS if encoded else b""


def _cut(text: str, most: int) -> bytes:
    """Return the first bytes of `text` in UTF-8, without half a character."""
    return text.encode(errors="replace")[:most].decode(errors="ignore").encode()

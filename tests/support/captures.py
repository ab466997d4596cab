"""Writing and reading capture files, without libpcap."""

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_MAGIC = 0xA1B2C3D4
_HEADER = struct.Struct("<IHHiIII")
_RECORD = struct.Struct("<IIII")


class Captured(NamedTuple):
    """A frame of a capture file; `length` is its length on the link, 0 if nothing was cut off."""

    time_us: int
    frame: bytes
    length: int = 0


def write_pcap(path: Path, link_type: int, frames: Iterable[Captured]) -> Path:
    """Write a pcap file and return its path."""
    parts = [_HEADER.pack(_MAGIC, 2, 4, 0, 0, 262_144, link_type)]
    for time_us, frame, length in frames:
        seconds, rest = divmod(time_us, 1_000_000)
        parts += [_RECORD.pack(seconds, rest, len(frame), length or len(frame)), frame]
    path.write_bytes(b"".join(parts))
    return path


def read_pcap(path: Path) -> list[Captured]:
    """Return the frames of a little-endian pcap file."""
    data = path.read_bytes()
    at = _HEADER.size
    frames = []
    while at < len(data):
        seconds, rest, captured, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        frames.append(Captured(seconds * 1_000_000 + rest, data[at : at + captured], length))
        at += captured
    return frames

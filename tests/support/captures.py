"""Writing and reading capture files, without libpcap."""

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from hogpipe.capture.formats import record_chain

_MAGIC = 0xA1B2C3D4
NANOSECOND_MAGIC, MODIFIED_MAGIC = 0xA1B23C4D, 0xA1B2CD34
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


def pcap_file(
    frames: Iterable[Captured],
    link_type: int = 1,
    *,
    order: str = "<",
    magic: int = _MAGIC,
    minor: int = 4,
) -> bytes:
    """Return a classic pcap file of any variant; a nanosecond file has the same times."""
    scale = 1000 if magic == NANOSECOND_MAGIC else 1
    parts = [struct.pack(order + "IHHiIII", magic, 2, minor, 0, 0, 262_144, link_type)]
    for time_us, frame, length in frames:
        seconds, rest = divmod(time_us, 1_000_000)
        sizes = (len(frame), length or len(frame))
        if minor < 3:
            sizes = sizes[::-1]
        parts.append(struct.pack(order + "IIII", seconds, rest * scale, *sizes))
        parts += [bytes(8) if magic == MODIFIED_MAGIC else b"", frame]
    return b"".join(parts)


@contextmanager
def lanes_of(records: int, least: int) -> Iterator[None]:
    """Have lanes of about so many records, and even a few of them be followed side by side."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_chain, "_LANE_RECORDS", records)
        patch.setattr(record_chain, "_MIN_LANES", least)
        yield


class Pcapng:
    """Builds the blocks of one byte order; a file is their concatenation."""

    def __init__(self, order: str = "<") -> None:
        self._order = order

    def block(self, kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        size = len(body) + 12
        return self._pack("II", kind, size) + body + self._pack("I", size)

    def section(self) -> bytes:
        return self.block(0x0A0D0D0A, self._pack("IHHq", 0x1A2B3C4D, 1, 0, -1))

    def option(self, code: int, value: bytes) -> bytes:
        return self._pack("HH", code, len(value)) + value + bytes(-len(value) % 4)

    def interface(
        self, link_type: int = 1, name: str = "", *, snaplen: int = 0, options: bytes = b""
    ) -> bytes:
        named = self.option(2, name.encode()) if name else b""
        return self.block(1, self._pack("HHI", link_type, 0, snaplen) + named + options)

    def enhanced(self, number: int, frame: bytes, ticks: int = 0, length: int = 0) -> bytes:
        sizes = (len(frame), length or len(frame))
        head = self._pack("IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, *sizes)
        return self.block(6, head + frame)

    def obsolete(self, number: int, frame: bytes, ticks: int = 0, length: int = 0) -> bytes:
        sizes = (len(frame), length or len(frame))
        head = self._pack("HHIIII", number, 9, ticks >> 32, ticks & 0xFFFFFFFF, *sizes)
        return self.block(2, head + frame)

    def simple(self, frame: bytes, length: int = 0) -> bytes:
        return self.block(3, self._pack("I", length or len(frame)) + frame)

    def offset(self, seconds: int) -> bytes:
        return self.option(14, self._pack("q", seconds))

    def _pack(self, form: str, *values: int) -> bytes:
        return struct.pack(self._order + form, *values)

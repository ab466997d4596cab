"""PURE: classic pcap files.

A header of 24 bytes, then records: a header of 16 bytes (seconds, fraction, captured length,
original length) and the frame. The magic number gives the byte order, and whether the fraction
counts microseconds or nanoseconds. Format: draft-ietf-opsawg-pcap.

Variants
    - The modified format of some Linux distributions of the 1990s: records have eight bytes more.
    - Versions before 2.3, and 2.543, have the two lengths in the opposite order.

Known limit: version 2.3 may have the lengths in either order; they are read in the usual one.
"""

import struct
from functools import partial
from typing import Literal

import numpy as np

from hogpipe.capture.decode.columns import FrameBatch, Indices, RowType, gather_rows, row_type
from hogpipe.capture.formats.record_chain import RecordForm, find_records
from hogpipe.capture.formats.savefile_parser import (
    MAX_FRAME_BYTES,
    MalformedFileError,
    ParsedFrames,
    SavefileInterface,
    no_frames,
)

_MICROSECONDS, _NANOSECONDS, _MODIFIED = 0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34
_MAGICS = frozenset({_MICROSECONDS, _NANOSECONDS, _MODIFIED})
_HEADER = "IHHiIII"  # magic, version, time zone, accuracy, snaplen, link type
_HEADER_BYTES = 24
_LINK_TYPE_BITS = 0xFFFF  # the bits above are about frame check sequences
_SWAPPED_MINORS = frozenset({0, 1, 2, 543})


def find_byte_order(head: bytes) -> Literal["<", ">"] | None:
    """Return the byte order of the pcap file that begins with `head`; None if it is not one."""
    if int.from_bytes(head[:4], "little") in _MAGICS:
        return "<"
    return ">" if int.from_bytes(head[:4], "big") in _MAGICS else None


class PcapParser:
    """Parses one file that begins with `head`; see SavefileParser.

    Raises MalformedFileError if `head` has less than the file header. `parse` gets the file from
    its first byte on, header included.
    """

    def __init__(self, head: bytes, order: Literal["<", ">"]) -> None:
        if len(head) < _HEADER_BYTES:
            raise MalformedFileError("it is truncated within its file header")
        magic, _major, minor, *_other, link_type = struct.unpack_from(order + _HEADER, head)
        self.interfaces = [SavefileInterface(link_type & _LINK_TYPE_BITS)]
        self.failure: str | None = None
        self.skipped_blocks: dict[int, int] = {}
        header = 24 if magic == _MODIFIED else 16
        self._row, captured_at = _record_row(order, header, swapped=minor in _SWAPPED_MINORS)
        self._form = RecordForm(order, header, captured_at, added=header, least=header)
        self._is_nano = magic == _NANOSECONDS
        self._next = _HEADER_BYTES
        """Offset of the next record in the next data."""
        self._frames = 0

    def parse(self, data: bytes) -> ParsedFrames:
        """Return the whole frames in `data`; see SavefileParser."""
        if len(data) < self._next:
            return no_frames(data)
        guess = partial(self._guess_records, data)
        starts = find_records(data, self._next, self._form, guess)
        header, self._next = self._next, 0
        if self.failure is not None or not len(starts):
            return no_frames(data, header)
        rows = gather_rows(data, starts, self._row)
        begins, captured = starts + self._row.size, rows["captured"].astype(np.int64)
        usable = (captured <= MAX_FRAME_BYTES) & (begins + captured <= len(data))
        count = len(starts)
        if not usable.all():
            count = int(usable.argmin())
            self._check_size(int(captured[count]), count)
        self._frames += count
        used = int(starts[count]) if count < len(starts) else int(begins[-1] + captured[-1])
        records = np.empty((count, 4), np.uint32)
        records[:, 0] = rows["seconds"][:count]
        fraction, nanoseconds = rows["fraction"][:count], None
        if self._is_nano:
            fraction, rest = np.divmod(fraction, np.uint32(1000))
            nanoseconds = rest.astype(np.uint16)
        records[:, 1] = fraction
        records[:, 2], records[:, 3] = begins[:count], captured[:count]
        original = rows["original"][:count].astype(np.uint32)
        frames = FrameBatch(data, records, original, nanoseconds)
        return ParsedFrames(frames, np.zeros(count, np.int64), used)

    def _guess_records(self, data: bytes, bounds: range) -> Indices:
        """Return where records seem to begin, at most one from each of `bounds` on.

        They have the upper half of the time of the first record, and possible lengths.
        """
        half = 2 if self._form.order == "<" else 0
        first = self._next + half
        seconds, find = data[first : first + 2], data.find
        hits = [find(seconds, at + half, at + half + bounds.step) for at in bounds]
        guessed = np.array(hits, np.int64) - half
        rows = gather_rows(data, guessed, self._row)
        captured = rows["captured"]
        likely = (guessed >= 0) & (captured <= MAX_FRAME_BYTES) & (captured <= rows["original"])
        likely &= rows["fraction"] < (1_000_000_000 if self._is_nano else 1_000_000)
        return guessed[likely]

    def _check_size(self, captured: int, before: int) -> None:
        """Record a failure if the record after `before` others of this data has no valid size."""
        if captured > MAX_FRAME_BYTES:
            self.failure = (
                f"damaged after {self._frames + before:,} frames: the next one claims "
                f"{captured:,} captured bytes"
            )


def _record_row(order: str, size: int, *, swapped: bool) -> tuple[RowType, int]:
    """Return the type of a record's header, and the offset of the captured length there."""
    captured_at, original_at = (12, 8) if swapped else (8, 12)
    fields = {"seconds": 0, "fraction": 4, "captured": captured_at, "original": original_at}
    return row_type(size, {name: (f"{order}u4", at) for name, at in fields.items()}), captured_at

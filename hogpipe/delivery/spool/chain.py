"""The segments of a spool, oldest first, and what gives way when there are too many bytes.

Up to the one that is being read segments never change. Of those behind it the oldest give way to a
new window: with `coalesce` two are merged into one, with `drop_oldest` one is dropped; `block` lets
all be. What is damaged is read as far as it can be, and the file is then kept aside.
"""

import errno
import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from hogpipe.delivery.coalescing import WhenFull
from hogpipe.delivery.spool.condensing import condense
from hogpipe.delivery.spool.folder import (
    find_next_number,
    find_segments,
    make_segment,
    set_aside,
    write_unfinished,
)
from hogpipe.delivery.spool.position import Position
from hogpipe.delivery.spool.segments import Segment, StoredWindow
from hogpipe.text import printable

log = logging.getLogger(__name__)

_SEGMENT_BYTES = 8 << 20
_SEGMENTS = 8  # in a chain, at the least
_WORTHWHILE = 0.9  # of the size before: else merging frees too little
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # they say nothing of the file


class Chain:
    """Segments in `folder` of at most `bound` bytes together; counts are in records."""

    def __init__(self, folder: Path, bound: int, when_full: WhenFull) -> None:
        self._folder = folder
        self._when_full = when_full
        self._segment_bytes = min(_SEGMENT_BYTES, bound // _SEGMENTS)
        self._limit = bound - self._segment_bytes  # the rest is for merging
        self._segments: deque[Segment] = deque()
        self._next_number = 1
        self.records = 0
        """Those that are not delivered."""
        self.bytes = 0
        """On disk."""
        self.dropped = 0
        self.coalesced = 0
        self.damaged = 0
        """Segments in which something was damaged."""

    @property
    def has_room(self) -> bool:
        """Whether another window may be appended where none is to give way."""
        return self.bytes < self._limit or not self.records

    def load(self, position: Position) -> None:
        """Find what is in the folder, and forget what is delivered."""
        self._next_number = max(position.segment + 1, find_next_number(self._folder))
        for segment in find_segments(self._folder):
            if segment.last < position.segment:
                segment.path.unlink()
            else:
                self._scan(segment, position.offset if segment.first == position.segment else 0)

    def __contains__(self, segment: Segment) -> bool:
        return segment in self._segments

    def append(self, frame: bytes, records: int, reading: Segment | None) -> Segment:
        """Add a window of so many records, and return where it is; OSError, and then it is not.

        What is behind the segment `reading`, or the first where None, may give way.
        """
        self._make_room(len(frame), reading)
        segment = self._choose_newest()
        try:
            segment.append(frame, records)
        except OSError:
            if not segment.size:
                self._segments.remove(segment)
                segment.path.unlink(missing_ok=True)
            raise
        self.records += records
        self.bytes += len(frame)
        return segment

    def read(self) -> StoredWindow | None:
        """Return the first window that is not delivered; OSError if that may pass."""
        while self._segments:
            segment = self._segments[0]
            if (window := self._read_first(segment)) is not None:
                self._lose(segment, window.lost)
                return window
            if len(self._segments) == 1 and segment.appendable:
                return None
            self._retire()
        return None

    def settle(self, window: StoredWindow) -> Position:
        """Forget a window and all before; return the position behind it."""
        segment = window.segment
        while self._segments[0] is not segment:
            self._retire()
        segment.delivered = window.end
        segment.records -= len(window.records)
        self.records -= len(window.records)
        return Position(segment.first, window.end)

    def tidy(self) -> None:
        """Let go of the first segment if it is of no more use."""
        first = self._segments[0]
        if first.delivered >= first.size and (
            len(self._segments) > 1 or first.size >= self._segment_bytes
        ):
            self._retire()

    def retire_all(self) -> None:
        """Let go of all segments."""
        while self._segments:
            self._retire()

    def _scan(self, segment: Segment, delivered: int) -> None:
        try:
            segment.scan(delivered)
        except OSError as error:
            if error.errno in _PASSING:
                raise
            segment.damaged = True
        self._segments.append(segment)
        self.records += segment.records
        self.bytes += segment.size
        self._report(segment)

    def _read_first(self, segment: Segment) -> StoredWindow | None:
        try:
            return segment.read()
        except OSError as error:
            if error.errno in _PASSING:
                raise
            segment.damaged = True
            return None
        finally:
            self._report(segment)

    def _choose_newest(self) -> Segment:
        """Return the segment to append to."""
        newest = self._segments[-1] if self._segments else None
        if newest is not None and newest.appendable:
            if newest.size < self._segment_bytes:
                return newest
            newest.sync()
        segment = make_segment(self._folder, self._next_number, self._next_number)
        self._next_number += 1
        self._segments.append(segment)
        return segment

    def _make_room(self, size: int, reading: Segment | None) -> None:
        if self._when_full == "block":
            return
        while self.bytes + size > self._limit:
            if not self.records and self._segments:
                self.retire_all()
                continue
            kept = self._segments.index(reading) if reading else 0
            behind = list(self._segments)[kept + 1 :]
            if not behind:
                raise OSError(errno.ENOSPC, "a window does not fit within spool_mib")
            if self._when_full == "drop_oldest" or not self._merge(behind[:2]):
                self._segments.remove(behind[0])
                self._discard(behind[0])

    def _merge(self, old: Sequence[Segment]) -> bool:
        """Merge segments into one; return whether that has made them notably smaller."""
        size = sum(segment.size for segment in old)
        try:
            condensed = condense(old)
        except OSError:  # what cannot be read can only be dropped
            old[0].damaged = True
            return False
        if len(condensed.data) > size * _WORTHWHILE:
            return False
        merged = make_segment(self._folder, old[0].first, old[-1].last)
        unfinished = write_unfinished(merged, condensed.data)
        at = self._segments.index(old[0])
        for segment in old:
            self._segments.remove(segment)
            if segment.damaged:
                set_aside(segment)
        unfinished.replace(merged.path)
        self._segments.insert(at, merged)
        for segment in old:
            if segment.path != merged.path:
                segment.path.unlink(missing_ok=True)
        merged.size, merged.records = len(condensed.data), condensed.records
        waited = sum(segment.records for segment in old)
        self.records += merged.records - waited
        self.bytes += merged.size - size
        self.coalesced += condensed.read - merged.records
        self.dropped += waited - condensed.read
        return True

    def _retire(self) -> None:
        self._discard(self._segments.popleft())

    def _discard(self, segment: Segment) -> None:
        """Let go of a segment that is not in the chain any more; what is left in it is lost."""
        self._lose(segment, segment.records)
        self.bytes -= segment.size
        if segment.damaged:
            set_aside(segment)
        else:
            segment.path.unlink(missing_ok=True)

    def _lose(self, segment: Segment, records: int) -> None:
        segment.records -= records
        self.records -= records
        self.dropped += records

    def _report(self, segment: Segment) -> None:
        if segment.damaged and not segment.reported:
            segment.reported = True
            self.damaged += 1
            path = printable(str(segment.path))
            log.error("spool: %s is damaged; what is whole is delivered, the file kept", path)

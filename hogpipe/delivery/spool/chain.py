"""The segments of a spool, oldest first, within a bound of bytes.

In: entries to append. Out: the oldest undelivered window, and counts in records. The segment that
is being read, and those before it, never change; the overflow policy applies to those behind it
(`_make_room`). Damage is read as far as possible, and the file is then set aside; so is what
cannot be read, such as a FIFO with the name of a segment. Methods raise OSError for errors that
may pass; other errors of a file count as damage.

Known limit: a file with the name of a merged segment and whole windows in it replaces the segments
that its name covers, wherever it came from.
"""

import errno
import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from hogpipe.delivery.coalescing import OverflowPolicy
from hogpipe.delivery.spool.compaction import compact
from hogpipe.delivery.spool.folder import (
    find_next_number,
    find_segments,
    make_segment,
    make_way,
    remove_segment,
    set_aside,
    write_unfinished,
)
from hogpipe.delivery.spool.position import Position
from hogpipe.delivery.spool.segments import Segment, StoredWindow
from hogpipe.text import printable

log = logging.getLogger(__name__)

_SEGMENT_BYTES = 8 << 20
_SEGMENTS = 8  # in a chain, at least
_WORTHWHILE = 0.9  # of the size before: otherwise merging frees too little
_DAMAGED = "is damaged; whole windows are delivered, the file is kept"
_TRANSIENT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # no error of the file
_GONE = {errno.ENOENT, errno.EINVAL, errno.ELOOP, errno.ESTALE}  # no longer the file that it was


class Chain:
    """Segments in `folder` of at most `bound` bytes together; counts are in records."""

    def __init__(self, folder: Path, bound: int, policy: OverflowPolicy) -> None:
        self._folder = folder
        self._policy = policy
        self._segment_bytes = min(_SEGMENT_BYTES, bound // _SEGMENTS)
        self._limit = bound - self._segment_bytes  # the difference is needed for merging
        self._segments: deque[Segment] = deque()
        self._next_number = 1
        self.records = 0
        """Undelivered records."""
        self.bytes = 0
        """On disk."""
        self.dropped = 0
        self.coalesced = 0
        self.damaged = 0
        """Damaged segments."""

    @property
    def has_room(self) -> bool:
        """Whether another window may be appended within the bound."""
        return self.bytes < self._limit or not self.records

    def load(self, position: Position) -> None:
        """Find the segments of the folder, and remove those that are delivered."""
        self._next_number = max(position.segment + 1, find_next_number(self._folder))
        covered = 0
        for segment in find_segments(self._folder):
            if segment.last < position.segment or segment.last <= covered:
                remove_segment(segment)
                continue
            self._scan(segment, position.offset if segment.first == position.segment else 0)
            if segment.size and not segment.damaged:
                covered = segment.last

    def __contains__(self, segment: Segment) -> bool:
        return segment in self._segments

    def append(self, entry: bytes, records: int, reading: Segment | None) -> Segment:
        """Append an entry with so many records; return its segment. OSError: not appended.

        The overflow policy may change the segments behind `reading`, or behind the first if None.
        """
        self._make_room(len(entry), reading)
        while (segment := self._try_to_append(entry, records)) is None:
            pass  # each try has another number
        self.records += records
        self.bytes += len(entry)
        return segment

    def read(self) -> StoredWindow | None:
        """Return the oldest undelivered window, None if there is none."""
        while self._segments:
            segment = self._segments[0]
            if (window := self._read_first(segment)) is not None:
                self._count_lost(segment, window.lost)
                return window
            if len(self._segments) == 1 and segment.appendable:
                return None
            self._remove_first()
        return None

    def acknowledge(self, window: StoredWindow) -> Position:
        """Count a window, and all before it, as delivered; return the position after it."""
        segment = window.segment
        while self._segments[0] is not segment:
            self._remove_first()
        segment.delivered = window.end
        segment.records -= len(window.records)
        self.records -= len(window.records)
        return Position(segment.first, window.end)

    def remove_delivered(self) -> None:
        """Remove the first segment if it is delivered and takes no more windows."""
        first = self._segments[0]
        if first.delivered >= first.size and (
            len(self._segments) > 1 or first.size >= self._segment_bytes
        ):
            self._remove_first()

    def remove_all(self) -> None:
        """Remove all segments."""
        while self._segments:
            self._remove_first()

    def _scan(self, segment: Segment, delivered: int) -> None:
        try:
            segment.scan(delivered)
        except OSError as error:
            if error.errno in _TRANSIENT:
                raise
            self._give_up(segment, error)
        self._segments.append(segment)
        self.records += segment.records
        self.bytes += segment.size
        self._report_damage(segment)

    def _read_first(self, segment: Segment) -> StoredWindow | None:
        try:
            return segment.read()
        except OSError as error:
            if error.errno in _TRANSIENT:
                raise
            self._give_up(segment, error)
            return None
        finally:
            self._report_damage(segment)

    def _try_to_append(self, entry: bytes, records: int) -> Segment | None:
        """Append to the newest segment; None if that is not possible with this segment."""
        segment = self._choose_newest()
        try:
            segment.append(entry, records)
        except FileExistsError:
            self._segments.remove(segment)
            return None
        except OSError as error:
            if not segment.size:
                self._segments.remove(segment)
                if segment.exists:
                    remove_segment(segment)
            elif error.errno in _GONE:
                self._give_up(segment, error)
                return None
            raise
        return segment

    def _choose_newest(self) -> Segment:
        """Return the segment to append to."""
        newest = self._segments[-1] if self._segments else None
        if newest is not None and newest.appendable:
            if newest.size < self._segment_bytes:
                return newest
            try:
                newest.sync()
            except OSError as error:
                if error.errno not in _GONE:
                    raise
                self._give_up(newest, error)
        segment = make_segment(self._folder, self._next_number, self._next_number)
        self._next_number += 1
        self._segments.append(segment)
        return segment

    def _make_room(self, size: int, reading: Segment | None) -> None:
        if self._policy == "block":
            return
        while self.bytes + size > self._limit:
            if not self.records and self._segments:
                self.remove_all()
                continue
            kept = self._segments.index(reading) if reading else 0
            behind = list(self._segments)[kept + 1 :]
            if not behind:
                raise OSError(errno.ENOSPC, "a window does not fit within spool_mib")
            if self._policy == "drop_oldest" or not self._merge(behind[:2]):
                self._segments.remove(behind[0])
                self._discard(behind[0])

    def _merge(self, old: Sequence[Segment]) -> bool:
        """Merge segments into one; return whether the result is notably smaller."""
        size = sum(segment.size for segment in old)
        try:
            compacted = compact(old)
        except Exception:  # noqa: BLE001 - what cannot be read, or is no record, can only be dropped
            old[0].damaged = True
            return False
        if len(compacted.data) > size * _WORTHWHILE:
            return False
        merged = make_segment(self._folder, old[0].first, old[-1].last)
        unfinished = write_unfinished(merged, compacted.data)
        position = self._segments.index(old[0])
        for segment in old:
            self._segments.remove(segment)
            if segment.damaged:
                set_aside(segment)
        if merged.path not in {segment.path for segment in old}:
            make_way(merged.path)
        unfinished.replace(merged.path)
        merged.exists = True
        self._segments.insert(position, merged)
        for segment in old:
            if segment.path != merged.path:
                remove_segment(segment)
        merged.size, merged.records = len(compacted.data), compacted.records
        before = sum(segment.records for segment in old)
        self.records += merged.records - before
        self.bytes += merged.size - size
        self.coalesced += compacted.read - merged.records
        self.dropped += before - compacted.read
        return True

    def _remove_first(self) -> None:
        self._discard(self._segments.popleft())

    def _discard(self, segment: Segment) -> None:
        """Remove the file of a segment that has left the chain; undelivered records are lost."""
        self._count_lost(segment, segment.records)
        self.bytes -= segment.size
        if segment.damaged:
            set_aside(segment)
        else:
            remove_segment(segment)

    def _count_lost(self, segment: Segment, records: int) -> None:
        segment.records -= records
        self.records -= records
        self.dropped += records

    def _give_up(self, segment: Segment, error: OSError) -> None:
        """Count a segment as damaged because its file cannot be used."""
        segment.damaged = True
        reason = printable(error.strerror or str(error))
        self._report_damage(segment, f"cannot be used ({reason}), and is set aside")

    def _report_damage(self, segment: Segment, text: str = _DAMAGED) -> None:
        """Count and log a damaged segment, once."""
        if segment.damaged and not segment.reported:
            segment.reported = True
            self.damaged += 1
            log.error("spool: %s %s", printable(str(segment.path)), text)

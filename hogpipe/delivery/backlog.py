"""PURE: windows that wait in memory for one sink, and what gives way when they are too many."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Literal

from hogpipe.delivery.merging import Merger
from hogpipe.record import Record

WhenFull = Literal["coalesce", "drop_oldest", "block"]

MAX_GROUPS = 50_000
"""Groups in a merged window: a sink that is dead for days must not fill the memory."""
MAX_RECORDS = 100_000
"""Records that wait, however few the windows; one window may always wait."""
_STEP = 500


class Backlog:
    """Windows in order, at most `limit` of them and `MAX_RECORDS`, with counts of records.

    `coalesce` merges the oldest windows into one, which comes first, so that the newest stay apart;
    that is work, and for `fold` to do after a push. `drop_oldest` drops. `block` does nothing:
    whoever pushes waits until it is no longer `full`.
    """

    def __init__(self, limit: int, when_full: WhenFull) -> None:
        self._limit = limit
        self._when_full = when_full
        self._merged: Merger | None = None
        """What the oldest windows have become."""
        self._windows: deque[Sequence[Record]] = deque()
        self._taken = 0
        """How many records of the first window are in `_merged` already."""
        self.queued = 0
        self.dropped = 0
        self.coalesced = 0
        """Records that went up in another one."""

    @property
    def full(self) -> bool:
        """Whether another window would be one too many."""
        return self._waiting >= self._limit or self.queued > MAX_RECORDS

    def push(self, records: Sequence[Record]) -> None:
        """Let a window wait; one without records is nothing to wait for."""
        if records:
            self._windows.append(records)
            self.queued += len(records)
        while self._when_full == "drop_oldest" and self._is_beyond(1):
            self.dropped += len(self.pop())

    def put_back(self, records: Sequence[Record]) -> None:
        """Let a window that was popped wait again, as the oldest."""
        if records:
            self._settle_merged()
            self._windows.appendleft(records)
            self.queued += len(records)

    def pop(self) -> Sequence[Record]:
        """Take the oldest window, also between two steps of a fold; empty if none waits."""
        self._settle_merged()
        records = self._windows.popleft() if self._windows else ()
        self.queued -= len(records)
        return records

    @property
    def excess(self) -> bool:
        """Whether there is something to fold."""
        return self._when_full == "coalesce" and self._is_beyond(1)

    @property
    def swamped(self) -> bool:
        """Whether so much waits to be folded that whoever pushes should wait for it."""
        return self._when_full == "coalesce" and self._is_beyond(2)

    def fold(self) -> Iterator[None]:
        """Merge what is too much, in steps of some milliseconds; may be left at any."""
        while self.excess:
            yield from self._merge_oldest()

    @property
    def _waiting(self) -> int:
        return len(self._windows) + (self._merged is not None)

    def _is_beyond(self, times: int) -> bool:
        if self.queued > times * MAX_RECORDS:
            return self._waiting > 1
        return self._waiting > times * self._limit

    def _settle_merged(self) -> None:
        """Make a plain window of what was merged."""
        if self._merged is None:
            return
        if self._taken:
            self._windows[0] = self._windows[0][self._taken :]
            self._taken = 0
        self._windows.appendleft(self._merged.records())
        self._merged = None

    def _merge_oldest(self) -> Iterator[None]:
        """Merge the oldest window into the merged one, which may be popped between two steps."""
        merged = self._merged = self._merged or Merger()
        window = self._windows[0]
        while self._merged is merged and self._windows and self._windows[0] is window:
            part = window[self._taken : self._taken + _STEP]
            before = len(merged) + len(part)
            merged.add(part)
            self._note_coalesced(before - len(merged))
            self._taken += len(part)
            if self._taken == len(window):
                self._windows.popleft()
                self._taken = 0
            yield
        if self._merged is merged:
            yield from self._fold_groups(merged)

    def _fold_groups(self, merged: Merger) -> Iterator[None]:
        before = len(merged)
        for _ in merged.fold(MAX_GROUPS):
            self._note_coalesced(before - len(merged))
            before = len(merged)
            yield
            if self._merged is not merged:
                return

    def _note_coalesced(self, records: int) -> None:
        self.coalesced += records
        self.queued -= records

"""PURE: the windows that wait for one sink, and what gives way when there are too many."""

from collections import deque
from collections.abc import Sequence
from typing import Literal

from hogpipe.record import Record
from hogpipe.sinks.merging import Merger

MAX_GROUPS = 100_000
"""Groups in a merged window: a sink that is dead for days must not fill the memory."""


class Backlog:
    """Windows in order, at most `limit` of them, with counts of records.

    `coalesce` merges the oldest into one, which comes first, so that the newest stay apart.
    `drop_oldest` drops. `block` takes one window more each time one is pushed: the pusher waits
    until it is no longer `full`.
    """

    def __init__(self, limit: int, when_full: Literal["coalesce", "drop_oldest", "block"]) -> None:
        self._limit = limit
        self._when_full = when_full
        self._merged: Merger | None = None
        """What the oldest windows have become."""
        self._windows: deque[Sequence[Record]] = deque()
        self.queued = 0
        self.dropped = 0
        self.coalesced = 0
        """Records that went up in another one."""

    @property
    def full(self) -> bool:
        """Whether another window would be one too many."""
        return self._waiting >= self._limit

    def push(self, records: Sequence[Record]) -> None:
        """Let a window wait; one without records is nothing to wait for."""
        if not records:
            return
        self._windows.append(records)
        self.queued += len(records)
        if self._when_full == "block":
            return
        while self._waiting > self._limit:
            if self._when_full == "coalesce":
                self._coalesce()
            else:
                self.dropped += len(self.pop())

    def pop(self) -> Sequence[Record]:
        """Take the oldest window; empty if none waits."""
        records: Sequence[Record] = ()
        if self._merged is not None:
            records, self._merged = self._merged.records(), None
        elif self._windows:
            records = self._windows.popleft()
        self.queued -= len(records)
        return records

    @property
    def _waiting(self) -> int:
        return len(self._windows) + (self._merged is not None)

    def _coalesce(self) -> None:
        if self._merged is None:
            self._merged = Merger(MAX_GROUPS)
        oldest, before = self._windows.popleft(), len(self._merged)
        self._merged.add(oldest)
        vanished = before + len(oldest) - len(self._merged)
        self.coalesced += vanished
        self.queued -= vanished

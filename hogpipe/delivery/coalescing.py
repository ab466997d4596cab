"""PURE: the queue of one sink in memory, with its overflow policy.

In: windows, and the results of merge jobs. Out: the oldest window, and counts in records. Nothing
here fails.

# Overflow

The queue holds at most `limit` windows and `MAX_RECORDS` records; a single window is always
accepted. Beyond that the policy decides:

    coalesce      the two oldest windows are merged: the newest keep their time resolution
    drop_oldest   the oldest window is dropped
    block         nothing: the publisher waits while the queue is `full`

# Memory

A record is a dict of about 4 KB. Where more than `MAX_UNMERGED_RECORDS` are queued, windows are
converted to sums (merging.py), a fifth of that, all but the newest: the sink may take it at once.

# Merge jobs

Converting and merging take too long for the event loop, so they are jobs for another thread:
`next_job`, `MergeJob.run` in the thread, `finish`. Windows may be removed while a job runs; its
result is then discarded.

Known limit: where jobs fall behind and memory grows (twice `MAX_RECORDS` unmerged), a merge keeps
the total of a window only, not its groups.
"""

from collections import deque
from collections.abc import Sequence
from typing import Literal

from hogpipe.delivery.merging import MergedWindow
from hogpipe.records.schema import Record

OverflowPolicy = Literal["coalesce", "drop_oldest", "block"]

MAX_GROUPS = 25_000
"""Groups in a merged window: the bound where a sink is down for days."""
MAX_RECORDS = 50_000
"""Records in the queue, however few the windows."""
MAX_UNMERGED_RECORDS = 10_000
"""Records in the queue as dicts; with `block` the bound of the whole queue."""


class QueuedWindow:
    """A window, as records or as sums. Several queues may hold it: its content never changes."""

    def __init__(self, content: Sequence[Record] | MergedWindow) -> None:
        self._content = content
        self._sums = content if isinstance(content, MergedWindow) else None

    def __len__(self) -> int:
        return len(self._content)

    @property
    def merged(self) -> bool:
        """Whether the window is held as sums."""
        return isinstance(self._content, MergedWindow)

    def records(self) -> Sequence[Record]:
        """Return the records; for sums, this makes them."""
        content = self._content
        return content.records() if isinstance(content, MergedWindow) else content

    def sums(self, *, total_only: bool = False) -> MergedWindow:
        """Return the window as sums, which no caller may change; for one thread at a time.

        With `total_only` the sums may be one total, without groups: that takes less time.
        """
        if self._sums is None:
            sums = MergedWindow()
            if total_only:
                sums.add_total(self.records())
                return sums
            sums.add(self.records())
            self._sums = sums  # the queue of another sink may need them, too
        return self._sums


class MergeJob:
    """Converts one window to sums, or merges two; `run` is for another thread."""

    def __init__(self, windows: Sequence[QueuedWindow], *, total_only: bool = False) -> None:
        self.windows = windows
        self._total_only = total_only
        self.result = MergedWindow()

    def run(self) -> None:
        """Compute `result`; the windows stay as they are."""
        if len(self.windows) == 1:
            self.result = self.windows[0].sums()
            return
        for window in self.windows:
            self.result.merge(window.sums(total_only=self._total_only))
        self.result.fold(MAX_GROUPS)


class CoalescingQueue:
    """Windows in order, at most `limit` of them; counts are in records."""

    def __init__(self, limit: int, policy: OverflowPolicy) -> None:
        self._limit = limit
        self._policy = policy
        self._windows: deque[QueuedWindow] = deque()
        self._unmerged = 0
        """Records of the windows that are not merged."""
        self.queued = 0
        self.dropped = 0
        self.coalesced = 0
        """Records that were merged into others."""

    @property
    def full(self) -> bool:
        """Whether another window would exceed the bound of the policy `block`."""
        return len(self._windows) >= self._limit or self.queued > MAX_UNMERGED_RECORDS

    @property
    def oldest(self) -> QueuedWindow | None:
        """The oldest window, None if the queue is empty."""
        return self._windows[0] if self._windows else None

    def push(self, window: QueuedWindow) -> None:
        """Add an unmerged window as the newest; one without records is ignored."""
        if len(window):
            self._windows.append(window)
            self.queued += len(window)
            self._unmerged += len(window)
        while self._policy == "drop_oldest" and self._overflows:
            oldest = self._windows[0]
            self.remove(oldest)
            self.dropped += len(oldest)

    def push_front(self, records: Sequence[Record]) -> None:
        """Add the records of a removed window as the oldest."""
        if records:
            self._windows.appendleft(QueuedWindow(records))
            self.queued += len(records)
            self._unmerged += len(records)

    def remove(self, window: QueuedWindow) -> bool:
        """Remove a window; return False if it was merged or dropped meanwhile."""
        if window not in self._windows:
            return False
        self._windows.remove(window)
        self.queued -= len(window)
        self._unmerged -= 0 if window.merged else len(window)
        return True

    def clear(self) -> None:
        """Remove all windows, without counting them."""
        self._windows.clear()
        self.queued = self._unmerged = 0

    @property
    def needs_job(self) -> bool:
        """Whether `next_job` may return a job."""
        return self._unmerged > MAX_UNMERGED_RECORDS or self._overflows

    def next_job(self) -> MergeJob | None:
        """Return the next job, None if there is none; one at a time, each followed by `finish`."""
        if self._policy == "coalesce" and self._overflows:
            behind = self._unmerged > 2 * MAX_RECORDS and len(self._windows) > 2
            return MergeJob([self._windows[0], self._windows[1]], total_only=behind)
        if self._policy != "block" and self._unmerged > MAX_UNMERGED_RECORDS:
            for window in list(self._windows)[:-1]:
                if not window.merged:
                    return MergeJob([window])
        return None

    def finish(self, job: MergeJob) -> None:
        """Replace the windows of a job by its result, unless the first was removed meanwhile."""
        first = job.windows[0]
        if first not in self._windows:
            return
        position = self._windows.index(first)
        self.coalesced += sum(map(len, job.windows)) - len(job.result)
        for window in job.windows:
            self.remove(window)
        self._windows.insert(position, QueuedWindow(job.result))
        self.queued += len(job.result)

    @property
    def _overflows(self) -> bool:
        """Whether the queue exceeds its bounds with more than one window."""
        exceeds = len(self._windows) > self._limit or self.queued > MAX_RECORDS
        return exceeds and len(self._windows) > 1

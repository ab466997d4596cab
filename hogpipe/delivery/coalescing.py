"""PURE: windows that wait in memory for one sink, and what gives way when they are too many.

As dicts, records take some 4 KB each. So beyond `PLAIN_RECORDS` of them windows wait as sums
(merging.py), all but the newest, which may be taken at once. To make sums, and to merge them, is
work for another thread: a `Chore`.
"""

from collections import deque
from collections.abc import Sequence
from typing import Literal

from hogpipe.delivery.merging import Merger
from hogpipe.records.schema import Record

WhenFull = Literal["coalesce", "drop_oldest", "block"]

MAX_GROUPS = 25_000
"""Groups in a merged window: a sink that is dead for days must not fill the memory."""
MAX_RECORDS = 50_000
"""Records that wait, however few the windows; one window may always wait."""
PLAIN_RECORDS = 10_000
"""Records that wait as they are. Who may make the pipeline wait needs no more."""


class WaitingWindow:
    """A window as it is, or as sums. It may wait for several sinks: what it says never changes."""

    def __init__(self, held: Sequence[Record] | Merger) -> None:
        self._held = held
        self._sums = held if isinstance(held, Merger) else None

    def __len__(self) -> int:
        return len(self._held)

    @property
    def plain(self) -> bool:
        """Whether it waits as it is."""
        return not isinstance(self._held, Merger)

    def records(self) -> Sequence[Record]:
        """Return its records; of sums they are made now."""
        return self._held.records() if isinstance(self._held, Merger) else self._held

    def sum_up(self, *, nameless: bool = False) -> Merger:
        """Return it as sums, which nobody may change; for one thread at a time.

        If `nameless` they may be of the window as a whole.
        """
        if self._sums is None:
            sums = Merger()
            if nameless:
                sums.add_nameless(self.records())
                return sums
            sums.add(self.records())
            self._sums = sums  # the next sink may want them as well
        return self._sums


class Chore:
    """Makes one window of sums of one or two that wait; `run` is for another thread."""

    def __init__(self, windows: Sequence[WaitingWindow], *, nameless: bool = False) -> None:
        self.windows = windows
        self._nameless = nameless
        self.sums = Merger()

    def run(self) -> None:
        """Do it; nothing that waits is changed."""
        if len(self.windows) == 1:
            self.sums = self.windows[0].sum_up()
            return
        for window in self.windows:
            self.sums.merge(window.sum_up(nameless=self._nameless))
        self.sums.fold(MAX_GROUPS)


class CoalescingQueue:
    """Windows in order, at most `limit` of them and `MAX_RECORDS`, with counts of records.

    `coalesce` merges the oldest windows, so that the newest stay apart; that is a chore for after
    a push. `drop_oldest` drops. `block` does nothing: whoever pushes waits until it is no longer
    `full`.
    """

    def __init__(self, limit: int, when_full: WhenFull) -> None:
        self._limit = limit
        self._when_full = when_full
        self._windows: deque[WaitingWindow] = deque()
        self.queued = 0
        self._plain = 0
        """Those of them that wait as they are."""
        self.dropped = 0
        self.coalesced = 0
        """Records that went up in another one."""

    @property
    def full(self) -> bool:
        """Whether another window would be one too many."""
        return len(self._windows) >= self._limit or self.queued > PLAIN_RECORDS

    @property
    def oldest(self) -> WaitingWindow | None:
        """The window that waits longest."""
        return self._windows[0] if self._windows else None

    def push(self, window: WaitingWindow) -> None:
        """Let a window wait that is as it was; one without records is nothing to wait for."""
        if len(window):
            self._windows.append(window)
            self.queued += len(window)
            self._plain += len(window)
        while self._when_full == "drop_oldest" and self._excess:
            oldest = self._windows[0]
            self.take(oldest)
            self.dropped += len(oldest)

    def put_back(self, records: Sequence[Record]) -> None:
        """Let a window that was taken wait again, as the oldest."""
        if records:
            self._windows.appendleft(WaitingWindow(records))
            self.queued += len(records)
            self._plain += len(records)

    def take(self, window: WaitingWindow) -> bool:
        """Take a window out; return False if it had to give way meanwhile."""
        if window not in self._windows:
            return False
        self._windows.remove(window)
        self.queued -= len(window)
        self._plain -= len(window) if window.plain else 0
        return True

    def clear(self) -> None:
        """Let nothing wait any more."""
        self._windows.clear()
        self.queued = self._plain = 0

    @property
    def has_chore(self) -> bool:
        """Whether `find_chore` may find one."""
        return self._plain > PLAIN_RECORDS or self._excess

    def find_chore(self) -> Chore | None:
        """Return what is to be done, None if nothing; `finish` it when it has run.

        Windows may be taken out meanwhile.
        """
        if self._when_full == "coalesce" and self._excess:
            # Whoever merges is far behind: then be quick, lest memory runs out.
            nameless = self._plain > 2 * MAX_RECORDS and len(self._windows) > 2
            return Chore([self._windows[0], self._windows[1]], nameless=nameless)
        if self._when_full != "block" and self._plain > PLAIN_RECORDS:
            for window in list(self._windows)[:-1]:
                if window.plain:
                    return Chore([window])
        return None

    def finish(self, chore: Chore) -> None:
        """Put what the chore has made in the place of what it was made of, if that still waits."""
        first = chore.windows[0]
        if first not in self._windows:
            return
        at = self._windows.index(first)
        self.coalesced += sum(map(len, chore.windows)) - len(chore.sums)
        for window in chore.windows:
            self.take(window)
        self._windows.insert(at, WaitingWindow(chore.sums))
        self.queued += len(chore.sums)

    @property
    def _excess(self) -> bool:
        """Whether more waits than may, and not in one window."""
        too_much = len(self._windows) > self._limit or self.queued > MAX_RECORDS
        return too_much and len(self._windows) > 1

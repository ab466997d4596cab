"""PURE: the windows that the page shows live, bounded in time and in rows.

In: the sums of a window by the values of its records. Out: `Update`: what changed, for the views
(views.py). Windows are kept for `span` seconds of their own time, and fewer of them where they have
more than `MOST_ROWS` rows together, or are more than `MOST_WINDOWS`. A window that starts
before the newest one ends (the clock was set back, or another recording is replayed) removes all
earlier ones.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from hogpipe import StatsRecord
from hogpipe_web.dimensions import Values
from hogpipe_web.groups import REST, GroupTable, Integers
from hogpipe_web.losses import Losses, LossSum, read_losses

MOST_ROWS = 600_000
"""The most rows of all windows together, of 48 bytes each."""
MOST_WINDOWS = 3600
COUNTERS = ("transmit", "receive", "listener", "inferred", "none")
"""The columns of a row: bytes by direction, and by quality but for `exact`, which is the rest."""
_OVERLAP = 0.001  # seconds; the text of a time has no more digits


@dataclass(slots=True)
class WindowSums:
    """A window as it was delivered."""

    start: float
    end: float
    rows: dict[Values, list[int]] = field(default_factory=dict)
    """Sums in the order of `COUNTERS`, by the values of `KEYS`."""
    remainder: list[int] = field(default_factory=lambda: [0] * len(COUNTERS))
    stats: list[StatsRecord] = field(default_factory=list)


@dataclass(slots=True)
class Window:
    """A window of the ring: rows by slot."""

    start: float
    end: float
    slots: Integers
    counts: Integers
    losses: Losses | None
    """None if there was no stats record."""


@dataclass(frozen=True, slots=True)
class Update:
    """What a further window changed."""

    window: Window
    expired: list[Window]
    folded: Mapping[int, int]
    """Slots that were freed early, each with the slot that has its traffic now."""
    restarted: bool
    """Whether all earlier windows were removed, because the time went back."""


class Ring:
    """The windows of the last `span` seconds, with at most `most_groups` groups."""

    def __init__(self, span: float, most_groups: int) -> None:
        self.groups = GroupTable(most_groups)
        self.windows: deque[Window] = deque()
        self._span = span
        self._rows = 0
        self._losses = LossSum()

    @property
    def losses(self) -> Losses | None:
        """What is missing in the traffic of all windows; None if no stats record said it."""
        return self._losses.total()

    def add(self, sums: WindowSums) -> Update:
        """Add a window, and remove those that are too old or too many."""
        restarted = bool(self.windows) and sums.start < self.windows[-1].end - _OVERLAP
        if restarted:
            while self.windows:
                self._expire()
        found = sorted(sums.rows, key=lambda values: -(sums.rows[values][0] + sums.rows[values][1]))
        folded = self._fold() if self.windows and self.groups.is_short(found) else {}
        slots = self.groups.assign(found)
        counts = np.array([sums.rows[values] for values in found], np.int64)
        counts = counts.reshape(-1, len(COUNTERS))
        if any(sums.remainder):
            slots = np.append(slots, REST)
            counts = np.vstack((counts, np.array([sums.remainder], np.int64)))
        losses = read_losses(sums.stats)
        window = Window(sums.start, sums.end, slots, counts, losses)
        self.groups.use(slots)
        self.windows.append(window)
        self._rows += len(slots)
        if losses is not None:
            self._losses.add(losses)
        expired = []
        while self._is_too_long():
            expired.append(self._expire())
        return Update(window, expired, folded, restarted)

    def _is_too_long(self) -> bool:
        if len(self.windows) <= 1:
            return False
        age = self.windows[-1].end - self.windows[0].end
        return age >= self._span or self._rows > MOST_ROWS or len(self.windows) > MOST_WINDOWS

    def _expire(self) -> Window:
        window = self.windows.popleft()
        self._rows -= len(window.slots)
        if window.losses is not None:
            self._losses.remove(window.losses)
        self.groups.unuse(window.slots)
        return window

    def _fold(self) -> Mapping[int, int]:
        """Make room for new groups."""
        sizes = np.zeros(self.groups.size, np.float64)
        for window in self.windows:
            moved = window.counts[:, 0] + window.counts[:, 1]
            sizes += np.bincount(window.slots, moved, self.groups.size)
        folded = self.groups.plan_fold(sizes.astype(np.int64), self.windows[-1].slots)
        if not folded:
            return folded
        target = np.arange(self.groups.size)
        target[list(folded)] = list(folded.values())
        for window in self.windows:
            window.slots = target[window.slots]
        self.groups.finish_fold(folded)
        return folded

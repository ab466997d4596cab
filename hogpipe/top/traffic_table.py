"""PURE: the connections of a run in columns, and the windows in which their bytes moved.

In: windows (`append`). Out: columns of counters by connection at the time of the cursor.

Time
    The windows of a run are a sequence, of which the newest are kept. The cursor is between two of
    them: those before it are applied, which means that the totals have them; those after it are
    ahead. `advance` and `step_back` move the cursor and add or subtract one window, so the screen
    may pause, go back and follow again while new windows are appended.

Bounds
    At most `max_connections`, `max_owners`, and windows with `max_entries` together. A full table
    merges connections that are idle the longest: those of one owner with one remote address and
    service port become one (`folded`), then those of one program, then all. Totals stay. The oldest
    windows are dropped; if the cursor has not passed them, they are applied first.

Columns are NumPy arrays by slot. A slot is the index of a connection; merging renumbers them, which
`epoch` counts.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hogpipe.flows.health_columns import (
    FIELDS,
    SlotHealth,
    add_health,
    find_known,
    make_health,
)
from hogpipe.flows.packet_rows import Health
from hogpipe.model import Quality
from hogpipe.top.described_flows import (
    NO_PATH,
    REMAINDER,
    Owner,
    Path,
    coarsen_owner,
    coarsen_path,
)
from hogpipe.top.run_figures import Figures

Integers = NDArray[np.int64]
Slots = NDArray[np.int32]

QUALITIES = tuple(Quality)
"""The index of a quality is its code."""

TRAFFIC = ("transmit_bytes", "receive_bytes", "transmit_packets", "receive_packets")

_LEAST = FIELDS.index("rtt_min_us")
_FIRST_CAPACITY = 1024
_LEVELS = 3  # of merging: by remote and service port, by program, all


@dataclass(frozen=True, slots=True, eq=False)
class WindowTraffic:
    """What moved in a window, in columns: an entry for each connection that moved something."""

    start: float
    """Seconds since the epoch."""
    end: float
    slots: Slots
    traffic: Integers
    """A row for each counter of TRAFFIC, a column for each entry."""
    flows: Integers
    quality_slots: Slots
    """With the two columns below: bytes by slot and quality."""
    quality_codes: NDArray[np.uint8]
    quality_bytes: Integers
    figures: Figures
    """The counters of the run itself in this window."""
    health: SlotHealth | None = None
    """That of the TCP connections of which it is known; None if there is none."""

    @property
    def entries(self) -> int:
        """How much of `max_entries` it takes; the health of a connection is twice as large."""
        return self.slots.size + (0 if self.health is None else 2 * len(self.health))

    @property
    def seconds(self) -> float:
        """The length, at least a millisecond: times of records are truncated to it."""
        return max(self.end - self.start, 0.001)


@dataclass(frozen=True, slots=True)
class Moment:
    """A point of the chart: the rates of a window, bytes a second."""

    end: float
    transmit: float
    receive: float


class TrafficTable:
    """The connections of one run, and its windows; `append`, then `advance`."""

    def __init__(
        self,
        *,
        max_connections: int = 100_000,
        max_owners: int = 16_384,
        max_entries: int = 1_000_000,
        max_windows: int = 3_600,
    ) -> None:
        self._max_connections = max_connections
        self._max_owners = max_owners
        self._max_entries = max_entries
        self._max_windows = max_windows
        self.epoch = 0
        """Changes when slots are renumbered."""
        self.clear()

    def clear(self) -> None:
        """Begin again, with an empty table."""
        self.epoch += 1
        self.folded = 0
        """How many connections were merged with others."""
        self.owners: list[Owner] = []
        self.owner_of: list[int] = []
        self.paths: list[Path] = []
        self._owner_index: dict[Owner, int] = {}
        self._slots: dict[tuple[int, Path], int] = {}
        self._traffic = np.zeros((len(TRAFFIC), _FIRST_CAPACITY), np.int64)
        self._qualities = np.zeros((len(QUALITIES), _FIRST_CAPACITY), np.int64)
        self._health: Health | None = None  # until some is known
        self._first_seen = np.full(_FIRST_CAPACITY, np.inf)
        self._last_seen = np.zeros(_FIRST_CAPACITY)
        self._applied: deque[WindowTraffic] = deque()
        self._ahead: deque[WindowTraffic] = deque()
        self._entries = 0
        self.passed = 0
        """How many windows are before the cursor, kept or not."""
        self.began: float | None = None
        self.figures = Figures()
        """The totals of the run's own counters."""
        self.moments: deque[Moment] = deque(maxlen=self._max_windows)

    # Connections

    def __len__(self) -> int:
        """Return the number of slots."""
        return len(self.paths)

    def make_room(self, connections: int) -> None:
        """Merge idle connections, if there is no room for so many new ones."""
        room = max(self._max_connections - connections, self._max_connections // 4)
        before = len(self.paths)
        for level in range(_LEVELS):
            if excess := self._count_excess(room, level):
                idle_first = np.argsort(self._last_seen[: len(self.paths)], kind="stable")
                self._merge_slots(set(idle_first[:excess].tolist()), level)
        self.folded += before - len(self.paths)

    def _count_excess(self, room: int, level: int) -> int:
        """Return how many connections to merge, enough for a while; 0 if there is room."""
        count = len(self.paths)
        excess = count - min(room, self._max_connections // 2) if count > room else 0
        # The first level keeps all owners.
        if level > 0 and len(self.owners) >= self._max_owners:
            excess = max(excess, count // 2)
        return excess

    def find(self, owner: Owner, path: Path) -> int:
        """Return the slot of a connection, which is made if it is new.

        Renumbers no slot; in a full table it is that of the remainder.
        """
        index = self._owner_index.get(owner)
        if index is None:
            if len(self.owners) >= self._max_owners + self._max_owners // 2:
                owner, path = REMAINDER, NO_PATH
                self.folded += 1
            index = self._add_owner(owner)
        slot = self._slots.get((index, path))
        if slot is not None:
            return slot
        if len(self.paths) >= self._max_connections and owner is not REMAINDER:
            self.folded += 1
            return self.find(REMAINDER, NO_PATH)
        slot = self._slots[index, path] = len(self.paths)
        self.owner_of.append(index)
        self.paths.append(path)
        if slot >= self._last_seen.size:
            self._grow()
        return slot

    def _add_owner(self, owner: Owner) -> int:
        index = self._owner_index.get(owner)
        if index is None:
            index = self._owner_index[owner] = len(self.owners)
            self.owners.append(owner)
        return index

    def _grow(self) -> None:
        more = self._last_seen.size
        self._traffic = np.pad(self._traffic, ((0, 0), (0, more)))
        self._qualities = np.pad(self._qualities, ((0, 0), (0, more)))
        if self._health is not None:
            self._health = np.pad(self._health, ((0, more), (0, 0)))
        self._first_seen = np.pad(self._first_seen, (0, more), constant_values=np.inf)
        self._last_seen = np.pad(self._last_seen, (0, more))

    def owner(self, slot: int) -> Owner:
        """Return the owner of a connection."""
        return self.owners[self.owner_of[slot]]

    # Windows

    def append(self, window: WindowTraffic) -> None:
        """Add the newest window, ahead of the cursor; drop the oldest ones if there are too many.

        The slots of the window are those of the present epoch.
        """
        self._ahead.append(window)
        self._entries += window.entries
        while self._entries > self._max_entries or self._kept > self._max_windows:
            if not self._applied:
                if self._kept == 1:
                    break
                self.advance()
            self._entries -= self._applied.popleft().entries

    @property
    def _kept(self) -> int:
        return len(self._applied) + len(self._ahead)

    @property
    def current(self) -> WindowTraffic | None:
        """The window before the cursor; None at the beginning."""
        return self._applied[-1] if self._applied else None

    @property
    def ahead(self) -> int:
        """How many windows are after the cursor."""
        return len(self._ahead)

    @property
    def next_window(self) -> WindowTraffic | None:
        """The window after the cursor."""
        return self._ahead[0] if self._ahead else None

    @property
    def can_step_back(self) -> bool:
        """Whether the window before the cursor and one more are still there."""
        return len(self._applied) > 1

    @property
    def elapsed(self) -> float:
        """Seconds from the beginning to the cursor."""
        current = self.current
        return current.end - self.began if current and self.began is not None else 0.0

    def advance(self) -> None:
        """Move the cursor over the next window, which must be there."""
        window = self._ahead.popleft()
        self._applied.append(window)
        self._apply(window, 1)
        self.passed += 1
        if self.began is None:
            self.began = window.start
        transmit, receive = window.traffic[:2].sum(axis=1) / window.seconds
        self.moments.append(Moment(window.end, float(transmit), float(receive)))
        np.minimum.at(self._first_seen, window.slots, window.start)
        self._last_seen[window.slots] = window.end

    def step_back(self) -> None:
        """Move the cursor back over the window before it; `can_step_back` is true."""
        window = self._applied.pop()
        self._ahead.appendleft(window)
        self._apply(window, -1)
        self.passed -= 1
        self.moments.pop()

    def _apply(self, window: WindowTraffic, sign: int) -> None:
        for totals, delta in zip(self._traffic, window.traffic, strict=True):
            np.add.at(totals, window.slots, sign * delta)
        codes, slots = window.quality_codes, window.quality_slots
        np.add.at(self._qualities, (codes, slots), sign * window.quality_bytes)
        self.figures.add(window.figures, sign)
        if window.health is not None:
            self._apply_health(window.health, sign)

    def _apply_health(self, rows: SlotHealth, sign: int) -> None:
        """Add or subtract health; a least time stays where the cursor steps back."""
        if self._health is None:
            self._health = make_health(self._last_seen.size)
        health = rows.health
        if sign < 0:
            health = -health
            health[:, _LEAST] = 0
        add_health(self._health, rows.slots, health)

    def recent(self, count: int) -> Sequence[WindowTraffic]:
        """Return the last `count` windows before the cursor, the oldest first."""
        return [self._applied[index] for index in range(-min(count, len(self._applied)), 0)]

    # Columns

    @property
    def traffic(self) -> Integers:
        """The totals: a row for each counter of TRAFFIC, a column for each slot."""
        return self._traffic[:, : len(self)]

    @property
    def qualities(self) -> Integers:
        """The totals in bytes: a row for each quality, a column for each slot."""
        return self._qualities[:, : len(self)]

    @property
    def health(self) -> Health | None:
        """The totals of health: a row for each slot; None as long as none is known."""
        return None if self._health is None else self._health[: len(self)]

    @property
    def first_seen(self) -> NDArray[np.float64]:
        """The beginning of the first window of each slot, seconds since the epoch."""
        return self._first_seen[: len(self)]

    # Merging

    def _merge_slots(self, merged: set[int], level: int) -> None:
        owners, owner_of, paths = self.owners, self.owner_of, self.paths
        self.owners, self.owner_of, self.paths = [], [], []
        self._owner_index, self._slots = {}, {}
        renumbered = np.empty(len(paths), np.int32)
        size = self._last_seen.size
        traffic, qualities = self._traffic, self._qualities
        first_seen, last_seen = self._first_seen, self._last_seen
        for slot, (index, path) in enumerate(zip(owner_of, paths, strict=True)):
            owner, rest = owners[index], path
            if slot in merged:
                owner, rest = _coarsen(owner, path, level)
            key = self._add_owner(owner), rest
            new = self._slots.setdefault(key, len(self.paths))
            if new == len(self.paths):
                self.owner_of.append(key[0])
                self.paths.append(rest)
            renumbered[slot] = new
        used = renumbered.size
        self._traffic = np.zeros((len(TRAFFIC), size), np.int64)
        self._qualities = np.zeros((len(QUALITIES), size), np.int64)
        for totals, old in zip(
            (*self._traffic, *self._qualities), (*traffic, *qualities), strict=True
        ):
            np.add.at(totals, renumbered, old[:used])
        if self._health is not None:
            health, self._health = self._health, make_health(size)
            add_health(self._health, renumbered.astype(np.int64), health[:used])
        self._first_seen, self._last_seen = np.full(size, np.inf), np.zeros(size)
        np.minimum.at(self._first_seen, renumbered, first_seen[:used])
        np.maximum.at(self._last_seen, renumbered, last_seen[:used])
        self._applied = deque(_renumber(self._applied, renumbered))
        self._ahead = deque(_renumber(self._ahead, renumbered))
        self.epoch += 1


def _coarsen(owner: Owner, path: Path, level: int) -> tuple[Owner, Path]:
    if level == 0:
        return owner, coarsen_path(path)
    if level == 1:
        return coarsen_owner(owner), coarsen_path(path)
    return REMAINDER, NO_PATH


def _renumber(windows: Sequence[WindowTraffic], renumbered: Slots) -> Iterator[WindowTraffic]:
    for window in windows:
        yield WindowTraffic(
            window.start,
            window.end,
            renumbered[window.slots],
            window.traffic,
            window.flows,
            renumbered[window.quality_slots],
            window.quality_codes,
            window.quality_bytes,
            window.figures,
            _renumber_health(window.health, renumbered),
        )


def _renumber_health(rows: SlotHealth | None, renumbered: Slots) -> SlotHealth | None:
    if rows is None:
        return None
    return SlotHealth(renumbered[rows.slots].astype(np.int64), rows.health)


def select_known(slots: Slots, health: Health | None) -> SlotHealth | None:
    """Return the rows of which health is known, by slot; None if there is none."""
    if health is None:
        return None
    is_known = find_known(health)
    return (
        SlotHealth(slots[is_known].astype(np.int64), health[is_known]) if is_known.any() else None
    )

"""PURE: what flows moved, in columns by slot: counted for their owners, or gathered while pending.

Counted: packets by slot, and what the attribution stage has judged. What a slot has counted belongs
to the owner that the slot has: `settle` leaves it to that owner before the slot gets another one.

Gathered: the packets of a pending flow only add up until its lookup ends. They do so here, without
an object for each batch: a flow that gathers is not returned by `FlowTable.count`.
"""

import numpy as np

from hogpipe.flows.key_index import move_rows, resize
from hogpipe.flows.packet_rows import (
    RECEIVE,
    Counters,
    Flags,
    Integers,
    PacketRows,
    add_up,
    make_delta,
)
from hogpipe.model import FlowDelta

_MANY_SETTLED = 16_384
_NO_TIME = np.iinfo(np.int64).max

_Row = tuple[int, int, int, int, int, int]
"""A slot, the number of an owner, and counters in the order of TrafficCounts."""


class CountedTraffic:
    """Columns for as many slots as `fit` was called with."""

    def __init__(self) -> None:
        self._counters: Counters = np.zeros((0, 4), np.int64)
        self._has_moved: Flags = np.zeros(0, np.bool_)
        """Whether a slot has counted something: many are looked through for few that have."""
        self._settled: list[_Row] = []
        """What flows moved under other owners than those that their slots have now."""

    def fit(self, size: int) -> None:
        """Give all columns `size` rows."""
        self._counters = resize(self._counters, size)
        self._has_moved = resize(self._has_moved, size)

    def move(self, vacated: Integers, taken: Integers) -> None:
        """Move rows from slots to others (`KeyIndex.compact`)."""
        move_rows(vacated, taken, self._counters, self._has_moved)
        places = dict(zip(vacated.tolist(), taken.tolist(), strict=True))
        self._settled = [(places.get(slot, slot), *row) for slot, *row in self._settled]

    def count(self, rows: PacketRows) -> None:
        """Count packets for the owners that their slots have."""
        add_up(self._counters, rows.slots, rows)
        self._has_moved[rows.slots] = True

    def add(self, slots: Integers, numbers: Integers, counters: Counters, owner: Integers) -> None:
        """Add counters of slots, each for the owner with this number; `owner` is that of slots."""
        is_own = owner[slots] == numbers
        np.add.at(self._counters, slots[is_own], counters[is_own])
        self._has_moved[slots[is_own & counters.any(axis=1)]] = True
        columns = (slots[~is_own, None], numbers[~is_own, None], counters[~is_own])
        self._settled += map(tuple, np.concatenate(columns, axis=1).tolist())

    def settle(self, slots: Integers, owner: Integers) -> None:
        """Leave what distinct slots have counted to their owners; `owner` is that of slots."""
        slots = slots[self._has_moved[slots]]
        if len(slots):
            columns = (slots[:, None], owner[slots, None], self._counters[slots])
            self._settled += map(tuple, np.concatenate(columns, axis=1).tolist())
            self._counters[slots] = 0
            self._has_moved[slots] = False

    def have_moved(self) -> Flags:
        """Return which slots have counted something, be it bytes without a packet."""
        return self._has_moved

    def have_traffic(self) -> Flags:
        """Return which slots have counted something, be it for a former owner."""
        have_traffic = self._has_moved.copy()
        have_traffic[[row[0] for row in self._settled]] = True
        return have_traffic

    @property
    def settled_owners(self) -> set[int]:
        """The numbers of the owners of what was settled."""
        return {row[1] for row in self._settled}

    @property
    def has_many_settled(self) -> bool:
        """Whether it takes much memory until the next drain what flows moved under other owners."""
        return len(self._settled) > _MANY_SETTLED

    def drain(self, owner: Integers) -> tuple[Integers, Integers, Counters]:
        """Return slots, the numbers of owners and counters; `owner` is the column of slots."""
        slots = np.flatnonzero(self._has_moved)
        counters, numbers = self._counters.take(slots, axis=0), owner[slots]
        self._counters[slots] = 0
        self._has_moved[slots] = False
        if self._settled:
            settled = np.array(self._settled, np.int64)
            self._settled = []
            slots = np.concatenate([slots, settled[:, 0]])
            numbers = np.concatenate([numbers, settled[:, 1]])
            counters = np.concatenate([counters, settled[:, 2:]])
        return slots, numbers, counters


class GatheredTraffic:
    """Columns for as many slots as `fit` was called with."""

    def __init__(self) -> None:
        self.is_open: Flags = np.zeros(0, np.bool_)
        """Whether packets of a slot gather."""
        self._counters: Counters = np.zeros((0, 4), np.int64)
        self._has_gathered: Flags = np.zeros(0, np.bool_)
        """Whether a slot has gathered something."""
        self._first_ns: Integers = np.zeros(0, np.int64)
        self._last_ns: Integers = np.zeros(0, np.int64)

    def fit(self, size: int) -> None:
        """Give all columns `size` rows."""
        self.is_open = resize(self.is_open, size)
        self._counters = resize(self._counters, size)
        self._has_gathered = resize(self._has_gathered, size)
        self._first_ns, self._last_ns = resize(self._first_ns, size), resize(self._last_ns, size)

    def move(self, vacated: Integers, taken: Integers) -> None:
        """Move rows from slots to others (`KeyIndex.compact`)."""
        move_rows(vacated, taken, self.is_open, self._counters, self._has_gathered)
        move_rows(vacated, taken, self._first_ns, self._last_ns)

    def start(self, slots: Integers) -> None:
        """Set the columns of new slots."""
        self.is_open[slots] = False
        self._first_ns[slots] = _NO_TIME

    def add(self, rows: PacketRows) -> None:
        """Add packets."""
        add_up(self._counters, rows.slots, rows)
        self._has_gathered[rows.slots] = True
        # A time of 0 is unknown, for all packets of a source.
        first_ns = np.where(rows.first_ns == 0, _NO_TIME, rows.first_ns)
        np.minimum.at(self._first_ns, rows.slots, first_ns)
        np.maximum.at(self._last_ns, rows.slots, rows.last_ns)

    def take(self, slots: Integers) -> list[FlowDelta | None]:
        """Return what each of distinct slots has gathered, None for nothing, and drop it."""
        places = np.flatnonzero(self.has_traffic(slots))
        taken: list[FlowDelta | None] = [None] * len(slots)
        if not len(places):
            return taken
        slots = slots[places]
        first_ns, last_ns = self._first_ns[slots], self._last_ns[slots]
        columns = (places, self._counters[slots], first_ns, last_ns)
        for place, counters, first, last in zip(*(one.tolist() for one in columns), strict=True):
            taken[place] = make_delta(counters, False, 0 if first == _NO_TIME else first, last)
        self._counters[slots] = self._last_ns[slots] = 0
        self._has_gathered[slots] = False
        self._first_ns[slots] = _NO_TIME
        return taken

    def has_traffic(self, slots: Integers | slice = slice(None)) -> Flags:
        """Return which slots have gathered something."""
        return self._has_gathered[slots]

    @property
    def total_bytes(self) -> int:
        """Bytes of both directions, of all slots."""
        return int(self._counters[:, ::RECEIVE].sum())

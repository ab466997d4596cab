"""PURE: what pending flows moved since it was taken last, in columns by slot.

The packets of a pending flow only add up until its lookup ends. They do so here, without an object
for each batch: a flow that gathers is not returned by `FlowTable.count`.
"""

import numpy as np

from hogpipe.flows.key_index import resize
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

_NO_TIME = np.iinfo(np.int64).max


class GatheredTraffic:
    """Columns for as many slots as `fit` was called with."""

    def __init__(self) -> None:
        self.is_open: Flags = np.zeros(0, np.bool_)
        """Whether packets of a slot gather."""
        self._counters: Counters = np.zeros((0, 4), np.int64)
        self._first_ns: Integers = np.zeros(0, np.int64)
        self._last_ns: Integers = np.zeros(0, np.int64)

    def fit(self, size: int) -> None:
        """Give all columns `size` rows."""
        self.is_open = resize(self.is_open, size)
        self._counters = resize(self._counters, size)
        self._first_ns, self._last_ns = resize(self._first_ns, size), resize(self._last_ns, size)

    def start(self, slots: Integers) -> None:
        """Set the columns of new slots."""
        self.is_open[slots] = False
        self._first_ns[slots] = _NO_TIME

    def add(self, rows: PacketRows) -> None:
        """Add packets."""
        add_up(self._counters, rows.slots, rows)
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
        self._first_ns[slots] = _NO_TIME
        return taken

    def has_traffic(self, slots: Integers | slice = slice(None)) -> Flags:
        """Return which slots have gathered something."""
        counters = self._counters[slots]
        has_traffic: Flags = (counters[:, 1] | counters[:, RECEIVE + 1]) != 0
        return has_traffic

    @property
    def total_bytes(self) -> int:
        """Bytes of both directions, of all slots."""
        return int(self._counters[:, ::RECEIVE].sum())

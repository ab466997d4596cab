"""PURE: which flows have been counted in which groups in a window.

In: flows, by the slots and ids that the flow table gave them, with their groups. Out: which of them
their groups have not counted yet.

A flow is in one group as a rule, which a column by slot has. If its owner changes it is in another
group too; such pairs are in a set, at most `max_changes` of them. A flow that has no place there is
not counted in its group, but in `uncounted`.

Known limit: a flow that is evicted from the flow table and comes back in the same window has
another id then, and is counted again; so is one that gets another slot within a window.
"""

import numpy as np

from hogpipe.flows.key_index import resize
from hogpipe.flows.packet_rows import Flags, Integers

_NO_ID = -1
_MIN_SIZE = 1024


class CountedFlows:
    """The flows that were counted in the present window."""

    def __init__(self, max_changes: int) -> None:
        self._max_changes = max_changes
        self._ids: Integers = np.full(0, _NO_ID, np.int64)
        self._groups: Integers = np.zeros(0, np.int64)
        self._rows: Integers = np.zeros(0, np.int64)
        self._used = 0
        """How many slots there were in the present window, up to the highest one."""
        self._changes: set[tuple[int, int]] = set()
        """(id, group), where the column has another group for this flow."""
        self.uncounted = 0
        """How often a flow was not counted because of `max_changes`."""

    @property
    def size(self) -> int:
        """The number of slots that have room."""
        return len(self._ids)

    def start_window(self) -> None:
        """Drop what was counted; the memory, too, where slots were far fewer than before."""
        if len(self._ids) > max(4 * self._used, _MIN_SIZE):
            self._resize(2 * self._used)
        self._used = 0
        self._ids.fill(_NO_ID)
        self._changes = set()
        self.uncounted = 0

    def count(self, slots: Integers, ids: Integers, groups: Integers) -> Flags:
        """Return which rows a flow is in that its group has not counted yet.

        A slot may be in several rows, which have one id.
        """
        self._fit(int(slots.max(initial=-1)) + 1)
        rows = np.arange(len(slots))
        self._rows[slots] = rows  # of several rows, the last one has it
        is_new: Flags = (self._rows[slots] == rows) & (self._ids[slots] != ids)
        self._ids[slots[is_new]], self._groups[slots[is_new]] = ids[is_new], groups[is_new]
        for row in np.flatnonzero(self._groups[slots] != groups).tolist():
            is_new[row] = self._count_change((int(ids[row]), int(groups[row])))
        return is_new

    def _count_change(self, change: tuple[int, int]) -> bool:
        if change in self._changes:
            return False
        if len(self._changes) >= self._max_changes:
            self.uncounted += 1
            return False
        self._changes.add(change)
        return True

    def _fit(self, size: int) -> None:
        before = len(self._ids)
        self._used = max(self._used, size)
        if size > before:
            self._resize(max(size, 2 * before))
            self._ids[before:] = _NO_ID

    def _resize(self, size: int) -> None:
        self._ids, self._groups = resize(self._ids, size), resize(self._groups, size)
        self._rows = resize(self._rows, size)

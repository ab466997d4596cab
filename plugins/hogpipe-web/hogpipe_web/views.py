"""PURE: one question about the live windows: traffic by a dimension, of what a filter selects.

In: the ring and each `Update` of it. Out: `snapshot`, the whole picture, and `advance`, what one
window changed. A snapshot and the changes after it give the same picture as a later snapshot.

Each slot of the ring's groups belongs to a row of the view. Windows are summed by row in columns;
only newly assigned slots are examined one by one. A row without traffic in the span is released,
and its number is never used again.

Known limit: sums are exact up to 2**53 bytes in a window.
"""

from collections.abc import Iterable

import numpy as np

from hogpipe_web.dimensions import DIMENSIONS, KEYS, Values
from hogpipe_web.groups import REST, Integers
from hogpipe_web.messages import REST_ID, Change, Query, Row, Snapshot, describe_group
from hogpipe_web.ring import COUNTERS, Ring, Update, Window

TOP = 24
"""The groups that a snapshot has the past of."""
_OUT = 0
"""The row of what the filter does not select; it is not shown."""
_REST_ROW = 1


class View:
    """The traffic of a ring by `query`."""

    def __init__(self, ring: Ring, query: Query) -> None:
        self._ring = ring
        self._query = query
        self._dimension = DIMENSIONS[query.by]
        self._filter = [(DIMENSIONS[name], values) for name, values in query.where]
        # While groups are folded, the rows of both those before and those after are there.
        self._size = 2 * ring.groups.size + 2
        self._clear()
        self._recount()

    def advance(self, update: Update) -> Change | None:
        """Take a window over; return what changed, None if only a snapshot describes it."""
        if update.restarted:
            self._clear()
        before = self._sums.copy()
        self._find_rows(update.window)
        now = self._sum_up(update.window.slots, update.window.counts)
        if update.folded or update.restarted:
            self._recount()
        else:
            self._sums += now
            for window in update.expired:
                self._sums -= self._sum_up(window.slots, window.counts)
        if update.restarted:
            return None
        used, were_used = self._sums.any(axis=1), before.any(axis=1)
        changed = (self._sums != before).any(axis=1) | now.any(axis=1)
        changed[_OUT] = False
        gone = [row for row in np.flatnonzero(were_used & ~used).tolist() if row > _REST_ROW]
        new = [row for row in np.flatnonzero(used & ~were_used).tolist() if row > _REST_ROW]
        change = Change(
            window=(update.window.start, update.window.end),
            expired=len(update.expired),
            removed=[self._ids[row] for row in gone],
            groups=[describe_group(self._ids[r], self._dimension, self._picked[r]) for r in new],
            rows=self._list_rows(np.flatnonzero(changed & (used | ~were_used)), now),
            total=now[_REST_ROW:, :2].sum(axis=0).tolist(),
            sums=self._sums[_REST_ROW:].sum(axis=0).tolist(),
            losses=self._ring.losses,
            present=self._list_present(),
        )
        for row in gone:
            del self._rows[self._picked[row]]
            self._free.append(row)
        return change

    def snapshot(self) -> Snapshot:
        """Return the whole picture."""
        windows = list(self._ring.windows)
        shown = np.flatnonzero(self._sums.any(axis=1))
        shown = shown[shown != _OUT]
        moved = self._sums[:, 0] + self._sums[:, 1]
        named = shown[shown != _REST_ROW]
        top = named[np.argsort(-moved[named], kind="stable")][:TOP]
        # Columns of a window: what is out, each of the top, and everything else.
        column = np.full(self._size, len(top) + 1)
        column[_OUT] = 0
        column[top] = np.arange(1, len(top) + 1)
        past = np.zeros((2, len(windows), len(top) + 2), np.int64)
        for index, window in enumerate(windows):
            columns = column[self._row_of_slot[window.slots]]
            for side in (0, 1):
                past[side, index] = np.bincount(columns, window.counts[:, side], len(top) + 2)
        newest = windows[-1] if windows else None
        return Snapshot(
            by=self._query.by,
            windows=[(window.start, window.end) for window in windows],
            totals=_both(past[:, :, 1:].sum(axis=2)),
            top=[
                (self._ids[row], *_both(past[:, :, index]))
                for index, row in enumerate(top.tolist(), 1)
            ],
            groups=[
                describe_group(self._ids[row], self._dimension, self._picked[row])
                for row in named.tolist()
            ],
            rows=self._list_rows(
                shown,
                self._sum_up(newest.slots, newest.counts) if newest else np.zeros_like(self._sums),
            ),
            sums=self._sums[_REST_ROW:].sum(axis=0).tolist(),
            losses=self._ring.losses,
            present=self._list_present(),
        )

    def _find_rows(self, window: Window) -> None:
        """Find the rows of slots that are new, or have other values than before."""
        groups = self._ring.groups
        for slot in window.slots.tolist():
            values = groups.values_of(slot)
            if values is self._seen[slot] or values is None:  # of REST it is None
                continue
            self._seen[slot] = values
            self._row_of_slot[slot] = self._find_row(values)
            self._present.update(
                key for key, value in zip(KEYS, values, strict=True) if value is not None
            )

    def _find_row(self, values: Values) -> int:
        for dimension, wanted in self._filter:
            if dimension.pick(values) != wanted:
                return _OUT
        picked = self._dimension.pick(values)
        row = self._rows.get(picked)
        if row is None:
            row = self._free.pop()
            self._rows[picked] = row
            self._picked[row] = picked
            self._ids[row] = self._next_id
            self._next_id += 1
        return row

    def _sum_up(self, slots: Integers, counts: Integers) -> Integers:
        """Return the sums of a window by row."""
        rows = self._row_of_slot[slots]
        sums = np.zeros((self._size, len(COUNTERS)), np.int64)
        for column in range(len(COUNTERS)):
            sums[:, column] = np.bincount(rows, counts[:, column], self._size)
        return sums

    def _recount(self) -> None:
        """Sum all windows of the ring up."""
        self._sums[:] = 0
        for window in self._ring.windows:
            self._find_rows(window)
            self._sums += self._sum_up(window.slots, window.counts)

    def _clear(self) -> None:
        self._seen: list[Values | None] = [None] * self._ring.groups.size
        """The values of each slot when its row was found."""
        self._row_of_slot: Integers = np.full(self._ring.groups.size, _OUT, np.int64)
        self._row_of_slot[REST] = _OUT if self._filter else _REST_ROW
        self._rows: dict[Values, int] = {}
        self._picked: list[Values] = [()] * self._size
        self._free = list(range(self._size - 1, _REST_ROW, -1))
        self._ids = [REST_ID] * self._size
        self._next_id = REST_ID + 1
        self._sums: Integers = np.zeros((self._size, len(COUNTERS)), np.int64)
        self._present: set[str] = set()

    def _list_rows(self, rows: Integers, now: Integers) -> list[Row]:
        numbers = np.hstack((now[rows, :2], self._sums[rows])).tolist()
        return [
            (self._ids[row], *counts) for row, counts in zip(rows.tolist(), numbers, strict=True)
        ]

    def _list_present(self) -> list[str]:
        return [name for name, one in DIMENSIONS.items() if one.has_values(self._present)]


def _both(sides: Iterable[Integers]) -> tuple[list[int], list[int]]:
    transmit, receive = sides
    return transmit.tolist(), receive.tolist()

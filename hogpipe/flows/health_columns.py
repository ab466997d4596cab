"""PURE: columns of the health of TCP connections, which pass between the stages beside counters.

In: rows of `Health`, one for a connection and an epoch, or sums of such. Out: sums by group; they
are exact however rows are summed up, in whichever order: all columns are sums but one minimum.

A row of zeros says nothing of the health: `KNOWN` counts the connections of which it is known.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from hogpipe.flows.key_index import move_rows, resize
from hogpipe.flows.packet_rows import Flags, Health, Integers
from hogpipe.model import TcpHealth

FIELDS = TcpHealth.__struct_fields__
"""What the columns have, in their order; `KNOWN` is the last one."""
KNOWN = len(FIELDS)
COLUMNS = KNOWN + 1
_LEAST = FIELDS.index("rtt_min_us")
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True, eq=False)
class SlotHealth:
    """The health of flows of the flow table, by their slots; a slot may be in several rows."""

    slots: Integers
    health: Health

    def __len__(self) -> int:
        return len(self.slots)


def make_health(rows: int) -> Health:
    """Return rows of which nothing is known."""
    return np.zeros((rows, COLUMNS), np.int64)


def add_health(total: Health, places: Integers, health: Health) -> None:
    """Add rows to those of `total` at `places`; a place may come again."""
    flat = total.reshape(-1)
    at = places * COLUMNS
    for column in np.flatnonzero(health.any(axis=0)).tolist():
        if column != _LEAST:
            np.add.at(flat, at + column, health[:, column])
    is_known = health[:, _LEAST] != 0
    if is_known.any():
        at = at[is_known] + _LEAST
        flat[at[flat[at] == 0]] = _NEVER
        np.minimum.at(flat, at, health[is_known, _LEAST])


def sum_health(health: Health, order: Integers, bounds: Integers) -> Health:
    """Return a row for each part of `order`, which are between its `bounds`."""
    places = np.empty(len(health), np.int64)
    places[order] = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    total = make_health(len(bounds) - 1)
    add_health(total, places, health)
    return total


def find_known(health: Health) -> Flags:
    """Return of which rows the health is known."""
    return np.asarray(health[:, KNOWN] != 0)


def decode_health(rows: Iterable[list[int]]) -> list[TcpHealth | None]:
    """Return rows one by one, None where nothing is known."""
    return [
        TcpHealth(**dict(zip(FIELDS, row, strict=False))) if row[KNOWN] else None for row in rows
    ]


@dataclass(frozen=True, slots=True, eq=False)
class OwnedHealth:
    """The health of flows by their slots and by the numbers of owners."""

    slots: Integers
    owners: Integers
    health: Health

    def __len__(self) -> int:
        return len(self.slots)

    def join(self, other: "OwnedHealth") -> "OwnedHealth":
        """Return all rows of both."""
        if not len(self):
            return other
        return OwnedHealth(
            np.concatenate([self.slots, other.slots]),
            np.concatenate([self.owners, other.owners]),
            np.concatenate([self.health, other.health]),
        )


NO_OWNED_HEALTH = OwnedHealth(np.zeros(0, np.int64), np.zeros(0, np.int64), make_health(0))


class FlowHealth:
    """The health of the flows of a flow table since its last drain, by slot, of `size` slots.

    Few flows have any, so that only these have a row. The health of a slot belongs to the owner
    that the slot has at the drain, but for what is settled with another one.
    """

    def __init__(self, size: int) -> None:
        self._row: Integers = np.zeros(size, np.int64)
        """The row of each slot, behind the first one; 0 where it has none."""
        self._health = make_health(0)
        self._used = 0
        """Rows that were taken since the last drain."""
        self._settled = NO_OWNED_HEALTH

    def fit(self, size: int) -> None:
        """Give all columns `size` rows."""
        self._row = resize(self._row, size)

    def move(self, vacated: Integers, taken: Integers) -> None:
        """Move rows from slots to others (`KeyIndex.compact`)."""
        move_rows(vacated, taken, self._row)
        slot_of = np.arange(len(self._row))
        slot_of[vacated] = taken
        self._settled = replace(self._settled, slots=slot_of[self._settled.slots])

    def free(self, slots: Integers) -> None:
        """Drop the health of slots."""
        self._row[slots] = 0

    def add(self, rows: SlotHealth) -> None:
        """Add rows."""
        new = np.unique(rows.slots[self._row[rows.slots] == 0])
        needed = self._used + len(new)
        if needed > len(self._health):
            self._health = resize(self._health, max(needed, 2 * self._used))
        self._row[new] = np.arange(self._used, needed) + 1
        self._used = needed
        add_health(self._health, self._row[rows.slots] - 1, rows.health)

    def add_owned(self, rows: "OwnedHealth") -> None:
        """Add rows of given owners."""
        self._settled = self._settled.join(rows)

    def settle(self, slots: Integers, owner: Integers) -> None:
        """Leave the health of slots to the owners that they have in the column `owner`."""
        slots = slots[self._row[slots] != 0]
        if len(slots):
            health = self._health.take(self._row[slots] - 1, axis=0)
            self.add_owned(OwnedHealth(slots, owner[slots], health))
            self.free(slots)

    @property
    def settled_owners(self) -> set[int]:
        """The numbers of the owners of what was settled."""
        return {*self._settled.owners.tolist()}

    def drain(self, is_ready: Flags, owner: Integers) -> "OwnedHealth":
        """Return what was settled, and of the slots that are ready; `owner` is that of slots."""
        slots = np.flatnonzero((self._row != 0) & is_ready)
        health = self._health.take(self._row[slots] - 1, axis=0)
        self.free(slots)
        left = np.flatnonzero(self._row)
        self._health = self._health.take(self._row[left] - 1, axis=0)
        self._used = len(left)
        self._row[left] = np.arange(self._used) + 1
        settled, self._settled = self._settled, NO_OWNED_HEALTH
        return settled.join(OwnedHealth(slots, owner[slots], health))

    def find_ready(self, is_ready: Flags) -> Flags:
        """Return which slots have health that the next drain returns."""
        ready: Flags = (self._row != 0) & is_ready
        ready[self._settled.slots] = True
        return ready

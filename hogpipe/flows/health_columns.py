"""PURE: columns of the health of TCP connections, which pass between the stages beside counters.

In: rows of `Health`, one for a connection and an epoch, or sums of such. Out: sums by group; they
are exact however rows are summed up, in whichever order: all columns are sums but one minimum.

A row of zeros says nothing of the health: `KNOWN` counts the connections of which it is known.
"""

from collections.abc import Iterable
from dataclasses import dataclass

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


class FlowHealth:
    """The health of the flows of a flow table since its last drain, by slot, of `size` slots."""

    def __init__(self, size: int) -> None:
        self._health = make_health(size)
        self._has_health: Flags = np.zeros(size, np.bool_)

    def fit(self, size: int) -> None:
        """Give all columns `size` rows."""
        self._health = resize(self._health, size)
        self._has_health = resize(self._has_health, size)

    def move(self, vacated: Integers, taken: Integers) -> None:
        """Move rows from slots to others (`KeyIndex.compact`)."""
        move_rows(vacated, taken, self._health, self._has_health)

    def free(self, slots: Integers) -> None:
        """Drop the health of slots."""
        self._health[slots] = 0
        self._has_health[slots] = False

    def add(self, rows: SlotHealth) -> None:
        """Add rows."""
        add_health(self._health, rows.slots, rows.health)
        self._has_health[rows.slots] = True

    def drain(self, is_ready: Flags) -> tuple[Integers, Health]:
        """Return the slots whose health is ready and was added, and their health."""
        slots = np.flatnonzero(self.find_ready(is_ready))
        health = self._health.take(slots, axis=0)
        self.free(slots)
        return slots, health

    def find_ready(self, is_ready: Flags) -> Flags:
        """Return which slots have health that the next drain returns."""
        return self._has_health & is_ready

"""PURE: the health of connections as the BPF programs count it, in columns.

In: rows of `connection_health` (shapes.py), one beside each row of `connections`. Out: the columns
of flows/health_columns.py with the cookies of the sockets. Nothing fails: each value has a meaning.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hogpipe.flows.health_columns import COLUMNS, FIELDS, KNOWN, make_health
from hogpipe.flows.packet_rows import Flags, Health
from hogpipe.linux.bpf.shapes import TCP_HEALTH

RawHealth = NDArray[np.void]
"""An array of TCP_HEALTH."""

_RAW = np.dtype((np.void, TCP_HEALTH.itemsize))
_NAMES = {"transmit_payload_bytes": "transmit_payload", "receive_payload_bytes": "receive_payload"}
"""What the fields of TcpHealth are called in C where that differs."""


@dataclass(frozen=True, slots=True, eq=False)
class HealthRows:
    """The health of a connection in each row, by the cookie of its socket."""

    cookies: NDArray[np.uint64]
    health: Health

    def __len__(self) -> int:
        return len(self.cookies)

    def take(self, rows: Flags) -> "HealthRows":
        """Return these rows."""
        return HealthRows(self.cookies[rows], self.health[rows])


NO_HEALTH = HealthRows(np.zeros(0, np.uint64), make_health(0))


def copy_raw(rows: RawHealth) -> RawHealth:
    """Return a contiguous copy of rows that need not be contiguous."""
    return rows.view(_RAW).copy().view(TCP_HEALTH)


def find_counted(rows: RawHealth) -> Flags:
    """Return which rows have counted something."""
    words = np.ascontiguousarray(rows).view(np.uint64).reshape(len(rows), -1)
    return np.asarray(words.any(axis=1))


def decode_raw(cookies: NDArray[np.uint64], rows: RawHealth) -> HealthRows:
    """Return rows in columns; all of them are known, be they zeros."""
    health = np.empty((len(rows), COLUMNS), np.int64)
    for column, field in enumerate(FIELDS):
        health[:, column] = rows[_NAMES.get(field, field)]
    health[:, KNOWN] = 1
    return HealthRows(cookies, health)


def join_health_rows(one: HealthRows, other: HealthRows) -> HealthRows:
    """Return all rows of both."""
    if not len(one):
        return other
    if not len(other):
        return one
    return HealthRows(
        np.concatenate([one.cookies, other.cookies]), np.concatenate([one.health, other.health])
    )

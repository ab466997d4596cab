"""Sums of many packets by their wire key, and the order of rows that sums are made in."""

from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hogpipe.capture.decode.vector_ip import PacketColumns

# Odd numbers without a pattern (fractional parts of square roots of primes, as in SHA-512).
_FACTORS = np.array(
    [0x6A09E667F3BCC909, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
     0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179], np.uint64
)  # fmt: skip
_HALF = np.uint64(32)


class Sums(NamedTuple):
    """For each packed wire key, in order of first appearance: packets, IP bytes, a SYN seen.

    And when the first and the last of them passed, nanoseconds since the epoch.
    """

    keys: list[bytes]
    packets: list[int]
    bytes: list[int]
    opened: list[bool]
    first_ns: list[int]
    last_ns: list[int]


def no_sums() -> Sums:
    """Return the sums of nothing."""
    return Sums([], [], [], [], [], [])


def sum_by_key(columns: PacketColumns, times_ns: NDArray[np.int64]) -> Sums:
    """Return the sums of `columns`, exact whatever the keys are; `times_ns` has all frames'."""
    if not len(columns.frame):
        return no_sums()
    words = columns.keys.view(np.uint64).reshape(len(columns.keys), -1)
    order, bounds = order_by_key(words)
    starts = bounds[:-1]
    packets = bounds[1:] - starts
    totals = np.add.reduceat(columns.lengths[order], starts)
    opened = np.logical_or.reduceat(columns.opened[order], starts)
    times = times_ns[columns.frame[order]]
    began, ended = np.minimum.reduceat(times, starts), np.maximum.reduceat(times, starts)
    first = np.minimum.reduceat(order, starts)
    appearance = first.argsort()
    return Sums(
        columns.keys[first[appearance]].tolist(),
        packets[appearance].tolist(),
        totals[appearance].tolist(),
        opened[appearance].tolist(),
        began[appearance].tolist(),
        ended[appearance].tolist(),
    )


def hash_rows(rows: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a hash of each row, of eight columns at the most."""
    return (rows ^ rows >> _HALF) @ _FACTORS[: rows.shape[1]]


def order_by_key(keys: NDArray[np.uint64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return an order of the rows that brings equal ones together, and the bounds of their runs.

    Sorts by a hash, and checks with the keys themselves; where two keys have the same hash, which
    chance will not bring about and malice might, sorts by the keys.
    """
    hashes = hash_rows(keys)
    order = hashes.argsort()
    bounds = _find_bounds(keys.take(order, axis=0))
    hashes = hashes[order]
    if len(bounds) - 2 > np.count_nonzero(hashes[1:] != hashes[:-1]):
        order = np.lexsort(keys.T)
        bounds = _find_bounds(keys.take(order, axis=0))
    return order, bounds


def _find_bounds(rows: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Return the first row of each run of equal ones, and at last the number of rows."""
    bounds = np.empty(len(rows) + 1, np.bool_)
    bounds[0] = bounds[-1] = True
    # A fold over five columns is several times faster than any(axis=1) over short rows.
    bounds[1:-1] = reduce(np.logical_or, (rows[1:] != rows[:-1]).T)
    return bounds.nonzero()[0]

"""PURE: equal rows of 64-bit words brought together.

In: rows of up to eight words. Out: an order in which equal rows are neighbours. The result is exact
whatever the rows are, also where an attacker chooses them so that their hashes collide.
"""

from functools import reduce

import numpy as np
from numpy.typing import NDArray

# Odd numbers without a pattern (fractional parts of square roots of primes, as in SHA-512).
_FACTORS = np.array(
    [0x6A09E667F3BCC909, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
     0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179], np.uint64
)  # fmt: skip
_HALF = np.uint64(32)


def hash_rows(rows: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a hash of each row, of eight columns at the most."""
    return (rows ^ rows >> _HALF) @ _FACTORS[: rows.shape[1]]


def order_by_key(keys: NDArray[np.uint64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return an order of the rows in which equal rows are neighbours, and the bounds of their runs.

    Sorts by hash and then compares the rows themselves. Where two different rows have one hash,
    which takes malice rather than chance, sorts by the rows, which is slower.
    """
    hashes = hash_rows(keys)
    order = hashes.argsort()
    bounds = _find_bounds(keys.take(order, axis=0))
    hashes = hashes[order]
    if len(bounds) - 2 > np.count_nonzero(hashes[1:] != hashes[:-1]):
        order = np.lexsort(keys.T)
        bounds = _find_bounds(keys.take(order, axis=0))
    return order, bounds


def count_distinct(rows: NDArray[np.uint64]) -> int:
    """Return the number of different rows."""
    return len(order_by_key(rows)[1]) - 1


def find_heads(keys: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Return the first row of each distinct key, in the order of the rows."""
    order, bounds = order_by_key(keys)
    heads: NDArray[np.intp] = np.minimum.reduceat(order, bounds[:-1])
    heads.sort()
    return heads


def find_groups(keys: NDArray[np.uint64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the first row of each distinct key, in the order of the rows.

    And for each row the place of its key among those.
    """
    order, bounds = order_by_key(keys)
    if len(bounds) - 1 == len(keys):
        rows = np.arange(len(keys))
        return rows, rows
    heads: NDArray[np.intp] = np.minimum.reduceat(order, bounds[:-1])
    by_row = heads.argsort()
    places, of_groups = np.empty(len(keys), np.intp), np.empty(len(heads), np.intp)
    of_groups[by_row] = np.arange(len(heads))
    places[order] = np.repeat(of_groups, np.diff(bounds))
    return heads[by_row], places


def are_equal(rows: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return which rows equal those at the same place in `others`."""
    # A fold over the columns is several times faster than all(axis=1) over short rows.
    return reduce(np.logical_and, (rows == others).T)


def _find_bounds(rows: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Return the first row of each run of equal rows, and then the number of rows."""
    bounds = np.empty(len(rows) + 1, np.bool_)
    bounds[0] = bounds[-1] = True
    bounds[1:-1] = ~are_equal(rows[1:], rows[:-1])
    return bounds.nonzero()[0]

"""PURE: equal rows of 64-bit words brought together.

In: rows of up to eight words. Out: an order in which equal rows are neighbours, or for each row the
first one that equals it. The result is exact whatever the rows are, also where an attacker chooses
them so that their hashes collide.
"""

import secrets
from functools import reduce

import numpy as np
from numpy.typing import NDArray

# Odd numbers without a pattern (fractional parts of square roots of primes, as in SHA-512).
_FACTORS = np.array(
    [0x6A09E667F3BCC909, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
     0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179], np.uint64
)  # fmt: skip
# Of keys that strangers choose, where equal hashes cost time.
_SECRET_FACTORS = np.array([secrets.randbits(64) | 1 for _ in _FACTORS], np.uint64)
_HALF = np.uint64(32)
_MIN_PLACE_BITS = 8

UNUSED = -1
"""At a place: no key was there since it was made."""
REMOVED = -2
"""At a place: the key that was there is gone."""
_CLAIMED = -3
"""Claims are at most this."""


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

    And for each row the place of its key among those. Nothing is sorted.
    """
    bits = max((2 * len(keys)).bit_length(), _MIN_PLACE_BITS)
    factors = _SECRET_FACTORS[: keys.shape[1]]
    at = (((keys ^ keys >> _HALF) @ factors) >> np.uint64(64 - bits)).astype(np.int64)
    first, _ = claim_places(np.full(1 << bits, UNUSED, np.int32), at, keys)
    is_first = first == np.arange(len(keys))
    return is_first.nonzero()[0], (is_first.cumsum() - 1).take(first)


def claim_places(
    places: NDArray[np.int32], at: NDArray[np.int64], keys: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], int]:
    """Bring equal keys together: claim one of `places` for each different key.

    A key tries the places from `at` on, and takes the first one that is UNUSED or REMOVED; others
    are not free. Returns for each row the first one with its key, and how many places were UNUSED.
    `at` has the place of each key afterwards, which holds a number that is no slot.

    Equal keys meet the same places in the same rounds, so that one claim of the first of them is
    all that it takes to find the others.
    """
    first, filled = np.arange(len(keys)), 0
    rest, tried = first.copy(), at.copy()
    while len(rest):
        found = places.take(tried)
        # Backwards, so that of several rows the first one has the place.
        free = ((found < 0) & (found > _CLAIMED)).nonzero()[0][::-1]
        places[tried.take(free)] = _CLAIMED - rest.take(free)
        claimed = places.take(tried)
        owner = _CLAIMED - claimed.astype(np.int64)
        goes_on = owner != rest
        filled += int(np.count_nonzero(~goes_on & (found == UNUSED)))
        others = (goes_on & (claimed <= _CLAIMED)).nonzero()[0]
        if len(others):
            rows, owners = rest[others], owner[others]
            is_same = are_equal(keys.take(rows, axis=0), keys.take(owners, axis=0))
            first[rows[is_same]] = owners[is_same]
            goes_on[others[is_same]] = False
        left = goes_on.nonzero()[0]
        rest, tried = rest.take(left), (tried.take(left) + 1) & (len(places) - 1)
        at[rest] = tried
    return first, filled


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

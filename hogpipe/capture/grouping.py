"""Sums of many packets by their wire key."""

from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hogpipe.capture.bulk_packet import PacketColumns

# Odd numbers without a pattern (fractional parts of square roots of primes, as in SHA-512).
_FACTORS = np.array(
    [0x6A09E667F3BCC909, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
     0x510E527FADE682D1], np.uint64
)  # fmt: skip
_HALF = np.uint64(32)


class Sums(NamedTuple):
    """For each packed wire key, in order of first appearance: packets, IP bytes, a SYN seen."""

    keys: list[bytes]
    packets: list[int]
    bytes: list[int]
    opened: list[bool]


def sum_by_key(columns: PacketColumns) -> Sums:
    """Return the sums of `columns`, exact whatever the keys are."""
    frame, keys, lengths, opened = columns
    if not len(frame):
        return Sums([], [], [], [])
    order, starts = _order_by_key(keys)
    first = np.minimum.reduceat(frame[order], starts)
    appearance = np.argsort(first)
    packets = np.diff(starts, append=len(order))[appearance]
    totals = np.add.reduceat(lengths[order], starts)[appearance]
    any_opened = np.logical_or.reduceat(opened[order], starts)[appearance]
    unique = keys[order[starts[appearance]]]
    return Sums(
        unique.view(f"V{unique.itemsize * unique.shape[1]}")[:, 0].tolist(),
        packets.tolist(),
        totals.tolist(),
        any_opened.tolist(),
    )


def _order_by_key(keys: NDArray[np.uint64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return an order of the rows that brings equal ones together, and where each run starts.

    Sorts by a hash, and checks with the keys themselves; where two keys have the same hash, which
    chance will not bring about and malice might, sorts by the keys.
    """
    hashes = (keys ^ keys >> _HALF) @ _FACTORS
    order = np.argsort(hashes)
    changes = _find_changes(keys.take(order, axis=0))
    sorted_hashes = hashes[order]
    if (changes & (sorted_hashes[1:] == sorted_hashes[:-1])).any():
        order = np.lexsort(keys.T)
        changes = _find_changes(keys.take(order, axis=0))
    return order, np.concatenate(([0], np.flatnonzero(changes) + 1))


def _find_changes(rows: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return for each row but the first whether it differs from the one before."""
    # A fold over five columns is several times faster than any(axis=1) over short rows.
    return reduce(np.logical_or, (rows[1:] != rows[:-1]).T)

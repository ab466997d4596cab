"""PURE: rows with the same owner brought together, so that each owner is decoded once.

In: rows, and which of their owners exited. Out: the number of each row's owner, and a row for each
owner. One process owns all rows of a number: the one that had the pid at the earliest record.

Rows of one pid have different owners if one process exited and another one has the pid now.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hogpipe.flows.packet_rows import Flags, Integers
from hogpipe.flows.row_order import order_by_key
from hogpipe.linux.bpf.shapes import BY_LISTENER
from hogpipe.linux.bpf.traffic_rows import Rows, pick_rows


class OwnerGroups(NamedTuple):
    """Owners of rows."""

    numbers: Integers
    """The number of each row's owner, by its first row."""
    firsts: Rows
    """The first row of each owner, with the time of the earliest record."""


def group_owners(rows: Rows, exited: Flags, *apart: NDArray[Any]) -> OwnerGroups:
    """Return the owners of rows; those that differ in the columns `apart` are different ones."""
    key = rows["pid"].astype(np.uint64) << np.uint64(2)
    key |= (rows["flags"] & BY_LISTENER != 0) | exited.astype(np.uint64) << np.uint64(1)
    keys = np.column_stack([key, rows["command"], *apart]).astype(np.uint64, copy=False)
    numbers = np.zeros(len(rows), np.int64)
    if not len(rows):
        return OwnerGroups(numbers, rows)
    order, bounds = order_by_key(keys)
    heads = np.minimum.reduceat(order, bounds[:-1])
    rank = np.empty(len(heads), np.int64)
    by_head = heads.argsort()
    rank[by_head] = np.arange(len(heads))
    numbers[order] = np.repeat(rank, np.diff(bounds))
    firsts = pick_rows(rows, heads[by_head])
    firsts["boot_ns"] = np.minimum.reduceat(rows["boot_ns"][order], bounds[:-1])[by_head]
    return OwnerGroups(numbers, firsts)

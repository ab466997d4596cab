"""PURE: slots of fixed-width keys, found for a whole column of keys at once.

In: keys, rows of 64-bit words. Out: the slot of each, a small number that is an index into other
columns. Nothing raises but MemoryError.

Algorithm
    Open addressing with linear probing, in arrays. All keys of a call probe together: a round looks
    at one place for each key that is not found yet, and few are left after the second round. At
    most half of the places are used. The place of a removed key is used again by the next key that
    meets it; when too many are left, the places are built anew.

    Keys that are added claim the places that they meet. Equal keys meet the same places in the same
    rounds, so that one claim of the first of them is all that it takes to find the others.

Hostile keys
    Strangers choose the keys, so places follow from a hash with factors that each index draws at
    random: whoever cannot read them cannot make keys that collide. Which slot a key gets does not
    depend on them.
"""

import secrets
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hogpipe.flows.row_order import REMOVED, UNUSED, are_equal, claim_places

Keys = NDArray[np.uint64]
Slots = NDArray[np.int32]
Rows = NDArray[np.int64]

ABSENT = UNUSED
"""The slot of a key that has none."""
_NO_SLOTS: Slots = np.zeros(0, np.int32)
_MIN_CAPACITY = 64
_MIN_COMPACTED = 1024  # slots: fewer are not worth a move
_MIN_PLACE_BITS = 12  # so that few keys hardly ever take a second round
_HALF = np.uint64(32)
_WORD_BITS = 64


class KeyIndex:
    """Keys of `words` words, at most `max_keys`; slots are numbered from 0, the lowest free first.

    For one thread at a time.
    """

    def __init__(self, words: int, max_keys: int) -> None:
        self._max_keys = max_keys
        factors = [secrets.randbits(_WORD_BITS) | 1 for _ in range(words)]
        self._factors = np.array(factors, np.uint64)
        self.keys: Keys = np.zeros((min(_MIN_CAPACITY, max_keys), words), np.uint64)
        """The key of each slot."""
        self.is_used: NDArray[np.bool_] = np.zeros(len(self.keys), np.bool_)
        """Whether a slot has a key."""
        self._size = 0
        self._free: Slots = np.arange(len(self.keys) - 1, -1, -1, dtype=np.int32)
        """Free slots, the lowest one last."""
        self._place_of: Slots = np.zeros(len(self.keys), np.int32)
        """The place of each slot that has a key."""
        self._place()

    def __len__(self) -> int:
        return self._size

    @property
    def capacity(self) -> int:
        """The number of slots, free ones included."""
        return len(self.keys)

    @property
    def room(self) -> int:
        """How many keys can be added."""
        return self._max_keys - self._size

    def find(self, keys: Keys) -> Slots:
        """Return the slot of each key, ABSENT of those without one."""
        at = self._hash(keys)
        slots = self._places.take(at)
        has_slot = slots >= 0
        if 2 * np.count_nonzero(has_slot) < len(keys):
            # Mostly new keys: they are not compared with others where nothing is.
            found = np.full(len(keys), ABSENT, np.int32)
            rest = (slots != ABSENT).nonzero()[0]
            at, slots = at[rest], slots[rest]
        else:
            # Below 0 there is no slot, and some row is compared all the same.
            is_key = are_equal(self.keys.take(slots, axis=0, mode="clip"), keys)
            is_key &= has_slot
            if np.count_nonzero(is_key) == len(keys):
                return slots
            found = np.where(is_key, slots, ABSENT)
            rest = ((slots != ABSENT) & ~is_key).nonzero()[0]
            at = (at[rest] + 1) & self._mask
            slots = self._places.take(at)
        while len(rest):
            known = self.keys.take(slots, axis=0, mode="clip")
            is_key = are_equal(known, keys.take(rest, axis=0)) & (slots >= 0)
            found[rest[is_key]] = slots[is_key]
            left = ((slots != ABSENT) & ~is_key).nonzero()[0]
            rest, at = rest.take(left), (at.take(left) + 1) & self._mask
            slots = self._places.take(at)
        return found

    def add(self, keys: Keys) -> Slots:
        """Give each key a slot, and return the slots; no key has one. There must be `room`."""
        return self.add_new(keys)[0]

    def add_new(self, keys: Keys) -> tuple[Slots, Rows]:
        """Give each key a slot, as `add` does; return also the first row of each different key.

        A key that is there more than once has one slot. Slots are given in the order of the rows.
        """
        if 2 * (self._filled + len(keys)) > len(self._places):
            self._place(len(keys))
        at = self._hash(keys)
        first, filled = claim_places(self._places, at, keys)
        self._filled += filled
        rows = (first == np.arange(len(keys))).nonzero()[0]
        if len(rows) > len(self._free):
            self._grow(len(rows) - len(self._free))
        slots = self._free[: -len(rows) - 1 : -1].copy()
        self._free = self._free[: len(self._free) - len(rows)]
        new = keys if len(rows) == len(keys) else keys.take(rows, axis=0)
        if len(slots) and slots[-1] - slots[0] == len(slots) - 1:  # at a third of the cost
            self.keys[slots[0] : slots[-1] + 1] = new
        else:
            self.keys[slots] = new
        self.is_used[slots] = True
        self._size += len(rows)
        self._place_of[slots] = at = at.take(rows)
        self._places[at] = slots
        if len(rows) == len(keys):
            return slots, rows
        by_row = np.empty(len(keys), np.int32)
        by_row[rows] = slots
        return by_row.take(first), rows

    def remove(self, slots: Slots) -> None:
        """Free distinct slots that have keys. Gives back memory where few are left."""
        self.is_used[slots] = False
        self._size -= len(slots)
        self._places[self._place_of[slots]] = REMOVED
        self._shrink()
        if len(self._places) > 2 << _place_bits(self._size):
            self._place()

    def compact(self) -> tuple[Slots, Slots]:
        """Have keys in high slots take low ones, if that gives back much memory.

        Return the slots that are free now, and at the same place those that took their keys: none
        where there is nothing to gain. Other columns follow by `move_rows`.
        """
        if not _MIN_COMPACTED < self.capacity > 8 * self._size:
            return _NO_SLOTS, _NO_SLOTS
        vacated = (self._size + np.flatnonzero(self.is_used[self._size :])).astype(np.int32)
        taken = np.flatnonzero(~self.is_used[: self._size]).astype(np.int32)
        move_rows(vacated, taken, self.keys, self.is_used)
        self._shrink()
        self._place()
        return vacated, taken

    def _shrink(self) -> None:
        """Take in which slots are free; give back memory where the highest of them are many."""
        used = np.flatnonzero(self.is_used)
        needed = int(used[-1]) + 1 if len(used) else 0
        if 4 * max(needed, self._size) < self.capacity > _MIN_CAPACITY:
            self._resize(max(2 * needed, _MIN_CAPACITY))
        self._free = np.flatnonzero(~self.is_used)[::-1].astype(np.int32)

    def _grow(self, missing: int) -> None:
        before = self.capacity
        capacity = max(2 * before, before + missing)
        self._resize(min(capacity, max(self._max_keys, before + missing)))
        new = np.arange(self.capacity - 1, before - 1, -1, dtype=np.int32)
        self._free = np.concatenate([new, self._free])

    def _resize(self, capacity: int) -> None:
        self.keys = resize(self.keys, capacity)
        self.is_used = resize(self.is_used, capacity)
        self._place_of = resize(self._place_of, capacity)

    def _place(self, further: int = 0) -> None:
        """Build the places anew, eight times as many as keys with `further` ones, or more."""
        bits = _place_bits(self._size + further)
        self._mask = np.int64((1 << bits) - 1)
        self._shift = np.uint64(_WORD_BITS - bits)
        self._places: Slots = np.full(1 << bits, ABSENT, np.int32)
        self._filled = self._size
        """How many places have a key, or had one that was removed."""
        slots = np.flatnonzero(self.is_used).astype(np.int32)
        at = self._hash(self.keys.take(slots, axis=0))
        while len(slots):
            is_free = self._places.take(at) < 0
            self._places[at[is_free]] = slots[is_free]  # of several keys, the last one has it
            is_lost = self._places.take(at) != slots
            self._place_of[slots[~is_lost]] = at[~is_lost]
            at, slots = (at[is_lost] + 1) & self._mask, slots[is_lost]

    def _hash(self, keys: Keys) -> NDArray[np.int64]:
        # The highest bits of the product depend on all bits of the words.
        return (((keys ^ keys >> _HALF) @ self._factors) >> self._shift).astype(np.int64)


def _place_bits(keys: int) -> int:
    return max((2 * keys).bit_length() + 2, _MIN_PLACE_BITS)


def resize(column: NDArray[Any], capacity: int) -> NDArray[Any]:
    """Return a column of `capacity` rows with those of `column`, and with zeros behind them."""
    grown = np.zeros((capacity, *column.shape[1:]), column.dtype)
    kept = min(capacity, len(column))
    grown[:kept] = column[:kept]
    return grown


def move_rows(vacated: NDArray[Any], taken: NDArray[Any], *columns: NDArray[Any]) -> None:
    """Move the rows of vacated slots to the slots taken instead; zeros stay behind."""
    for column in columns:
        column[taken] = column[vacated]
        column[vacated] = 0

"""PURE: the groups of the live table: a slot for each, bounded.

In: the values of the records of a window. Out: a slot number for each. A slot is in use while a
window of the ring (ring.py) has traffic in it, and is then freed. Slot `REST` has the remainder of
records, and what finds no room.

Bound: `most` slots. A fifth of them is reserved for groups with fewer values (dimensions.py): where
a process finds no room, its bytes count for its program, its unit and its peer all the same. While
room is short, the smallest of the groups without traffic in the newest window are folded into such
slots, so that new groups find room, whatever short-lived processes a host starts.

Known limit: with more groups than slots in each window, new ones have no slot of their own.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hogpipe_web.dimensions import COARSE, KEYS, Values, coarsen

Integers = NDArray[np.int64]

REST = 0
_RESERVED = 5  # one part in so many
_FOLDED = 4  # one part in so many is folded at a time
_COARSE = KEYS.index(COARSE)


class GroupTable:
    """Assigns slots to values."""

    def __init__(self, most: int) -> None:
        self.size = most + 1
        """The number of slots, `REST` included."""
        self._slots: dict[Values, int] = {}
        self._values: list[Values | None] = [None] * self.size
        self._free = list(range(most, REST, -1))
        self._reserved = most // _RESERVED
        self._uses: Integers = np.zeros(self.size, np.int64)
        """In how many windows of the ring each slot has traffic."""
        self.folded = 0
        """Groups whose traffic was counted with fewer values, since the start."""

    def __len__(self) -> int:
        """Return how many groups have a slot."""
        return len(self._slots)

    def values_of(self, slot: int) -> Values | None:
        """Return the values of a slot in use; None for `REST`."""
        return self._values[slot]

    def used(self) -> list[int]:
        """Return the slots in use, without `REST`."""
        return list(self._slots.values())

    def is_short(self, found: Sequence[Values]) -> bool:
        """Return whether new groups among these find no room."""
        room = len(self._free) - self._reserved
        return len(found) > room and sum(values not in self._slots for values in found) > room

    def assign(self, found: Sequence[Values]) -> Integers:
        """Return a slot for each; the first ones take the room that there is."""
        return np.array([self._find(values) for values in found], np.int64)

    def plan_fold(self, bytes_by_slot: Integers, active: Integers) -> dict[int, int]:
        """Return slots with few bytes to be freed, each with the slot that takes its traffic.

        None of the `active` slots is among them.
        """
        busy = set(active.tolist())
        fine = [
            slot
            for values, slot in self._slots.items()
            if values[_COARSE] is None and slot not in busy
        ]
        fine.sort(key=lambda slot: int(bytes_by_slot[slot]))
        folded = {}
        for slot in fine[: self.size // _FOLDED]:
            values = self._values[slot]
            assert values is not None
            folded[slot] = self._find_coarse(values)
        return folded

    def finish_fold(self, folded: Mapping[int, int]) -> None:
        """Free the folded slots, once the ring has none of them any more."""
        for slot, target in folded.items():
            self._uses[target] += self._uses[slot]
            self._uses[slot] = 0
            self._release(slot)
        self.folded += len(folded)

    def use(self, slots: Integers) -> None:
        """Count one more window with traffic in these slots."""
        self._uses += np.bincount(slots, minlength=self.size)

    def unuse(self, slots: Integers) -> None:
        """Count one window less, and free the slots that are in no window any more."""
        self._uses -= np.bincount(slots, minlength=self.size)
        for slot in np.unique(slots[self._uses[slots] == 0]).tolist():
            if slot != REST:
                self._release(slot)

    def _find(self, values: Values) -> int:
        slot = self._slots.get(values)
        if slot is not None:
            return slot
        if len(self._free) > self._reserved:
            return self._take(values)
        self.folded += 1
        return self._find_coarse(values)

    def _find_coarse(self, values: Values) -> int:
        """Return the slot of the same traffic with fewer values."""
        coarse = coarsen(values)
        while coarse is not None:
            if (slot := self._slots.get(coarse)) is not None:
                return slot
            # Half of what is reserved is for groups without a peer, which are fewer.
            if len(self._free) > (0 if coarse[_COARSE] == 2 else self._reserved // 2):
                return self._take(coarse)
            coarse = coarsen(coarse)
        return REST

    def _take(self, values: Values) -> int:
        slot = self._free.pop()
        self._slots[values] = slot
        self._values[slot] = values
        return slot

    def _release(self, slot: int) -> None:
        values = self._values[slot]
        assert values is not None
        del self._slots[values]
        self._values[slot] = None
        self._free.append(slot)

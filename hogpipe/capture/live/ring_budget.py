"""PURE: how large the kernel's buffer of each interface may be, so that all stay within a bound.

A ring is memory that cannot be swapped out, whether packets pass or not. A host may have hundreds
of veths to containers, most of them idle: where there are several, each gets a quarter of what
another interface gets, and less where what is left would not do for twice as many.
"""

_PART_OF_MANY = 4
_MOST_FULL_RINGS = 16


class RingBudget:
    """Gives out MiB for rings: `each` for an interface, at most 16 times that for all together."""

    def __init__(self, each: int) -> None:
        self._each = each
        self._left = _MOST_FULL_RINGS * each
        self._taken: dict[int, int] = {}

    def take(self, index: int, *, elsewhere: bool, sharers: int) -> int:
        """Return the MiB for the interface of `index`; 0 where nothing is left.

        `sharers` is how many interfaces of its sort (those that lead elsewhere, or those that do
        not) are to have a ring, those with one included.
        """
        share = max(self._left // sharers, min(self._left, 1))
        size = min(self.most(elsewhere=elsewhere, sharers=sharers), share)
        self._left -= size
        self._taken[index] = size
        return size

    def most(self, *, elsewhere: bool, sharers: int) -> int:
        """Return the MiB that an interface gets while there is enough; see `take`."""
        is_of_many = elsewhere and sharers > 1
        return max(self._each // _PART_OF_MANY, 1) if is_of_many else self._each

    def give_back(self, index: int) -> None:
        """Take note that the interface of `index` has no ring any more."""
        self._left += self._taken.pop(index, 0)

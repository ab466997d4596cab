"""PURE: the size of the kernel's capture ring of each interface, within a bound for all together.

A ring is memory that cannot be swapped out, whether packets pass or not. A host may have hundreds
of veths to containers, most of them idle. So where there are several, each gets a quarter of the
ring of another interface, and less where the rest of the budget would not do for all.
"""

_CONTAINER_DIVISOR = 4
_MAX_FULL_RINGS = 16


class RingBudget:
    """Allocates MiB for rings: `each` for an interface, at most 16 times that for all together."""

    def __init__(self, each: int) -> None:
        self._each = each
        self._left = _MAX_FULL_RINGS * each
        self._allocated: dict[int, int] = {}

    def allocate(self, index: int, *, container_veth: bool, sharers: int) -> int:
        """Return the MiB for the interface of `index`; 0 where the budget is spent.

        `sharers` is how many interfaces of its kind (veths to containers, or others) are to have a
        ring, those that have one included.
        """
        share = max(self._left // sharers, min(self._left, 1))
        size = min(self.full_size(container_veth=container_veth, sharers=sharers), share)
        self._left -= size
        self._allocated[index] = size
        return size

    def full_size(self, *, container_veth: bool, sharers: int) -> int:
        """Return the MiB of an interface's ring while the budget lasts; see `allocate`."""
        is_of_many = container_veth and sharers > 1
        return max(self._each // _CONTAINER_DIVISOR, 1) if is_of_many else self._each

    def release(self, index: int) -> None:
        """Return the MiB of the interface of `index`, if any, to the budget."""
        self._left += self._allocated.pop(index, 0)

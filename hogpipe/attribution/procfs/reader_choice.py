"""By which of two readers a socket table is read: the one whose last reads cost less.

Pure: which reader comes next follows from the costs alone.

/proc/net comes first, as the one that is there wherever /proc is. The other reader has its turn
after the first read, and again after 32 or more: as many as make the turn, by what it cost last,
less than a fiftieth of them all. What it reads then is used like any other. It takes over where
that one read costs less than 0.7 of what the last reads of the present one cost (each read counts
half, the one before it a quarter, and so on), so that two that cost about the same do not take
turns.
"""

import math
from enum import StrEnum

_FIRST_TRY = 1
_TRY_EVERY = 32
_TRY_SHARE = 0.02
_TAKES_OVER_BELOW = 0.7
_WEIGHT = 0.5


class Reader(StrEnum):
    """Where a socket table comes from."""

    PROCFS = "procfs"
    SOCK_DIAG = "sock_diag"


class ReaderChoice:
    """The choice for one table.

    With `fixed` costs do not matter: that reader is left only after a failure, and comes back as
    soon as it works when it has its turn.
    """

    def __init__(self, fixed: Reader | None = None) -> None:
        self._fixed = fixed
        self.present = fixed or Reader.PROCFS
        """The reader of all reads but those that try the other one."""
        self._costs: dict[Reader, float] = {}
        self._until_try = _FIRST_TRY if fixed is None else math.inf

    @property
    def next(self) -> Reader:
        """The reader of the next read."""
        return self.present if self._until_try > 0 else _other(self.present)

    def cost(self, reader: Reader) -> float | None:
        """Return what its last reads cost, infinite after a failure; None before the first one."""
        return self._costs.get(reader)

    def record(self, reader: Reader, cost: float) -> None:
        """Take the cost of a read, in any unit that is the same for both."""
        if reader is self.present:
            before = self._costs.get(reader, cost)
            self._costs[reader] = before + _WEIGHT * (cost - before)
            self._until_try -= 1
            return
        self._costs[reader] = cost
        present = self._costs.get(self.present, math.inf)
        if reader is self._fixed or (self._fixed is None and cost < _TAKES_OVER_BELOW * present):
            self.present = reader
        self._until_try = math.inf if self.present is self._fixed else self._pause()

    def record_failure(self, reader: Reader) -> None:
        """Leave `reader` for the other one until it has its turn again."""
        self._costs[reader] = math.inf
        self.present = _other(reader)
        self._until_try = _TRY_EVERY

    def _pause(self) -> float:
        """Return how many reads the other reader has to wait for its next turn."""
        present, other = self._costs.get(self.present), self._costs.get(_other(self.present))
        if not present or other is None or math.isinf(other):
            return _TRY_EVERY
        return max(_TRY_EVERY, other / present / _TRY_SHARE)


def _other(reader: Reader) -> Reader:
    return Reader.SOCK_DIAG if reader is Reader.PROCFS else Reader.PROCFS

"""PURE: which of two readers reads a socket table next: the one whose recent reads cost less.

/proc/net comes first, because it exists wherever /proc does, or sock_diag where that is asked for.
The other reader gets a trial after the first read, and again after 32 reads or more: so many that
the trial, at its last cost, takes less than a fiftieth of the cost of all reads. The result of a
trial is used like any other.

/proc/net gets no first trial while a read by sock_diag takes 5 ms or more: it has the same sockets
and more, as text. With 50,000 datagram sockets it takes ten times as long, and by its budget the
next lookup would be seconds later.

The other reader becomes the current one if its trial cost less than 0.7 of the current reader's
recent cost (an average in which each read has half the weight of the next one). The factor keeps
two readers of about the same cost from alternating.
"""

import math
from enum import StrEnum

_FIRST_TRIAL = 1  # reads before it
_TRIAL_PAUSE = 32  # reads between trials, at least
_TRIAL_SHARE = 0.02  # of the cost of all reads
_SWITCH_BELOW = 0.7  # of the current reader's cost
_WEIGHT = 0.5
_LARGE = 0.005  # CPU seconds of a read by sock_diag


class Reader(StrEnum):
    """The source of a socket table."""

    PROCFS = "procfs"
    SOCK_DIAG = "sock_diag"


class ReaderChoice:
    """The choice for one table.

    Without `fixed`, reads begin with `first`. With it, costs do not matter: the other reader is
    used only after a failure of `fixed`, until a trial of `fixed` succeeds.
    """

    def __init__(self, fixed: Reader | None = None, first: Reader = Reader.PROCFS) -> None:
        self._fixed = fixed
        self.current = fixed or first
        """The reader of all reads but trials."""
        self._costs: dict[Reader, float] = {}
        self._until_trial = _FIRST_TRIAL if fixed is None else math.inf

    @property
    def next(self) -> Reader:
        """The reader of the next read."""
        is_trial = self._until_trial <= 0 and not self._is_large()
        return _other(self.current) if is_trial else self.current

    def cost(self, reader: Reader) -> float | None:
        """Return the recent cost of a reader, infinite after a failure; None before its first."""
        return self._costs.get(reader)

    def record(self, reader: Reader, cost: float) -> None:
        """Record the cost of a read, in the same unit for both readers."""
        if reader is self.current:
            before = self._costs.get(reader, cost)
            self._costs[reader] = before + _WEIGHT * (cost - before)
            self._until_trial -= 1
            return
        self._costs[reader] = cost
        current_cost = self._costs.get(self.current, math.inf)
        if reader is self._fixed or (self._fixed is None and cost < _SWITCH_BELOW * current_cost):
            self.current = reader
        self._until_trial = math.inf if self.current is self._fixed else self._pause()

    def record_failure(self, reader: Reader) -> None:
        """Use the other reader until the next trial of `reader`."""
        self._costs[reader] = math.inf
        self.current = _other(reader)
        self._until_trial = _TRIAL_PAUSE

    def _is_large(self) -> bool:
        """Return whether a table is so large that /proc/net, never read before, must be dearer."""
        cost = self._costs.get(Reader.SOCK_DIAG, 0.0)
        return Reader.PROCFS not in self._costs and _LARGE <= cost < math.inf

    def _pause(self) -> float:
        """Return the number of reads until the next trial of the other reader."""
        current, other = self._costs.get(self.current), self._costs.get(_other(self.current))
        if not current or other is None or math.isinf(other):
            return _TRIAL_PAUSE
        return max(_TRIAL_PAUSE, other / current / _TRIAL_SHARE)


def _other(reader: Reader) -> Reader:
    return Reader.SOCK_DIAG if reader is Reader.PROCFS else Reader.PROCFS

"""PURE: what becomes of the records of the one window that a sink is being given.

A sink may say that only some records are worth another try, or that it refuses some for good; the
rest counts as delivered. Where it refuses a window and does not say which record is to blame, it is
given the halves, and so on, until the one is found: a record that is refused takes no other along.
After `MAX_SPLITS` for one window, what is still refused as a whole is dropped as a whole.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from hogpipe.errors import DeliveryError, RefusedError
from hogpipe.records.schema import Record, record_id

MAX_SPLITS = 32
"""Finds two records of 50,000; a receiver that refuses all is asked some 50 times a window."""


D = TypeVar("D")


class Outcome(NamedTuple):
    """How many records a call has settled."""

    delivered: int = 0
    dropped: int = 0


class PartialDelivery:
    """One window; `part` is what to give next, until nothing is left."""

    def __init__(self, records: Sequence[Record] = ()) -> None:
        self._parts = deque([records] if records else [])
        self._splits_left = MAX_SPLITS

    def __len__(self) -> int:
        """Return how many records are neither delivered nor dropped."""
        return sum(map(len, self._parts))

    @property
    def part(self) -> Sequence[Record]:
        """What the sink is to be given; empty if all is settled."""
        return self._parts[0] if self._parts else ()

    def settle(self, error: Exception | None) -> Outcome:
        """Take note of how giving `part` ended; None is success."""
        match error:
            case None:
                return Outcome(delivered=len(self._parts.popleft()))
            case DeliveryError():
                return self._keep_undelivered(error)
            case OSError():
                return Outcome()
            case RefusedError():
                return self._leave_refused(error)
            case _:
                return Outcome(dropped=len(self._parts.popleft()))

    def _keep_undelivered(self, error: DeliveryError) -> Outcome:
        part = self._parts.popleft()
        undelivered = _select(part, error.undelivered, part)
        rest = _subtract(part, undelivered)
        dropped = len(_select(rest, error.refused, ()))
        if undelivered:
            self._parts.appendleft(undelivered)
        return Outcome(len(rest) - dropped, dropped)

    def _leave_refused(self, error: RefusedError) -> Outcome:
        part = self._parts.popleft()
        refused = _select(part, error.refused, None)
        if refused is not None:
            return Outcome(len(part) - len(refused), len(refused))
        if len(part) == 1 or not self._splits_left:
            return Outcome(dropped=len(part))
        self._splits_left -= 1
        middle = len(part) // 2
        self._parts.extendleft((part[middle:], part[:middle]))
        return Outcome()


def _select(
    part: Sequence[Record], named: Sequence[Record] | None, otherwise: D
) -> Sequence[Record] | D:
    """Return the records of `part` that are `named`; `otherwise` if that names none sensibly."""
    if named is None:
        return otherwise
    try:
        names = {record_id(record) for record in named}
    except (KeyError, TypeError):  # a plugin may put anything there
        return otherwise
    return [record for record in part if record_id(record) in names]


def _subtract(part: Sequence[Record], others: Sequence[Record]) -> Sequence[Record]:
    names = {record_id(record) for record in others}
    return [record for record in part if record_id(record) not in names]

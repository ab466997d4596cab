"""PURE: which records of the window in flight remain after each write.

In: a window, and the outcome of each write: None or an error. Out: the part to write next, and
counts of delivered and dropped records. Nothing here fails.

    DeliveryError             its `undelivered` remain, its `refused` are dropped, the rest counts
                              as delivered; without `undelivered` all remain
    OSError                   all remain
    RefusedError, `refused`   these are dropped, the rest counts as delivered
    RefusedError              the part is halved, see below
    any other error           the part is dropped

A refusal that names no record is narrowed down by bisection: each half is written by itself, and so
on, until the one record is found and dropped; no other record is lost with it. After `MAX_SPLITS`
splits of one window, a part that is still refused is dropped whole.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from hogpipe.errors import DeliveryError, RefusedError
from hogpipe.records.schema import Record, record_id

MAX_SPLITS = 32
"""Enough for two records of 50,000; a receiver that refuses all gets some 50 writes a window."""

D = TypeVar("D")


class Outcome(NamedTuple):
    """How many records of the window a write took care of."""

    delivered: int = 0
    dropped: int = 0


class PartialDelivery:
    """One window; `part` is what to write next, until nothing remains."""

    def __init__(self, records: Sequence[Record] = ()) -> None:
        self._parts = deque([records] if records else [])
        self._splits_left = MAX_SPLITS

    def __len__(self) -> int:
        """Return how many records are neither delivered nor dropped."""
        return sum(map(len, self._parts))

    @property
    def part(self) -> Sequence[Record]:
        """The records to write next; empty if none remain."""
        return self._parts[0] if self._parts else ()

    def conclude(self, error: Exception | None) -> Outcome:
        """Apply the outcome of the write of `part`; None is success."""
        match error:
            case None:
                return Outcome(delivered=len(self._parts.popleft()))
            case DeliveryError():
                return self._keep_undelivered(error)
            case OSError():
                return Outcome()
            case RefusedError():
                return self._drop_refused(error)
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

    def _drop_refused(self, error: RefusedError) -> Outcome:
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
    part: Sequence[Record], named: Sequence[Record] | None, default: D
) -> Sequence[Record] | D:
    """Return the records of `part` that are in `named`; `default` if `named` holds no records."""
    if named is None:
        return default
    try:
        ids = {record_id(record) for record in named}
    except (KeyError, TypeError):  # a plugin may pass anything
        return default
    return [record for record in part if record_id(record) in ids]


def _subtract(part: Sequence[Record], others: Sequence[Record]) -> Sequence[Record]:
    ids = {record_id(record) for record in others}
    return [record for record in part if record_id(record) not in ids]

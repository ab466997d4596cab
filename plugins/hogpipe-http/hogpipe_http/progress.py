"""PURE: which records of a window are delivered, refused and left.

In: a window, and the verdict on each part of it. Out: the part to send next, the records that are
refused, and those that are left. Each record is in one part until it is delivered or refused.

A part is at most `size` records. A part that is too large is halved; so is one with a record that
the receiver refuses without naming it. Halving for a refusal has a bound (`MAX_SPLITS` of a
window), since a receiver may refuse everything; a part that is refused then is dropped whole.

A window that is sent again has the parts that were left, so that a receiver which identifies a
request (clickhouse) sees the same one.
"""

from collections import deque
from collections.abc import Collection, Sequence

from hogpipe import Record, record_id
from hogpipe_http.exchange import Outcome, Verdict

MAX_SPLITS = 32

Part = Sequence[Record]


class Progress:
    """The state of one write."""

    def __init__(self, records: Sequence[Record], size: int, left: Sequence[Part] = ()) -> None:
        self._parts = deque(left if _are_same(records, left) else _divide(records, size))
        self._receipts: dict[int, list[Part]] = {}
        """Parts that the receiver has, and has not acknowledged yet."""
        self._splits_left = MAX_SPLITS
        self.refused: list[Record] = []
        self.reason = ""
        """Why the first refused record was refused."""

    @property
    def part(self) -> Part:
        """What to send next; empty if nothing is to be sent."""
        return self._parts[0] if self._parts else ()

    @property
    def receipts(self) -> Collection[int]:
        """The receipts that are not acknowledged yet."""
        return self._receipts.keys()

    @property
    def left(self) -> list[Part]:
        """The parts that are not delivered, in order."""
        return [*(part for parts in self._receipts.values() for part in parts), *self._parts]

    def cut(self, number: int) -> None:
        """Make the first `number` records of the part a part of their own."""
        part = self._parts.popleft()
        self._parts.extendleft(half for half in (part[number:], part[:number]) if half)

    def apply(self, verdict: Verdict) -> str:
        """Apply the verdict on the part; return why sending has to stop, empty if it goes on."""
        match verdict.outcome:
            case Outcome.UNDELIVERED:
                return verdict.reason
            case Outcome.TOO_LARGE | Outcome.REFUSED:
                self._halve(verdict)
            case Outcome.DELIVERED | Outcome.BY_RECORD:
                return self._settle(verdict)
        return ""

    def acknowledge(self, receipts: Collection[int]) -> None:
        """Take the parts of these receipts for delivered."""
        for receipt in receipts:
            self._receipts.pop(receipt, None)

    def _halve(self, verdict: Verdict) -> None:
        part = self.part
        bounded = verdict.outcome is Outcome.REFUSED
        if len(part) == 1 or (bounded and not self._splits_left):
            self._parts.popleft()
            self._refuse(part, verdict.reason)
            return
        self._splits_left -= bounded
        self.cut(len(part) // 2)

    def _settle(self, verdict: Verdict) -> str:
        part = self._parts.popleft()
        if verdict.receipt is not None:
            self._receipts.setdefault(verdict.receipt, []).append(part)
        if verdict.refused:
            self._refuse(verdict.refused, verdict.reason)
        if not verdict.undelivered:
            return ""
        self._parts.appendleft(verdict.undelivered)
        return verdict.reason if verdict.busy else ""

    def _refuse(self, records: Sequence[Record], reason: str) -> None:
        self.refused += records
        self.reason = self.reason or reason


def _divide(records: Sequence[Record], size: int) -> list[Part]:
    return [records[start : start + size] for start in range(0, len(records), size)]


def _are_same(records: Sequence[Record], parts: Sequence[Part]) -> bool:
    if len(records) != sum(map(len, parts)):
        return False
    known = [record_id(record) for part in parts for record in part]
    return known == [record_id(record) for record in records]

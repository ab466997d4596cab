"""What a sink was given, what it said became of that, and whether what arrived agrees."""

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import cast

import orjson

from hogpipe.errors import DeliveryError, RefusedError
from hogpipe.record import Record
from hogpipe.testing.case import BrokenPromiseError, Document, SinkCase
from hogpipe.testing.records import total_bytes
from hogpipe.text import describe_error

_SHOWN = 5  # sequences in a message


class Account:
    """The records of one run that a sink was given, by sequence."""

    def __init__(self, case: SinkCase, run: str) -> None:
        self._case = case
        self._run = run
        self._given: dict[int, Record] = {}
        self._refused: set[int] = set()
        self._repeatable: set[int] = set()
        """What was given again: it may arrive more than once, unless the case says otherwise."""

    def give(self, records: Sequence[Record]) -> None:
        """Note what the sink is given now."""
        self._given.update({record["sequence"]: record for record in records})

    def settle(self, records: Sequence[Record], error: BaseException | None) -> list[Record]:
        """Return which of `records`, for which a write raised `error`, are to be given again."""
        left: Sequence[Record] = ()
        refused: Sequence[Record] = ()
        if isinstance(error, DeliveryError):
            refused = error.refused
            left = without(records, refused) if error.undelivered is None else error.undelivered
        elif isinstance(error, RefusedError):
            refused = records if error.refused is None else error.refused
        elif isinstance(error, OSError):
            left = records
        elif error is not None:
            raise BrokenPromiseError(
                f"write raised {describe_error(error)}; what may pass is an OSError or a "
                "DeliveryError, what will never be taken a RefusedError"
            )
        _check_told(records, left, refused)
        self._refused |= sequences(refused)
        self._repeatable |= sequences(left)
        return list(left)

    def missing(self, documents: Sequence[Document]) -> set[int]:
        """Return what has not arrived."""
        return self._expected - {sequence_of(one) for one in self._own(documents)}

    def check(self, documents: Sequence[Document]) -> None:
        """Raise BrokenPromiseError unless what arrived is what was given, in this order, once."""
        own = self._own(documents)
        if missing := self.missing(documents):
            raise BrokenPromiseError(
                f"lost: {show(missing)} never arrived, and no error told of that"
            )
        arrived = [sequence_of(one) for one in own]
        if strange := set(arrived) - self._expected:
            raise BrokenPromiseError(f"{show(strange)} arrived, refused or not wanted as they were")
        allowed = set() if self._case.exactly_once else self._repeatable
        if doubled := {n for n, count in Counter(arrived).items() if count > 1} - allowed:
            raise BrokenPromiseError(f"{show(doubled)} arrived more than once")
        if self._case.ordered:
            _check_order(list(dict.fromkeys(arrived)))
        if self._case.whole:
            for one in own:
                self._check_same(one)

    def check_bytes(self, arrived: int) -> None:
        """Raise BrokenPromiseError unless so many bytes are what was given."""
        least = self.expected_bytes
        if arrived < least:
            raise BrokenPromiseError(f"lost: {arrived} of {least} bytes arrived, and no error told")
        if arrived > least and (self._case.exactly_once or not self._repeatable):
            raise BrokenPromiseError(f"{arrived} bytes arrived of {least} that were given")

    @property
    def expected_bytes(self) -> int:
        """The bytes that have to arrive at the least."""
        return sum(total_bytes(self._given[sequence]) for sequence in self._expected)

    def check_refused(self, refused: Collection[int]) -> None:
        """Raise BrokenPromiseError unless the sink told that just these were refused."""
        if silent := set(refused) - self._refused:
            raise BrokenPromiseError(
                f"the receiver refused {show(silent)}, and no error told of that"
            )
        if lost := self._refused - set(refused):
            raise BrokenPromiseError(f"{show(lost)} told as refused though the receiver takes them")

    @property
    def _expected(self) -> set[int]:
        wanted = self._case.wanted
        return {n for n, record in self._given.items() if wanted(record)} - self._refused

    def _own(self, documents: Sequence[Document]) -> list[Document]:
        return [one for one in documents if one.get("run") == self._run]

    def _check_same(self, document: Document) -> None:
        sequence = sequence_of(document)
        given = cast("Document", self._given[sequence])
        if document == given:
            return
        wrong = [key for key in {**given, **document} if document.get(key) != given.get(key)]
        raise BrokenPromiseError(
            f"sequence {sequence} arrived changed: {wrong[0]} is {document.get(wrong[0])!r} "
            f"and was {given.get(wrong[0])!r}"
        )


def image(records: Sequence[Record]) -> bytes:
    """Return what tells whether anybody has changed `records`."""
    return orjson.dumps(records)


def sequences(records: Sequence[Record]) -> set[int]:
    """Return by what `records` are known."""
    return {record["sequence"] for record in records}


def without(records: Sequence[Record], others: Sequence[Record]) -> list[Record]:
    """Return those of `records` that are not among `others`."""
    leave = sequences(others)
    return [record for record in records if record["sequence"] not in leave]


def sequence_of(document: Document) -> int:
    """Return the sequence of what arrived."""
    sequence = document.get("sequence")
    if not isinstance(sequence, int):
        raise BrokenPromiseError(f"what arrived has no sequence: {str(document)[:200]}")
    return sequence


def show(numbers: Collection[int]) -> str:
    """Return sequences in few words."""
    first = ", ".join(map(str, sorted(numbers)[:_SHOWN]))
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"sequence {first}{more}"


def _check_told(
    records: Sequence[Record], left: Sequence[Record], refused: Sequence[Record]
) -> None:
    if strange := (sequences(left) | sequences(refused)) - sequences(records):
        raise BrokenPromiseError(f"write's error names {show(strange)}, which it was not given")
    if both := sequences(left) & sequences(refused):
        raise BrokenPromiseError(f"write's error names {show(both)} as undelivered and as refused")


def _check_order(arrived: Sequence[int]) -> None:
    for before, after in pairwise(arrived):
        if after < before:
            raise BrokenPromiseError(f"out of order: sequence {after} arrived after {before}")

"""What a sink was given, what it said became of that, and whether what arrived agrees."""

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import cast

import orjson

from hogpipe.errors import DeliveryError, RefusedError
from hogpipe.records.schema import Record
from hogpipe.testing.case import BrokenPromiseError, Document, SinkCase
from hogpipe.testing.records import total_bytes
from hogpipe.text import describe_error

_SHOWN = 5  # sequences in a message

ProcessIdentity = tuple[object, int]
"""A run and a sequence."""


class Account:
    """The records that a sink was given, of one run or of several."""

    def __init__(self, case: SinkCase) -> None:
        self._case = case
        self._given: dict[ProcessIdentity, Record] = {}
        """In the order in which they were given first."""
        self._refused: set[ProcessIdentity] = set()
        self._repeatable: set[ProcessIdentity] = set()
        """What was given again: it may arrive more than once, unless the case says otherwise."""
        self._given_up: set[ProcessIdentity] = set()
        """What was to be given again and is not: it may arrive, or not."""

    def give(self, records: Sequence[Record]) -> None:
        """Note what the sink is given now."""
        for record in records:
            self._given.setdefault(_identify(record), record)

    def give_up(self, records: Sequence[Record]) -> None:
        """Note that `records`, which the sink wanted to be given again, will not be."""
        self._given_up |= identities(records)

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
        self._refused |= identities(refused)
        self._repeatable |= identities(left)
        return list(left)

    def missing(self, documents: Sequence[Document]) -> set[ProcessIdentity]:
        """Return what has not arrived."""
        return self._expected - {_identity_of(one) for one in self._own(documents)}

    def check(self, documents: Sequence[Document]) -> None:
        """Raise BrokenPromiseError unless what arrived is what was given, in this order, once."""
        own = self._own(documents)
        if missing := self.missing(documents):
            raise BrokenPromiseError(
                f"lost: {show(missing)} never arrived, and no error told of that"
            )
        arrived = [_identity_of(one) for one in own]
        if strange := set(arrived) - self._expected - self._given_up:
            raise BrokenPromiseError(f"{show(strange)} arrived, refused or not wanted as they were")
        allowed = set() if self._case.exactly_once else self._repeatable
        if doubled := {n for n, count in Counter(arrived).items() if count > 1} - allowed:
            raise BrokenPromiseError(f"{show(doubled)} arrived more than once")
        if self._case.ordered:
            self._check_order(list(dict.fromkeys(arrived)))
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
        return sum(total_bytes(self._given[identity]) for identity in self._expected)

    def check_refused(self, refused: Sequence[Record]) -> None:
        """Raise BrokenPromiseError unless the sink told that just these were refused."""
        if silent := identities(refused) - self._refused:
            raise BrokenPromiseError(
                f"the receiver refused {show(silent)}, and no error told of that"
            )
        if lost := self._refused - identities(refused):
            raise BrokenPromiseError(f"{show(lost)} told as refused though the receiver takes them")

    @property
    def _expected(self) -> set[ProcessIdentity]:
        wanted = {key for key, record in self._given.items() if self._case.wanted(record)}
        return wanted - self._refused - self._given_up

    def _own(self, documents: Sequence[Document]) -> list[Document]:
        runs = {run for run, _sequence in self._given}
        return [one for one in documents if one.get("run") in runs]

    def _check_order(self, arrived: Sequence[ProcessIdentity]) -> None:
        position = {identity: number for number, identity in enumerate(self._given)}
        for before, after in pairwise(arrived):
            if position[after] < position[before]:
                raise BrokenPromiseError(
                    f"out of order: sequence {after[1]} arrived after {before[1]}"
                )

    def _check_same(self, document: Document) -> None:
        identity = _identity_of(document)
        given = cast("Document", self._given[identity])
        if document == given:
            return
        wrong = [key for key in {**given, **document} if document.get(key) != given.get(key)]
        raise BrokenPromiseError(
            f"sequence {identity[1]} arrived changed: {wrong[0]} is {document.get(wrong[0])!r} "
            f"and was {given.get(wrong[0])!r}"
        )


def image(records: Sequence[Record]) -> bytes:
    """Return what tells whether anybody has changed `records`."""
    return orjson.dumps(records)


def identities(records: Sequence[Record]) -> set[ProcessIdentity]:
    """Return by what `records` are known."""
    return set(map(_identify, records))


def without(records: Sequence[Record], others: Sequence[Record]) -> list[Record]:
    """Return those of `records` that are not among `others`."""
    leave = identities(others)
    return [record for record in records if _identify(record) not in leave]


def show(some: Collection[ProcessIdentity]) -> str:
    """Return sequences in few words."""
    numbers = sorted(sequence for _run, sequence in some)
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"sequence {', '.join(map(str, numbers[:_SHOWN]))}{more}"


def _identify(record: Record) -> ProcessIdentity:
    return record["run"], record["sequence"]


def _identity_of(document: Document) -> ProcessIdentity:
    """Return by what that which arrived is known."""
    sequence = document.get("sequence")
    if not isinstance(sequence, int):
        raise BrokenPromiseError(f"what arrived has no sequence: {str(document)[:200]}")
    return document.get("run"), sequence


def _check_told(
    records: Sequence[Record], left: Sequence[Record], refused: Sequence[Record]
) -> None:
    if strange := (identities(left) | identities(refused)) - identities(records):
        raise BrokenPromiseError(f"write's error names {show(strange)}, which it was not given")
    if both := identities(left) & identities(refused):
        raise BrokenPromiseError(f"write's error names {show(both)} as undelivered and as refused")

"""PURE: the records that a sink was given, compared with its errors and with what arrived.

In: the records of each write, its error, and the documents (or bytes) at the receiver. Out: which
records are to be written again; BrokenPromiseError where the three disagree.

Every record ends as one of these:

    arrived      once, unchanged, in order
    refused      named by a RefusedError, or as `refused` by a DeliveryError
    undelivered  named by a DeliveryError or meant by an OSError: to be written again, and it may
                 then arrive more than once
    abandoned    undelivered, and not written again: it may arrive or not
"""

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import cast

import orjson

from hogpipe.errors import DeliveryError, RefusedError
from hogpipe.records.schema import Record, record_id
from hogpipe.testing.case import BrokenPromiseError, Document, SinkCase
from hogpipe.testing.records import total_bytes
from hogpipe.text import describe_error

_SHOWN = 5  # sequences in a message

DocumentId = tuple[object, int]
"""`run` and `sequence`, which may come from the receiver."""


class Account:
    """The records that a sink was given, of one run or of several."""

    def __init__(self, case: SinkCase) -> None:
        self._case = case
        self._given: dict[DocumentId, Record] = {}
        """In the order of their first write."""
        self._refused: set[DocumentId] = set()
        self._repeatable: set[DocumentId] = set()
        """Records that were undelivered once."""
        self._abandoned: set[DocumentId] = set()

    def give(self, records: Sequence[Record]) -> None:
        """Add the records of a write."""
        for record in records:
            self._given.setdefault(record_id(record), record)

    def abandon(self, records: Sequence[Record]) -> None:
        """Mark undelivered records that are not written again."""
        self._abandoned |= identify_all(records)

    def count_write(self, records: Sequence[Record], error: BaseException | None) -> list[Record]:
        """Apply the error of a write of `records`; return those to be written again."""
        undelivered: Sequence[Record] = ()
        refused: Sequence[Record] = ()
        if isinstance(error, DeliveryError):
            refused = error.refused
            named = error.undelivered
            undelivered = subtract(records, refused) if named is None else named
        elif isinstance(error, RefusedError):
            refused = records if error.refused is None else error.refused
        elif isinstance(error, OSError):
            undelivered = records
        elif error is not None:
            raise BrokenPromiseError(
                f"write raised {describe_error(error)}; an error that may pass is an OSError or a "
                "DeliveryError, a refusal a RefusedError"
            )
        _check_named(records, undelivered, refused)
        self._refused |= identify_all(refused)
        self._repeatable |= identify_all(undelivered)
        return list(undelivered)

    def missing(self, documents: Sequence[Document]) -> set[DocumentId]:
        """Return which expected records have not arrived."""
        return self._expected - {_identify_document(one) for one in self._own(documents)}

    def check(self, documents: Sequence[Document]) -> None:
        """Raise BrokenPromiseError unless all arrived unchanged, in order, and once."""
        own = self._own(documents)
        if missing := self.missing(documents):
            raise BrokenPromiseError(
                f"lost: {show(missing)} never arrived, and no error reported that"
            )
        arrived = [_identify_document(one) for one in own]
        if unexpected := set(arrived) - self._expected - self._abandoned:
            raise BrokenPromiseError(f"{show(unexpected)} arrived, though refused or not wanted")
        allowed = set() if self._case.exactly_once else self._repeatable
        if repeated := {n for n, count in Counter(arrived).items() if count > 1} - allowed:
            raise BrokenPromiseError(f"{show(repeated)} arrived more than once")
        if self._case.ordered:
            self._check_order(list(dict.fromkeys(arrived)))
        if self._case.whole:
            for one in own:
                self._check_unchanged(one)

    def check_bytes(self, arrived: int) -> None:
        """Raise BrokenPromiseError unless the expected bytes arrived."""
        expected = self.expected_bytes
        if arrived < expected:
            raise BrokenPromiseError(
                f"lost: {arrived} of {expected} bytes arrived, and no error reported that"
            )
        if arrived > expected and (self._case.exactly_once or not self._repeatable):
            raise BrokenPromiseError(f"{arrived} bytes arrived of {expected} that were given")

    @property
    def expected_bytes(self) -> int:
        """The bytes that must arrive; repeats may add to them."""
        return sum(total_bytes(self._given[identity]) for identity in self._expected)

    def check_refused(self, refused: Sequence[Record]) -> None:
        """Raise BrokenPromiseError unless the sink reported exactly these as refused."""
        if unreported := identify_all(refused) - self._refused:
            raise BrokenPromiseError(
                f"the receiver refused {show(unreported)}, and no error reported that"
            )
        if wrong := self._refused - identify_all(refused):
            raise BrokenPromiseError(
                f"{show(wrong)} reported as refused though the receiver takes them"
            )

    @property
    def _expected(self) -> set[DocumentId]:
        wanted = {key for key, record in self._given.items() if self._case.wanted(record)}
        return wanted - self._refused - self._abandoned

    def _own(self, documents: Sequence[Document]) -> list[Document]:
        runs = {run for run, _sequence in self._given}
        return [one for one in documents if one.get("run") in runs]

    def _check_order(self, arrived: Sequence[DocumentId]) -> None:
        position = {identity: number for number, identity in enumerate(self._given)}
        for before, after in pairwise(arrived):
            if position[after] < position[before]:
                raise BrokenPromiseError(
                    f"out of order: sequence {after[1]} arrived after {before[1]}"
                )

    def _check_unchanged(self, document: Document) -> None:
        identity = _identify_document(document)
        given = cast("Document", self._given[identity])
        if document == given:
            return
        wrong = [key for key in {**given, **document} if document.get(key) != given.get(key)]
        raise BrokenPromiseError(
            f"sequence {identity[1]} arrived changed: {wrong[0]} is {document.get(wrong[0])!r} "
            f"and was {given.get(wrong[0])!r}"
        )


def fingerprint(records: Sequence[Record]) -> bytes:
    """Return bytes that differ if the content of `records` differs."""
    return orjson.dumps(records)


def identify_all(records: Sequence[Record]) -> set[DocumentId]:
    """Return the ids of records."""
    return {record_id(record) for record in records}


def subtract(records: Sequence[Record], others: Sequence[Record]) -> list[Record]:
    """Return the records that are not among `others`."""
    excluded = identify_all(others)
    return [record for record in records if record_id(record) not in excluded]


def show(some: Collection[DocumentId]) -> str:
    """Return the sequences of some records, shortened for a message."""
    numbers = sorted(sequence for _run, sequence in some)
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"sequence {', '.join(map(str, numbers[:_SHOWN]))}{more}"


def _identify_document(document: Document) -> DocumentId:
    sequence = document.get("sequence")
    if not isinstance(sequence, int):
        raise BrokenPromiseError(f"what arrived has no sequence: {str(document)[:200]}")
    return document.get("run"), sequence


def _check_named(
    records: Sequence[Record], undelivered: Sequence[Record], refused: Sequence[Record]
) -> None:
    named = identify_all(undelivered) | identify_all(refused)
    if unknown := named - identify_all(records):
        raise BrokenPromiseError(f"write's error names {show(unknown)}, which it was not given")
    if both := identify_all(undelivered) & identify_all(refused):
        raise BrokenPromiseError(f"write's error names {show(both)} as undelivered and as refused")

"""PURE: the types by which the sink and a preset talk: batch -> request, answer -> verdict."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol, runtime_checkable

from hogpipe import HttpAnswer, Record


class Batch(NamedTuple):
    """Records for one request, each with its JSON document."""

    records: Sequence[Record] = ()
    documents: Sequence[bytes] = ()


class Request(NamedTuple):
    """A POST request; the body is not compressed yet."""

    url: str
    body: bytes
    headers: Mapping[str, str]


class Outcome(Enum):
    """What became of a batch."""

    DELIVERED = "delivered"
    UNDELIVERED = "undelivered"
    """Nothing is known to be delivered; the batch is sent again."""
    TOO_LARGE = "too large"
    """A smaller request may be accepted."""
    REFUSED = "refused"
    """Refused for good, because of a record that the receiver does not name."""
    BY_RECORD = "by record"
    """The receiver answers for each record."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an answer means for a batch."""

    outcome: Outcome
    reason: str = ""
    """Why some records are not delivered, in one line."""
    undelivered: Sequence[Record] = ()
    """With BY_RECORD: the records to send again."""
    refused: Sequence[Record] = ()
    """With BY_RECORD: the records that are refused for good; all others are delivered."""
    busy: bool = False
    """Whether the receiver takes the undelivered records only after a while."""
    receipt: int | None = None
    """By which a later answer acknowledges the delivered records; None if this one does."""


DELIVERED = Verdict(Outcome.DELIVERED)


class Preset(Protocol):
    """The protocol of a receiver; no method does I/O, and no answer makes one fail."""

    longest_answer: int
    """Bytes of an answer that are read."""

    def encode(self, batch: Batch) -> Request:
        """Return the request for a batch; an empty one asks whether the receiver is there."""

    def classify(self, batch: Batch, answer: HttpAnswer) -> Verdict:
        """Return what an answer means for the records of the batch."""


@runtime_checkable
class Acknowledging(Protocol):
    """A preset whose receiver acknowledges accepted requests later."""

    query_interval: float
    """Seconds between two queries."""

    def encode_query(self, receipts: Collection[int]) -> Request:
        """Return the request that asks for acknowledgements."""

    def parse_acknowledged(self, answer: HttpAnswer) -> Collection[int] | str:
        """Return the receipts that an answer acknowledges, or what is wrong with the answer."""

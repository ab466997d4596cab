"""What answers questions about recorded traffic: files of records, or a history."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from hogpipe.report.question import Answer, Question, Series


class Skipped(msgspec.Struct, frozen=True):
    """What a store skipped, because it is no record."""

    lines: int
    first: str
    """The file and the number of the first such line."""
    has_records: bool
    """Whether there were records, too, of this span or another."""


Table = tuple[Sequence[str], Iterable[tuple[object, ...]]]
"""Names of columns, and rows."""


class TrafficStore(Protocol):
    """Recorded traffic that answers questions; `close` ends it.

    Methods raise HogpipeError for what cannot be read.
    """

    def answer(self, question: Question) -> Answer:
        """Return the totals of each group."""

    def answer_over_time(self, question: Question, step: float) -> Series:
        """Return the totals of each group in steps, which start at multiples of `step`."""

    def find_skipped(self) -> Skipped | None:
        """Return what the last answer skipped."""

    def query(self, statement: str, /) -> Table:
        """Run a statement of SQL."""

    def export(self, statement: str, path: Path, /) -> None:
        """Write what a statement of SQL returns to a Parquet file."""

    def close(self) -> None:
        """Release what the store holds."""

"""PURE: a question about recorded traffic, and its answer.

Times are Unix times in seconds; the end of a span is exclusive. A window belongs to the span and to
the step in which it starts.
"""

from collections.abc import Mapping, Sequence

import msgspec

from hogpipe.history.counters import COUNTERS, Totals
from hogpipe.report.filters import Filters, Value
from hogpipe.report.record_columns import Column


class Question(msgspec.Struct, frozen=True):
    """What is asked."""

    columns: tuple[Column, ...]
    filters: Filters
    since: float | None = None
    until: float | None = None
    top: int | None = None
    """How many groups have rows of their own; all if None."""


class Row(msgspec.Struct, frozen=True):
    """The traffic of a group: its values, in the order of the columns, and its counters."""

    values: tuple[Value, ...]
    totals: Totals


class Answer(msgspec.Struct, frozen=True):
    """The traffic of a span by group."""

    columns: tuple[Column, ...]
    rows: Sequence[Row]
    """The most bytes first."""
    others: Totals
    """The traffic of the groups without a row."""
    groups: int
    """How many groups there are, those without a row included."""
    span: tuple[float, float] | None
    """The start of the first window and the end of the last one; None without any."""
    dropped_packets: int
    """Packets dropped before capture, by the stats of the span."""

    @property
    def total(self) -> Totals:
        """The traffic of all groups."""
        return add_totals([self.others, *(row.totals for row in self.rows)])


class Series(msgspec.Struct, frozen=True):
    """The traffic of an answer's rows over time."""

    answer: Answer
    start: float
    step: float
    total: Sequence[int]
    """Bytes of both directions in each step, all groups together."""
    rows: Sequence[Sequence[Totals]]
    """The counters of each row of the answer, in each step."""


def add_totals(totals: Sequence[Totals]) -> Totals:
    """Return the sum of totals."""
    return Totals(*(sum(getattr(one, name) for one in totals) for name in COUNTERS))


def build_answer(
    question: Question,
    sums: Mapping[tuple[Value, ...], Totals],
    span: tuple[float, float] | None,
    dropped_packets: int,
) -> Answer:
    """Return the answer that the sums of all groups make."""
    rows = [Row(values, totals) for values, totals in sums.items()]
    rows.sort(key=lambda row: (-row.totals.bytes, [str(value) for value in row.values]))
    shown = rows if question.top is None else rows[: question.top]
    others = add_totals([row.totals for row in rows[len(shown) :]])
    return Answer(question.columns, shown, others, len(rows), span, dropped_packets)


def build_series(
    answer: Answer, steps: Mapping[tuple[float, tuple[Value, ...]], Totals], step: float
) -> Series:
    """Return the series of an answer from the sums of all groups, by start of step and values."""
    if not steps:
        return Series(answer, 0.0, step, (), [() for _ in answer.rows])
    first, last = min(start for start, _ in steps), max(start for start, _ in steps)
    count = round((last - first) / step) + 1
    total = [0] * count
    places = {row.values: place for place, row in enumerate(answer.rows)}
    nothing = Totals()
    rows = [[nothing] * count for _ in answer.rows]
    for (start, values), totals in steps.items():
        at = round((start - first) / step)
        total[at] += totals.bytes
        if (place := places.get(values)) is not None:
            rows[place][at] = totals
    return Series(answer, first, step, total, rows)

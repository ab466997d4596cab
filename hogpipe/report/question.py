"""PURE: a question about recorded traffic, and its answer.

Times are Unix times in seconds; the end of a span is exclusive. A window belongs to the span and to
the step in which it starts.
"""

from collections.abc import Mapping, Sequence

import msgspec

from hogpipe.errors import HogpipeError
from hogpipe.history.counters import ALL_COUNTERS, COUNTERS, Totals, add_totals
from hogpipe.report.filters import Filters, Value
from hogpipe.report.record_columns import Column

MOST_CELLS = 4_000_000
"""How many sums a series may have: those of its rows and of all traffic, in each step."""
_MILLI = 1000


class Question(msgspec.Struct, frozen=True):
    """What is asked."""

    columns: tuple[Column, ...]
    filters: Filters
    since: float | None = None
    until: float | None = None
    top: int | None = None
    """How many groups have rows of their own; all if None."""
    health: bool = False
    """Whether the totals have the health of TCP connections, which takes longer."""

    @property
    def counters(self) -> tuple[str, ...]:
        """The counters that are asked for."""
        return ALL_COUNTERS if self.health else COUNTERS


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
    counters: tuple[str, ...] = COUNTERS
    """Those of the totals that were asked for."""

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
    counters = question.counters
    return Answer(question.columns, shown, others, len(rows), span, dropped_packets, counters)


def check_steps(steps: int, rows: int, step: float) -> None:
    """Raise HogpipeError if a series of so many steps and rows would be too large."""
    if steps * (rows + 1) > MOST_CELLS:
        raise HogpipeError(
            f"--step {step:g}s makes {steps} steps for each of {rows} groups: choose a longer "
            "step, a shorter span (--since, --until) or fewer groups (--top)"
        )


def build_series(
    answer: Answer,
    total: Mapping[int, int],
    rows: Mapping[tuple[int, tuple[Value, ...]], Totals],
    step: float,
) -> Series:
    """Return the series of an answer, from the bytes of all groups and the sums of its rows.

    Both are by the number of the step, which starts at this multiple of `step`. Raises HogpipeError
    as check_steps().
    """
    if not total:
        return Series(answer, 0.0, step, (), [() for _ in answer.rows])
    first = min(total)
    count = max(total) - first + 1
    check_steps(count, len(answer.rows), step)
    nothing = Totals()
    made = {row.values: [nothing] * count for row in answer.rows}
    for (number, values), totals in rows.items():
        if values in made:
            made[values][number - first] = totals
    sizes = [total.get(first + place, 0) for place in range(count)]
    start = first * round(step * _MILLI) / _MILLI
    return Series(answer, start, step, sizes, list(made.values()))


def merge_steps(series: Series, most: int) -> Series:
    """Return a series of at most `most` steps, each the sum of as many neighbouring ones."""
    each = -(-len(series.total) // most)
    if each <= 1:
        return series
    starts = range(0, len(series.total), each)
    return Series(
        series.answer,
        series.start,
        series.step * each,
        [sum(series.total[at : at + each]) for at in starts],
        [[add_totals(row[at : at + each]) for at in starts] for row in series.rows],
    )

"""PURE: what a history answers. Times are milliseconds since the epoch."""

from collections.abc import Sequence
from dataclasses import dataclass

from hogpipe.history.counters import Totals, add_totals
from hogpipe.records.schema import Record, StatsBody

Value = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Row:
    """The traffic with these values, one for each key that was asked for."""

    values: tuple[Value, ...]
    totals: Totals


@dataclass(frozen=True, slots=True)
class Answer:
    """The traffic of a span by some keys."""

    by: tuple[str, ...]
    since_ms: int
    until_ms: int
    """The span that was read, which may be larger than the one asked for."""
    rows: Sequence[Row]
    """The most bytes first."""
    others: Totals
    """The traffic of all further rows, where only the top ones were asked for."""

    @property
    def total(self) -> Totals:
        """The traffic of all rows."""
        return add_totals([self.others, *(row.totals for row in self.rows)])


@dataclass(frozen=True, slots=True)
class Point:
    """The traffic of one step of time, the most bytes first."""

    start_ms: int
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Series:
    """The traffic of a span in steps; a step without traffic has no point.

    Where only buckets longer than a step are kept, a point has the traffic of a whole bucket.
    """

    by: tuple[str, ...]
    since_ms: int
    until_ms: int
    step_ms: int
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Coverage:
    """What a span was measured with."""

    since_ms: int
    until_ms: int
    windows: int
    covered_ms: int
    """The length of all windows that started in the span."""
    stats: StatsBody | None
    """Their stats records, merged, without `sinks`: what was dropped and not decoded is there."""


@dataclass(frozen=True, slots=True)
class HistoryWindow:
    """A window for playback: as it was recorded, or a bucket of a level as if it were one."""

    start_ms: int
    end_ms: int
    level: str
    records: Sequence[Record]

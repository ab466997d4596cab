"""Answers from a history, by its reader (hogpipe.history.reader).

In: the path of a history. Out: answers. The columns of a question become keys of the history; where
a column has several paths, the first one with a value counts, as in a record.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from hogpipe.errors import ConfigurationError, HogpipeError
from hogpipe.history.answers import Row as HistoryRow
from hogpipe.history.counters import Totals, add_totals
from hogpipe.history.members import Description, get_value, is_of_member
from hogpipe.history.reader import HistoryReader
from hogpipe.history.value_sums import Where
from hogpipe.report.filters import Value
from hogpipe.report.question import Answer, Question, Series, build_answer, build_series
from hogpipe.report.record_columns import HOST, Column
from hogpipe.report.traffic_store import Skipped, Table

_NO_SQL = "--sql reads files of records; ask a history with the sqlite3 shell (docs/history.md)"
_MILLI = 1000
_LAST_MS = int(datetime.max.replace(tzinfo=UTC).timestamp()) * _MILLI


class HistoryFile:
    """A TrafficStore of one history."""

    def __init__(self, path: Path) -> None:
        try:
            self._reader = HistoryReader(path)
        except ConfigurationError as error:  # which would be one of `hogpipe run`
            raise HogpipeError(str(error)) from error

    def close(self) -> None:
        """Close the history."""
        self._reader.close()

    def answer(self, question: Question) -> Answer:
        """Return the totals of each group."""
        since_ms, until_ms = _find_span(question)
        found = self._reader.query(
            since_ms,
            until_ms,
            by=_list_paths(question.columns),
            where=_make_test(question),
            by_member=_is_by_member(question),
            health=question.health,
        )
        coverage = self._reader.coverage(since_ms, until_ms)
        dropped = coverage.stats["capture"]["dropped"] if coverage.stats else None
        extent = self._reader.find_extent()
        span = None
        if extent and (coverage.windows or found.rows):
            first_ms, last_ms = extent
            span = max(found.since_ms, first_ms) / _MILLI, min(found.until_ms, last_ms) / _MILLI
        return build_answer(
            question,
            _merge(question.columns, found.rows),
            span,
            dropped["kernel"] + dropped["interface"] if dropped else 0,
        )

    def answer_over_time(self, question: Question, step: float) -> Series:
        """Return the totals of each group in steps of whole seconds, as a history has them."""
        since_ms, until_ms = _find_span(question)
        step = max(1.0, float(round(step)))
        found = self._reader.series(
            since_ms,
            until_ms,
            step_ms=round(step * _MILLI),
            by=_list_paths(question.columns),
            where=_make_test(question),
            by_member=_is_by_member(question),
            health=question.health,
        )
        step_ms = round(step * _MILLI)
        total: defaultdict[int, int] = defaultdict(int)
        rows: dict[tuple[int, tuple[Value, ...]], Totals] = {}
        for point in found.points:
            number = point.start_ms // step_ms
            for values, totals in _merge(question.columns, point.rows).items():
                total[number] += totals.bytes
                rows[number, values] = add_totals([totals, rows.get((number, values), Totals())])
        return build_series(self.answer(question), total, rows, step)

    def find_skipped(self) -> Skipped | None:
        """Return None: a history has nothing but windows."""
        return None

    def query(self, _statement: str, /) -> Table:
        """Raise HogpipeError: a history is a database of its own."""
        raise HogpipeError(_NO_SQL)

    def export(self, _statement: str, _path: Path, /) -> None:
        """Raise HogpipeError: a history is a database of its own."""
        raise HogpipeError(_NO_SQL)


def _find_span(question: Question) -> tuple[int, int]:
    since, until = question.since, question.until
    return (
        0 if since is None else round(since * _MILLI),
        _LAST_MS if until is None else round(until * _MILLI),
    )


def _list_paths(columns: Sequence[Column]) -> list[str]:
    if HOST in columns:
        raise HogpipeError("a history does not keep hosts apart: leave out the dimension host")
    return [path for column in columns for path in column.paths]


def _make_test(question: Question) -> Where | None:
    filters = question.filters
    if not filters.columns:
        return None

    def counts(description: Description) -> bool:
        return filters.select(
            {column: _find_value(description, column) for column in filters.columns}
        )

    return counts


def _is_by_member(question: Question) -> bool:
    return any(map(is_of_member, _list_paths(question.filters.columns)))


def _find_value(description: Description, column: Column) -> Value:
    found = (get_value(description, path) for path in column.paths)
    return _as_value(next((value for value in found if value is not None), None), column)


def _merge(
    columns: Sequence[Column], rows: Sequence[HistoryRow]
) -> Mapping[tuple[Value, ...], Totals]:
    """Return the sums by the values of columns, of rows that have a value for each path."""
    sums: defaultdict[tuple[Value, ...], list[Totals]] = defaultdict(list)
    for row in rows:
        values, at = [], 0
        for column in columns:
            found = row.values[at : at + len(column.paths)]
            at += len(column.paths)
            first = next((value for value in found if value is not None), None)
            values.append(_as_value(first, column))
        sums[tuple(values)].append(row.totals)
    return {values: add_totals(totals) for values, totals in sums.items()}


def _as_value(value: Value, column: Column) -> Value:
    """Return a value as files of records have it: text, where a column may have either."""
    return str(value) if value is not None and len(column.paths) > 1 else value

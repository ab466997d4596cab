"""Reads a history, also while it is written.

In: the path of a history, and spans of time in milliseconds since the epoch. Out: totals by any key
of the records (`query`), in steps of time (`series`), what was counted and dropped (`coverage`),
and windows for playback (`windows`). Raises ConfigurationError for a file that is not a history of
this version or an older one, HogpipeError for one that cannot be read.

A method reads one snapshot, which the writer does not change. Each span is read from the coarsest
levels that fit into it (levels.py), so that an answer may cover somewhat more than the span that
was asked for: its `since_ms` and `until_ms` say what.

A key is the path of a record's value: `process.name`, `systemd.unit`, `network.peer.address`. What
only windows keep (members.py), such as `process.pid`, is None where no windows are kept any more.

One thread at a time uses a reader.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np

from hogpipe.errors import ConfigurationError, HogpipeError
from hogpipe.files import require_regular
from hogpipe.history.answers import Answer, Coverage, HistoryWindow, Series
from hogpipe.history.counters import ALL_COUNTERS, COUNTERS, add_totals
from hogpipe.history.descriptions import Descriptions
from hogpipe.history.expiry import find_oldest
from hogpipe.history.history_file import (
    NO_HISTORY,
    WITH_HEALTH,
    find_version_problem,
    is_damage,
    needs_folder,
    open_for_reading,
    transaction,
)
from hogpipe.history.level_states import LevelStates
from hogpipe.history.level_tables import LevelTable, health_table, traffic_table
from hogpipe.history.levels import BUCKETED, EVER_MS, LEVELS, SECOND_MS, WINDOWS, Piece, plan_span
from hogpipe.history.members import is_of_member
from hogpipe.history.packing import DamagedContentError, unpack_window
from hogpipe.history.playback import read_windows
from hogpipe.history.span_stats import SpanSums, describe_window, read_span
from hogpipe.history.value_sums import ValueSums, Where
from hogpipe.text import describe_error, printable


class HistoryReader:
    """Answers questions about the history at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            require_regular(path)
            self._database = open_for_reading(path)
        except (OSError, sqlite3.Error) as error:
            text = getattr(error, "strerror", None) or str(error)
            raise ConfigurationError(f"{printable(str(path))}: {printable(text)}") from error
        if (problem := self._find_problem()) is not None:
            self._database.close()
            raise ConfigurationError(f"{printable(str(path))}: {problem}")
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        self._has_health: bool = version >= WITH_HEALTH
        self._descriptions = Descriptions(self._database)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def find_extent(self) -> tuple[int, int] | None:
        """Return the start of the oldest row and the end of the newest; None if there is none."""
        with self._snapshot():
            return self._find_extent()

    def find_resolution(self, since_ms: int, until_ms: int) -> int:
        """Return the length of the longest bucket of a span, read from the finest levels.

        1 is that of windows. A shorter step of a series would have whole buckets in single steps.
        """
        with self._snapshot():
            pieces = self._plan(since_ms, until_ms, 1)
        return max((piece.level.length_ms for piece in pieces), default=1)

    def query(
        self,
        since_ms: int,
        until_ms: int,
        *,
        by: Sequence[str] = (),
        where: Where | None = None,
        by_member: bool = False,
        top: int | None = None,
        health: bool = False,
    ) -> Answer:
        """Return the traffic of a span, by the values of keys.

        `where` sees what only windows keep if `by_member` is true, or a key of `by` is of that
        kind; then windows are read wherever they are kept, which takes longer. The health of TCP
        connections is in the totals if `health` is true, which takes longer, too.
        """
        by_member = by_member or any(map(is_of_member, by))
        with self._snapshot():
            pieces = self._plan(since_ms, until_ms, 1 if by_member else EVER_MS)
            sums = ValueSums(self._descriptions, by, where)
            for piece in pieces:
                self._read_piece(piece, sums, None, by_member=by_member, health=health)
            rows = [row for point in sums.finish() for row in point.rows]
        shown = rows if top is None else rows[:top]
        others = add_totals(row.totals for row in rows[len(shown) :])
        return Answer(tuple(by), *_find_ends(pieces, since_ms, until_ms), shown, others)

    def series(
        self,
        since_ms: int,
        until_ms: int,
        *,
        step_ms: int,
        by: Sequence[str] = (),
        where: Where | None = None,
        by_member: bool = False,
        health: bool = False,
    ) -> Series:
        """Return the traffic of a span in steps, which begin at multiples of `step_ms`.

        `by_member` and `health` are those of `query`.
        """
        by_member = by_member or any(map(is_of_member, by))
        lengths = [one.length_ms for one in LEVELS if step_ms % one.length_ms == 0]
        with self._snapshot():
            pieces = self._plan(since_ms, until_ms, 1 if by_member else max(lengths))
            sums = ValueSums(self._descriptions, by, where)
            for piece in pieces:
                self._read_piece(piece, sums, step_ms, by_member=by_member, health=health)
            points = sums.finish()
        return Series(tuple(by), *_find_ends(pieces, since_ms, until_ms), step_ms, points)

    def coverage(self, since_ms: int, until_ms: int) -> Coverage:
        """Return what a span was measured with."""
        span = SpanSums()
        with self._snapshot():
            pieces = self._plan(since_ms, until_ms, EVER_MS)
            for piece in pieces:
                for one in self._read_spans(piece):
                    span.add(one)
        ends = _find_ends(pieces, since_ms, until_ms)
        return Coverage(*ends, span.windows, span.covered_ms, span.stats)

    def windows(
        self, since_ms: int, until_ms: int, *, backwards: bool = False
    ) -> Iterator[HistoryWindow]:
        """Yield the windows that start in a span, in the order of their start, or backwards.

        Where windows are no longer kept, buckets of the finest level take their place. A part of
        the history is read at a time, so that rows may expire meanwhile; they are left out then.
        """
        with self._snapshot():
            pieces = self._plan(since_ms, until_ms, 1)
        for piece in reversed(pieces) if backwards else pieces:
            with self._readable():
                found = read_windows(
                    self._database,
                    self._descriptions,
                    piece,
                    backwards=backwards,
                    has_health=self._has_health,
                )
                yield from (window for window in found if window.start_ms >= since_ms)

    def _find_problem(self) -> str | None:
        """Return why the file is not a history of this version or an older one."""
        try:
            (application,) = self._database.execute("PRAGMA application_id").fetchone()
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
        except sqlite3.Error as error:
            if is_damage(error):
                return NO_HISTORY
            if needs_folder(error):
                return (
                    "cannot be read while no run writes to it: SQLite needs files beside it, and "
                    f"{printable(str(self._path.parent))} may not be written to; read a copy"
                )
            return describe_error(error)
        return find_version_problem(application, version)

    def _find_extent(self) -> tuple[int, int] | None:
        starts = [find_oldest(self._database, level) for level in LEVELS]
        newest = "SELECT end_ms FROM windows ORDER BY start_ms DESC LIMIT 1"
        end_ms = next((end for (end,) in self._database.execute(newest)), None)
        ends = [end_ms or 0]
        for level in BUCKETED:
            statement = f"SELECT MAX(start) FROM {level.name}"  # noqa: S608 - own names
            (start,) = self._database.execute(statement).fetchone()
            # A bucket ends after its windows, which have the exact time while they are kept.
            if start is not None and end_ms is None:
                ends.append(start * SECOND_MS + level.length_ms)
        known = [start_ms for start_ms in starts if start_ms is not None]
        return (min(known), max(ends)) if known else None

    def _plan(self, since_ms: int, until_ms: int, most_ms: int) -> list[Piece]:
        """Return the pieces of a span, as far as there are rows."""
        if (extent := self._find_extent()) is None:
            return []
        states = LevelStates(self._database).list()
        first_ms, last_ms = extent
        return plan_span(max(since_ms, first_ms), min(until_ms, last_ms + 1), states, most_ms)

    def _read_piece(
        self,
        piece: Piece,
        sums: ValueSums,
        step_ms: int | None,
        *,
        by_member: bool,
        health: bool,
    ) -> None:
        """Add the rows of a piece to `sums`, each to its step."""
        width = len(ALL_COUNTERS if health else COUNTERS)
        if piece.level == WINDOWS:
            for start_ms, _end_ms, content in self._read_contents(piece):
                window = unpack_window(content)
                step = 0 if step_ms is None else start_ms - start_ms % step_ms
                members = window.members if by_member else None
                sums.add(step, window.groups, members, window.rows[:, :width])
            return
        self._read_level(traffic_table(piece.level), piece, sums, step_ms, width)
        if health and self._has_health:
            self._read_level(health_table(piece.level), piece, sums, step_ms, width)

    def _read_level(
        self, table: LevelTable, piece: Piece, sums: ValueSums, step_ms: int | None, width: int
    ) -> None:
        """Add rows of a level to `sums`, whose rows have `width` counters."""
        start, columns, group_by = _choose_grouping(table, piece, step_ms)
        found = self._database.execute(
            f"SELECT {start}, group_id, {columns} FROM {table.name} "  # noqa: S608 - own names
            f"WHERE start >= ? AND start < ? {group_by}",
            (piece.since_ms // SECOND_MS, piece.until_ms // SECOND_MS),
        ).fetchall()
        cells = np.array(found, np.int64).reshape(-1, len(table.counters) + 2)
        rows = np.zeros((len(cells), width), np.int64)
        rows[:, table.slice] = cells[:, 2:]
        for step in np.unique(cells[:, 0]).tolist():
            is_of_step = cells[:, 0] == step
            sums.add(step * SECOND_MS, cells[is_of_step, 1], None, rows[is_of_step])

    def _read_spans(self, piece: Piece) -> Iterator[SpanSums]:
        if piece.level == WINDOWS:
            for start_ms, end_ms, content in self._read_contents(piece):
                yield describe_window(start_ms, end_ms, unpack_window(content))
            return
        yield from map(
            read_span,
            self._database.execute(
                "SELECT windows, covered_ms, stats FROM spans "
                "WHERE level = ? AND start >= ? AND start < ?",
                (piece.level.name, piece.since_ms // SECOND_MS, piece.until_ms // SECOND_MS),
            ),
        )

    def _read_contents(self, piece: Piece) -> Iterator[tuple[int, int, bytes]]:
        yield from self._database.execute(
            "SELECT start_ms, end_ms, content FROM windows "
            "WHERE start_ms >= ? AND start_ms < ? ORDER BY start_ms, id",
            (piece.since_ms, piece.until_ms),
        )

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Read one state of the history in the context."""
        with self._readable(), transaction(self._database, "DEFERRED"):
            yield

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Raise HogpipeError for what SQLite raises."""
        try:
            yield
        except (sqlite3.Error, DamagedContentError) as error:
            text = f"{printable(str(self._path))}: cannot be read: {printable(str(error))}"
            raise HogpipeError(text) from error


def _choose_grouping(table: LevelTable, piece: Piece, step_ms: int | None) -> tuple[str, str, str]:
    """Return the start of the steps, the counters and the GROUP BY for the rows of a piece."""
    if step_ms is None:
        return "0", table.sums, "GROUP BY group_id"
    if step_ms <= piece.level.length_ms:  # each row is of a step of its own
        return "start", table.columns, ""
    first, last = piece.since_ms // step_ms, (piece.until_ms - 1) // step_ms
    if first == last:
        return str(first * step_ms // SECOND_MS), table.sums, "GROUP BY group_id"
    unit = step_ms // SECOND_MS
    return f"start / {unit} * {unit}", table.sums, "GROUP BY 1, 2"


def _find_ends(pieces: Sequence[Piece], since_ms: int, until_ms: int) -> tuple[int, int]:
    """Return the span that the pieces cover; the one that was asked for if there are none."""
    if not pieces:
        return since_ms, until_ms
    return pieces[0].since_ms, pieces[-1].until_ms

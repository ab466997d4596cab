"""Windows become minutes, minutes hours, and hours days, inside the transaction of a write.

In: a connection with a transaction open, and the states of the levels. Out: rows of the levels.
Raises sqlite3.Error and DamagedContentError.

A bucket is rolled up once, when the first window after it arrives: its rows are the sums of the
finer level. A window that starts in a bucket that was rolled up before (the window is late, or the
clock was set back) is added to that bucket of each level. So the rows of a complete level add up to
the windows that started in its time, whatever came when.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import pairwise

from hogpipe.history.counters import ALL_COUNTERS, GroupSums
from hogpipe.history.level_states import LevelStates
from hogpipe.history.level_tables import health_table, tables_of, traffic_table
from hogpipe.history.levels import BUCKETED, MINUTES, SECOND_MS, Level
from hogpipe.history.packing import UnpackedWindow, unpack_window
from hogpipe.history.span_stats import SpanSums, describe_window, read_span, write_stats

_HAS_HEALTH = ALL_COUNTERS.index("health_records")


def roll_up(database: sqlite3.Connection, states: LevelStates, start_ms: int) -> None:
    """Roll up each bucket that ended before the window that starts at `start_ms`."""
    if MINUTES.floor(start_ms) > states[MINUTES].complete_ms:
        _roll_windows(database, states[MINUTES].complete_ms, MINUTES.floor(start_ms))
        states.set_complete(MINUTES, MINUTES.floor(start_ms))
    for finer, level in pairwise(BUCKETED):
        since_ms, until_ms = states[level].complete_ms, level.floor(start_ms)
        if until_ms > since_ms:
            _roll_level(database, finer, level, since_ms, until_ms)
            states.set_complete(level, until_ms)


def add_late(
    database: sqlite3.Connection,
    states: LevelStates,
    start_ms: int,
    end_ms: int,
    window: UnpackedWindow,
) -> None:
    """Add a window to each level that is complete beyond its start."""
    sums = GroupSums()
    sums.add(window.groups, window.rows)
    rows = list(sums.items())
    for level in BUCKETED:
        bucket = level.floor(start_ms)
        if states[level].kept_ms <= bucket and start_ms < states[level].complete_ms:
            _add_rows(database, level, bucket, rows)
            _add_span(database, level, bucket, describe_window(start_ms, end_ms, window))


def _roll_windows(database: sqlite3.Connection, since_ms: int, until_ms: int) -> None:
    found = database.execute(
        "SELECT start_ms, end_ms, content FROM windows WHERE start_ms >= ? AND start_ms < ? "
        "ORDER BY start_ms, id",
        (since_ms, until_ms),
    )
    bucket, sums, span = -1, GroupSums(), SpanSums()
    for start_ms, end_ms, content in found:
        if MINUTES.floor(start_ms) != bucket:
            _write_bucket(database, MINUTES, bucket, sums, span)
            bucket, sums, span = MINUTES.floor(start_ms), GroupSums(), SpanSums()
        window = unpack_window(content)
        sums.add(window.groups, window.rows)
        span.add(describe_window(start_ms, end_ms, window))
    _write_bucket(database, MINUTES, bucket, sums, span)


def _write_bucket(
    database: sqlite3.Connection, level: Level, bucket: int, sums: GroupSums, span: SpanSums
) -> None:
    if span.windows:
        _add_rows(database, level, bucket, sums.items())
        _add_span(database, level, bucket, span)


def _add_rows(
    database: sqlite3.Connection,
    level: Level,
    bucket: int,
    rows: Iterable[tuple[int, Sequence[int]]],
) -> None:
    start, rows = bucket // SECOND_MS, list(rows)
    with_health = [(group, row) for group, row in rows if row[_HAS_HEALTH]]
    for table, added in ((traffic_table(level), rows), (health_table(level), with_health)):
        places = ", ".join("?" * (len(table.counters) + 2))
        database.executemany(
            f"{table.insertion} VALUES ({places}) {table.addition}",
            ((start, group, *row[table.slice]) for group, row in added),
        )


def _add_span(database: sqlite3.Connection, level: Level, bucket: int, later: SpanSums) -> None:
    key = level.name, bucket // SECOND_MS
    found = database.execute(
        "SELECT windows, covered_ms, stats FROM spans WHERE level = ? AND start = ?", key
    ).fetchone()
    span = SpanSums() if found is None else read_span(found)
    span.add(later)
    database.execute(
        "INSERT OR REPLACE INTO spans (level, start, windows, covered_ms, stats) "
        "VALUES (?, ?, ?, ?, ?)",
        (*key, span.windows, span.covered_ms, write_stats(span)),
    )


def _roll_level(
    database: sqlite3.Connection, finer: Level, level: Level, since_ms: int, until_ms: int
) -> None:
    since, until, length = (ms // SECOND_MS for ms in (since_ms, until_ms, level.length_ms))
    for source, target in zip(tables_of(finer), tables_of(level), strict=True):
        database.execute(
            f"{target.insertion} SELECT start / {length} * {length}, group_id, "  # noqa: S608
            f"{source.sums} FROM {source.name} WHERE start >= ? AND start < ? GROUP BY 1, 2 "
            f"{target.addition}",
            (since, until),
        )
    spans = database.execute(
        "SELECT start, windows, covered_ms, stats FROM spans "
        "WHERE level = ? AND start >= ? AND start < ?",
        (finer.name, since, until),
    ).fetchall()
    for start, *columns in spans:
        _add_span(database, level, level.floor(start * SECOND_MS), read_span(columns))

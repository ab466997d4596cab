"""Windows of a history for playback, in the order of time or backwards.

In: a read-only connection and a piece of a span. Out: windows, the records of a part of them at a
time. Raises sqlite3.Error and DamagedContentError.

A window is as it was recorded. A bucket of a level becomes a window with a record for each group,
stamped as a run of its own: what was recorded in it had other stamps.
"""

import sqlite3
from collections.abc import Iterator
from typing import cast

from hogpipe.history.answers import HistoryWindow
from hogpipe.history.counters import Totals
from hogpipe.history.descriptions import Descriptions
from hogpipe.history.level_tables import health_table, traffic_table
from hogpipe.history.levels import SECOND_MS, WINDOWS, Level, Piece
from hogpipe.history.packing import describe_traffic, unpack_records
from hogpipe.history.span_stats import read_span
from hogpipe.records.schema import Record, TrafficBody
from hogpipe.records.stamp import RecordStamper, make_run_id

_WINDOWS_AT_A_TIME = 64
_MILLISECOND = 1_000_000


def read_windows(
    database: sqlite3.Connection,
    descriptions: Descriptions,
    piece: Piece,
    *,
    backwards: bool,
    has_health: bool,
) -> Iterator[HistoryWindow]:
    """Yield the windows of a piece; those with equal starts are in the order of their arrival.

    `has_health` is whether levels have tables of health.
    """
    if piece.level == WINDOWS:
        yield from _read_recorded(database, descriptions, piece, backwards=backwards)
        return
    length = piece.level.length_ms
    buckets = _Buckets(database, descriptions, piece.level, has_health=has_health)
    starts = range(piece.since_ms, piece.until_ms, length)
    for start_ms in reversed(starts) if backwards else starts:
        if records := buckets.make_records(start_ms):
            yield HistoryWindow(start_ms, start_ms + length, piece.level.name, records)


def _read_recorded(
    database: sqlite3.Connection, descriptions: Descriptions, piece: Piece, *, backwards: bool
) -> Iterator[HistoryWindow]:
    order, beyond = ("DESC", "<") if backwards else ("ASC", ">")
    position = (piece.until_ms, 0) if backwards else (piece.since_ms, 0)
    while True:
        rows = database.execute(
            "SELECT windows.id, start_ms, end_ms, content, run, host FROM windows "  # noqa: S608
            "JOIN runs ON runs.id = run_id WHERE start_ms >= ? AND start_ms < ? "
            f"AND (start_ms, windows.id) {beyond} (?, ?) "
            f"ORDER BY start_ms {order}, windows.id {order} LIMIT {_WINDOWS_AT_A_TIME}",
            (piece.since_ms, piece.until_ms, *position),
        ).fetchall()
        for number, start_ms, end_ms, content, run, host in rows:
            records = unpack_records(content, run, host, descriptions.of_member)
            yield HistoryWindow(start_ms, end_ms, WINDOWS.name, records)
            position = start_ms, number
        if len(rows) < _WINDOWS_AT_A_TIME:
            return


class _Buckets:
    """The buckets of a level as windows."""

    def __init__(
        self,
        database: sqlite3.Connection,
        descriptions: Descriptions,
        level: Level,
        *,
        has_health: bool,
    ) -> None:
        self._database = database
        self._descriptions = descriptions
        self._level = level
        self._host = _find_host(database)
        traffic, health = traffic_table(level), health_table(level)
        columns, source = traffic.columns, traffic.name
        if has_health:
            columns = f"{columns}, {health.columns}"
            source = f"{source} LEFT JOIN {health.name} USING (start, group_id)"
        self._statement = f"SELECT group_id, {columns} FROM {source} WHERE start = ?"  # noqa: S608

    def make_records(self, start_ms: int) -> list[Record]:
        """Return records as a run would have made them of a window as long as the bucket."""
        end_ms = start_ms + self._level.length_ms
        start_ns, end_ns = start_ms * _MILLISECOND, end_ms * _MILLISECOND
        stamper = RecordStamper(make_run_id(start_ns, bytes(10)), self._host)
        start = start_ms // SECOND_MS
        records: list[Record] = []
        for group, *counters in self._database.execute(self._statement, (start,)).fetchall():
            totals = Totals(*(one or 0 for one in counters))  # NULL without health
            body = describe_traffic(self._descriptions.of_group(group), totals)
            records.append(stamper.traffic(cast("TrafficBody", body), start_ns, end_ns))
        span = self._database.execute(
            "SELECT windows, covered_ms, stats FROM spans WHERE level = ? AND start = ?",
            (self._level.name, start),
        ).fetchone()
        if span is not None and (stats := read_span(span).stats) is not None:
            records.append(stamper.stats(stats, start_ns, end_ns))
        return records


def _find_host(database: sqlite3.Connection) -> str:
    """Return the host of the last run."""
    found = database.execute("SELECT host FROM runs ORDER BY id DESC LIMIT 1").fetchone()
    return found[0] if found else ""

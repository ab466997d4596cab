"""No byte of a history is lost or counted twice, whatever came when."""

import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from threading import Event

from hypothesis import given, settings
from hypothesis import strategies as st
from support.health import quick_healths
from support.histories import (
    DAY,
    HOUR,
    MINUTE,
    START_MS,
    Run,
    read_total,
    total_of,
    writing,
)

from hogpipe.history.counters import ALL_COUNTERS, LEAST, Totals, add_totals
from hogpipe.history.level_tables import tables_of
from hogpipe.history.levels import BUCKETED, DAYS, HOURS, MINUTES, WINDOWS, Level
from hogpipe.history.packing import unpack_window
from hogpipe.history.reader import HistoryReader
from hogpipe.model import TcpHealth
from hogpipe.records.schema import Record

KEEP = {WINDOWS: MINUTE, MINUTES: HOUR, HOURS: DAY, DAYS: 1000 * DAY}
"""So short that each level expires, except the days."""

steps = st.one_of(
    st.integers(-3, 3).map(lambda seconds: seconds * 1000),
    st.integers(-5 * MINUTE, 10 * MINUTE),
    st.sampled_from([100, 250, HOUR, 2 * HOUR + 1, -2 * HOUR, DAY, 3 * DAY, -3 * DAY]),
)
lengths = st.sampled_from([0, 100, 1000, 10_000, MINUTE, HOUR])
traffic = st.lists(
    st.tuples(
        st.sampled_from(["nginx", "curl", "sshd"]),
        st.integers(1, 3),
        st.integers(0, 1 << 40),
        st.none() | quick_healths,
    ),
    max_size=4,
)
actions = st.lists(
    st.tuples(
        steps,
        lengths,
        traffic,
        st.sampled_from(["write", "write", "write", "repeat", "cancel", "crash", "next run"]),
    ),
    min_size=1,
    max_size=25,
)


Moved = tuple[str, int, int, TcpHealth | None]


def sum_level(database: sqlite3.Connection, level: Level, since_ms: int = 0) -> Totals:
    """Return the sums of both tables of a level."""
    sums: dict[str, int] = {}
    for table in tables_of(level):
        for name in table.counters:
            of_all = f"MIN(NULLIF({name}, 0))" if name == LEAST else f"SUM({name})"
            (found,) = database.execute(
                f"SELECT {of_all} FROM {table.name} WHERE start >= {since_ms // 1000}"
            ).fetchone()
            sums[name] = found or 0
    return Totals(**sums)


def sum_windows(database: sqlite3.Connection, since_ms: int) -> Totals:
    statement = "SELECT content FROM windows WHERE start_ms >= ?"
    found = database.execute(statement, (since_ms,)).fetchall()
    rows = (row for (content,) in found for row in unpack_window(content).rows.tolist())
    return add_totals(Totals(*row) for row in rows)


def check_levels(path: Path, written: Sequence[Sequence[Record]]) -> None:
    """Compare the sum of what is in the days, hours, minutes and windows with what was written."""
    with closing(sqlite3.connect(path)) as database:
        complete = dict(database.execute("SELECT level, complete_ms FROM levels"))
        sums = [
            sum_level(database, DAYS),
            sum_level(database, HOURS, complete.get("days", 0)),
            sum_level(database, MINUTES, complete.get("hours", 0)),
            sum_windows(database, complete.get("minutes", 0)),
        ]
    total = add_totals(sums)
    assert {name: getattr(total, name) for name in ALL_COUNTERS} == total_of(written)


@settings(max_examples=40, deadline=None)
@given(actions)
def test_days_and_what_is_not_rolled_up_yet_add_up_to_all_that_was_written(
    given_actions: list[tuple[int, int, list[Moved], str]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.db"
        written: list[list[Record]] = []
        run, number, time_ms = Run(), 0, START_MS + 100 * DAY
        for step, length_ms, groups, action in given_actions:
            time_ms += step
            with writing(path, KEEP) as writer:
                if action == "next run":
                    number += 1
                    run = Run(number)
                window = run.window(time_ms, length_ms, groups)
                if action == "cancel":
                    stop = Event()
                    stop.set()
                    writer.write(window, stop)
                writer.write(window, Event())
                written.append(window)
                if action == "repeat":
                    writer.write(window, Event())
                if action == "crash":  # delivery repeats what it does not know to be written
                    writer.close()
                    writer.open()
                    writer.write(window, Event())
        check_levels(path, written)
        with HistoryReader(path) as reader:
            assert read_total(reader, 0, 1 << 62) == total_of(written)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5 * HOUR), traffic), min_size=1, max_size=12), st.data())
def test_any_span_has_the_windows_that_start_in_it(
    windows: list[tuple[int, list[Moved]]], data: st.DataObject
) -> None:
    run = Run()
    made = [run.window(START_MS + at, 1000, groups) for at, groups in windows]
    since_ms, until_ms = sorted(
        data.draw(st.tuples(*[st.integers(START_MS - HOUR, START_MS + 6 * HOUR)] * 2))
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.db"
        with writing(path, KEEP | {WINDOWS: 10 * HOUR, MINUTES: 10 * HOUR}) as writer:
            for window in made:
                writer.write(window, Event())
        with HistoryReader(path) as reader:
            found = read_total(reader, since_ms, until_ms)
            series = reader.series(since_ms, until_ms, step_ms=MINUTE)
            played = list(reader.windows(since_ms, until_ms))
    inside = [
        window
        for window, (at, _) in zip(made, windows, strict=True)
        if since_ms <= START_MS + at < until_ms
    ]
    assert found == total_of(inside)
    assert sum(row.totals.bytes for point in series.points for row in point.rows) == (
        found["transmit_bytes"] + found["receive_bytes"]
    )
    assert sorted(one.start_ms for one in played) == sorted(
        START_MS + at for at, _ in windows if since_ms <= START_MS + at < until_ms
    )
    assert total_of(one.records for one in played) == found


def test_levels_are_the_tables() -> None:
    assert [level.name for level in BUCKETED] == ["minutes", "hours", "days"]

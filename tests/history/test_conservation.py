"""No byte of a history is lost or counted twice, whatever came when."""

import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from threading import Event

from hypothesis import given, settings
from hypothesis import strategies as st
from support.histories import DAY, HOUR, MINUTE, START_MS, Run, read_total, total_of, writing

from hogpipe.history.counters import COUNTERS
from hogpipe.history.levels import BUCKETED, DAYS, HOURS, MINUTES, WINDOWS
from hogpipe.history.packing import unpack_window
from hogpipe.history.reader import HistoryReader
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
        st.sampled_from(["nginx", "curl", "sshd"]), st.integers(1, 3), st.integers(0, 1 << 40)
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


def sum_level(database: sqlite3.Connection, name: str) -> list[int]:
    sums = ", ".join(f"COALESCE(SUM({counter}), 0)" for counter in COUNTERS)
    return list(database.execute(f"SELECT {sums} FROM {name}").fetchone())


def sum_windows(database: sqlite3.Connection, since_ms: int) -> list[int]:
    sums = [0] * len(COUNTERS)
    statement = "SELECT content FROM windows WHERE start_ms >= ?"
    for (content,) in database.execute(statement, (since_ms,)):
        for index, value in enumerate(unpack_window(content).rows.sum(axis=0).tolist()):
            sums[index] += value
    return sums


def check_levels(path: Path, written: Sequence[Sequence[Record]]) -> None:
    """Compare the sum of what is in the days, hours, minutes and windows with what was written."""
    expected = total_of(written)
    with closing(sqlite3.connect(path)) as database:
        complete = dict(database.execute("SELECT level, complete_ms FROM levels"))
        sums = [sum_level(database, "days")]
        for finer, level in ((HOURS, DAYS), (MINUTES, HOURS)):
            start = complete.get(level.name, 0) // 1000
            sums.append(sum_level(database, f"{finer.name} WHERE start >= {start}"))
        sums.append(sum_windows(database, complete.get("minutes", 0)))
    assert dict(zip(COUNTERS, map(sum, zip(*sums, strict=True)), strict=True)) == expected


@settings(max_examples=40, deadline=None)
@given(actions)
def test_days_and_what_is_not_rolled_up_yet_add_up_to_all_that_was_written(
    given_actions: list[tuple[int, int, list[tuple[str, int, int]], str]],
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
    windows: list[tuple[int, list[tuple[str, int, int]]]], data: st.DataObject
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

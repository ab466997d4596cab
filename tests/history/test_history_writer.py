"""Writes are whole or not there, and the file stays within its bounds."""

import logging
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from threading import Event

import pytest
from support.disks import tiny_disk
from support.histories import (
    DAY,
    HOUR,
    KEEP,
    MINUTE,
    START_MS,
    Run,
    read_total,
    total_of,
    write,
    writing,
)

from hogpipe.errors import DeliveryError
from hogpipe.history.levels import MINUTES, WINDOWS
from hogpipe.history.reader import HistoryReader

EVER = 1 << 62

KILLED = """
import sys
from pathlib import Path
from threading import Event
from support.histories import START_MS, Run, writing
run = Run()
with writing(Path(sys.argv[1])) as writer:
    for number in range(10_000):
        window = run.window(START_MS + number * 5000, 5000, [("a", number % 7, 1)] * 50)
        writer.write(window, Event())
        print(number, flush=True)
"""


def count(path: Path, statement: str) -> int:
    with closing(sqlite3.connect(path)) as database:
        (number,) = database.execute(statement).fetchone()
        return int(number)


@pytest.mark.parametrize("windows", [1, 30])
def test_a_kill_loses_nothing_that_was_written_and_a_repeat_adds_nothing(
    tmp_path: Path, windows: int
) -> None:
    path = tmp_path / "history.db"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", KILLED, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        for _ in range(windows):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        printed = windows + len(process.stdout.read().splitlines())
    run = Run()
    made = [
        run.window(START_MS + number * 5000, 5000, [("a", number % 7, 1)] * 50)
        for number in range(printed + 1)
    ]
    with writing(path) as writer:
        write(writer, *made)
    with HistoryReader(path) as reader:
        assert read_total(reader, 0, EVER) == total_of(made)


def test_a_locked_history_is_an_error_that_passes(tmp_path: Path) -> None:
    path, run = tmp_path / "history.db", Run()
    first, second = (run.window(START_MS + at, 1000, [("a", 1, 1)]) for at in (0, MINUTE))
    with writing(path) as writer:
        write(writer, first)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(DeliveryError, match="locked by another program"):
                write(writer, second)
        write(writer, second)
    with HistoryReader(path) as reader:
        assert read_total(reader, 0, EVER) == total_of([first, second])


def test_a_full_disk_loses_nothing_once_there_is_space_again(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", kib=4096) as folder:
        path, run, written = folder / "history.db", Run(), []
        filler = folder / "filler"
        with writing(path) as writer:
            for number in range(30):
                traffic = [(f"program-{number}-{n}", n, 10**9 + n) for n in range(60)]
                window = run.window(START_MS + number * 30_000, 1000, traffic)
                written.append(window)
                if number == 15:
                    fill(filler)
                    with pytest.raises(DeliveryError, match="the disk is full"):
                        write(writer, window)
                    filler.unlink()
                write(writer, window)
        with HistoryReader(path) as reader:
            assert read_total(reader, 0, EVER) == total_of(written)


def fill(path: Path) -> None:
    """Write a file until the disk is full."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def test_a_stopped_write_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    window = Run().window(START_MS, 1000, [("a", 1, 1)])
    stop = Event()
    stop.set()
    with writing(path) as writer:
        writer.write(window, stop)
        assert count(path, "SELECT COUNT(*) FROM windows") == 0
        write(writer, window)
        assert count(path, "SELECT COUNT(*) FROM windows") == 1


def test_windows_of_100_ms_and_of_an_hour_are_rolled_up_alike(tmp_path: Path) -> None:
    path, run = tmp_path / "history.db", Run()
    made = [run.window(START_MS + n * 100, 100, [("a", 1, 1)]) for n in range(1200)]
    made += [run.window(START_MS + n * HOUR, HOUR, [("a", 1, 1)]) for n in range(1, 4)]
    made += [run.window(START_MS + 4 * HOUR, 1000, [])]  # a window without traffic
    with writing(path) as writer:
        write(writer, *made)
    with HistoryReader(path) as reader:
        assert read_total(reader, START_MS, START_MS + 2 * MINUTE)["flows"] == 1200
        assert read_total(reader, START_MS + HOUR, START_MS + 2 * HOUR)["flows"] == 1
        assert reader.coverage(START_MS, START_MS + 5 * HOUR).covered_ms == (
            2 * MINUTE + 3 * HOUR + 1000
        )


def test_members_and_groups_go_with_the_last_row_that_needs_them(tmp_path: Path) -> None:
    path, run = tmp_path / "history.db", Run()
    with writing(path, KEEP | {WINDOWS: MINUTE, MINUTES: HOUR}) as writer:
        for number in range(300):
            start_ms = START_MS + number * MINUTE
            write(writer, run.window(start_ms, 1000, [("a", number, 1), ("b", 1, 1)]))
        assert count(path, "SELECT COUNT(*) FROM windows") <= 3
        assert count(path, "SELECT COUNT(*) FROM members") <= 140  # of two hours
        assert count(path, "SELECT COUNT(*) FROM groups") == 2
        # A process that paused for longer than windows are kept is stored again.
        write(writer, run.window(START_MS + 310 * MINUTE, 1000, [("a", 5, 1)]))
    with HistoryReader(path) as reader:
        since_ms = START_MS + 310 * MINUTE
        assert [row.values for row in reader.query(since_ms, EVER, by=["process.pid"]).rows] == [
            (5,)
        ]


def test_a_clock_that_was_years_ahead_leaves_a_history_that_goes_on(tmp_path: Path) -> None:
    path, run = tmp_path / "history.db", Run()
    wrong_ms = START_MS + 3000 * DAY
    made = [run.window(wrong_ms + n * 1000, 1000, [("a", 1, 1)]) for n in range(130)]
    made += [run.window(START_MS + n * 1000, 1000, [("a", 1, 1)]) for n in range(130)]
    with writing(path) as writer:
        write(writer, *made)
    with HistoryReader(path) as reader:
        assert read_total(reader, START_MS, START_MS + DAY)["flows"] == 130
        assert len(list(reader.windows(START_MS, START_MS + MINUTE))) == 60


def test_a_file_that_is_too_large_loses_the_oldest_of_its_finest_level(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, run, written = tmp_path / "history.db", Run(), []
    with caplog.at_level(logging.INFO), writing(path, max_bytes=400 << 10) as writer:
        for number in range(300):
            traffic = [(f"p{n}", n, (number * 7919 + n * 104_729) % 10**9) for n in range(100)]
            window = run.window(START_MS + number * 2000, 2000, traffic)
            written.append(window)
            write(writer, window)
            assert path.stat().st_size <= 600 << 10
    warnings = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert [one.args[1] for one in warnings if isinstance(one.args, tuple)][:1] == ["windows"]
    assert "it has reached max_mib, and keeps its windows since 2026-11-22T07:" in caplog.text
    with HistoryReader(path) as reader:
        oldest, _newest = reader.find_extent() or (0, 0)
        assert read_total(reader, 0, EVER) == total_of(
            window for window in written if window[0]["window"]["start_unix"] * 1000 >= oldest
        )

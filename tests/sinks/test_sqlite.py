"""The sink `sqlite`: its settings, and a history as a run leaves it."""

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support.configuration import load_text, problems_of
from support.histories import START_MS, Run, read_total, total_of

from hogpipe.errors import DeliveryError, InUseError
from hogpipe.history.history_file import APPLICATION_ID, STEPS
from hogpipe.history.reader import HistoryReader
from hogpipe.sinks.sqlite import SqliteSettings, SqliteSink

SINK = '[[sinks]]\ntype = "sqlite"\npath = "history.db"\n'


def test_durations_have_units(tmp_path: Path) -> None:
    settings = load_text(tmp_path, f'{SINK}keep_windows = "2h"\nkeep_minutes = "14d"\n')
    sink = settings.sinks[0].settings
    assert isinstance(sink, SqliteSettings)
    assert (sink.path, sink.keep_windows, sink.keep_minutes) == (
        tmp_path / "history.db", 7200.0, 14 * 86_400.0,
    )  # fmt: skip
    assert not (tmp_path / "history.db").exists()


def test_a_coarser_level_is_kept_at_least_as_long(tmp_path: Path) -> None:
    text = f'{SINK}keep_minutes = "100d"\nkeep_days = "1d"\n'
    assert problems_of(tmp_path, text) == [
        "sinks[0].keep_hours: must be at least keep_minutes",
        "sinks[0].keep_days: must be at least keep_hours",
    ]


def test_bounds_are_checked(tmp_path: Path) -> None:
    text = f"{SINK}keep_windows = 59\nmax_mib = 7\nkeep_weeks = 1\n"
    assert sorted(problems_of(tmp_path, text)) == [
        'sinks[0].keep_weeks: unknown key; did you mean "keep_windows"?',
        "sinks[0].keep_windows: must be at least 60",
        "sinks[0].max_mib: must be at least 8",
    ]


def test_a_check_names_what_the_path_is(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    path.write_text("name,bytes\n" * 100)
    assert problems_of(tmp_path, SINK) == [f'sinks[0].path: "{path}": not a history of hogpipe']
    path.unlink()
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
    (problem,) = problems_of(tmp_path, SINK)
    assert problem.endswith("upgrade hogpipe, or name another file")
    path.unlink()
    os.mkfifo(path)
    assert problems_of(tmp_path, SINK) == [
        f'sinks[0].path: "{path}": not a regular file but a FIFO'
    ]


def test_a_history_that_another_sink_writes_is_refused(tmp_path: Path) -> None:
    settings = SqliteSettings(type="sqlite", path=tmp_path / "history.db")

    async def open_two() -> None:
        first, second = SqliteSink(settings), SqliteSink(settings)
        await first.open()
        try:
            for call in (second.open, second.probe):
                with pytest.raises(InUseError, match="another run or sink writes to it"):
                    await call()
        finally:
            await second.close()
            await first.close()

    asyncio.run(open_two())


async def test_a_file_that_is_replaced_during_a_run_is_an_error_that_may_pass(
    tmp_path: Path,
) -> None:
    path, run = tmp_path / "history.db", Run()
    sink = SqliteSink(SqliteSettings(type="sqlite", path=path))
    await sink.open()
    first, second = (run.window(START_MS + at, 1000, [("a", 1, 1)]) for at in (0, 1000))
    await sink.write(first)
    path.rename(tmp_path / "moved.db")
    path.write_text("something else\n" * 100)
    with pytest.raises(DeliveryError, match="not a history of hogpipe"):
        await sink.write(second)
    path.unlink()
    await sink.write(second)
    await sink.close()
    with HistoryReader(path) as reader:
        assert read_total(reader, 0, 1 << 62) == total_of([second])
    with HistoryReader(tmp_path / "moved.db") as reader:
        assert read_total(reader, 0, 1 << 62) == total_of([first])


async def test_a_cancelled_write_can_be_repeated(tmp_path: Path) -> None:
    path, run = tmp_path / "history.db", Run()
    sink = SqliteSink(SqliteSettings(type="sqlite", path=path))
    await sink.open()
    windows = [run.window(START_MS + n, 1, [("a", n, 1)] * 500) for n in range(10)]
    for turns, window in enumerate(windows):
        writing = asyncio.create_task(sink.write(window))
        for _ in range(turns):
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await sink.write(window)
    await sink.close()
    with HistoryReader(path) as reader:
        assert read_total(reader, 0, 1 << 62) == total_of(windows)

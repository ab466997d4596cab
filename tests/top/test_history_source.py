"""A history as the source of the screen: from its oldest bucket to its newest window, and on."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest
from support.histories import HOUR, KEEP, START_MS, Run, write, writing

from hogpipe.errors import ConfigurationError
from hogpipe.top.history_source import HistorySource
from hogpipe.top.row_groups import Query, RowGroups
from hogpipe.top.top_command import choose_recording
from hogpipe.top.traffic_table import TrafficTable


async def take(windows: object, table: TrafficTable, count: int) -> None:
    for _ in range(count):
        table.append(await asyncio.wait_for(anext(windows), 30))  # type: ignore[call-overload]
        table.advance()


def programs(table: TrafficTable) -> dict[str, int]:
    rows = RowGroups(table).query(Query(dimension="program")).slice(0, 9)
    return {row.texts[0]: row.transmit_bytes for row in rows}


async def test_a_history_is_read_from_its_beginning_and_on(tmp_path: Path) -> None:
    path, run = tmp_path / "history.db", Run()
    with writing(path) as writer:
        write(writer, run.window(START_MS, 1000, [("nginx", 1, 10), ("sshd", 2, 5)]))
        write(writer, run.window(START_MS + 1000, 1000, [("nginx", 1, 10)]))
        table, source = TrafficTable(), HistorySource(path)
        await source.prepare()
        async with aclosing(source.read(table)) as windows:  # type: ignore[type-var]
            await take(windows, table, 2)
            assert programs(table) == {"nginx": 20, "sshd": 5}
            write(writer, run.window(START_MS + 2000, 1000, [("sshd", 2, 1)]))
            await take(windows, table, 1)
    assert programs(table) == {"nginx": 20, "sshd": 6}
    assert table.figures.windows == 3
    table.step_back()
    assert programs(table) == {"nginx": 20, "sshd": 5}


async def test_where_no_windows_are_kept_buckets_take_their_place(tmp_path: Path) -> None:
    path, run = tmp_path / "history.db", Run()
    with writing(path, keep=KEEP) as writer:
        for at in range(0, 3 * HOUR, 600_000):
            write(writer, run.window(START_MS + at, 1000, [("nginx", 1, 10)]))
    table, source = TrafficTable(), HistorySource(path)
    lengths = set()
    async with aclosing(source.read(table)) as windows:  # type: ignore[type-var]
        await take(windows, table, 18)
        for window in table.recent(18):
            lengths.add(round(window.seconds))
    assert programs(table) == {"nginx": 180}
    assert lengths >= {1, 60}


async def test_a_history_begins_where_it_is_asked_to(tmp_path: Path) -> None:
    path, run, table = tmp_path / "history.db", Run(), TrafficTable()
    with writing(path) as writer:
        for at in range(0, 10_000, 1000):
            write(writer, run.window(START_MS + at, 1000, [("nginx", 1, 10)]))
    source = HistorySource(path, since=START_MS / 1000 + 7)
    async with aclosing(source.read(table)) as windows:  # type: ignore[type-var]
        await take(windows, table, 3)
    assert programs(table) == {"nginx": 30}


def test_the_content_of_a_file_says_what_it_is(tmp_path: Path) -> None:
    history, lines = tmp_path / "a", tmp_path / "b.db"
    with writing(history):
        pass
    lines.write_bytes(b"{}\n")
    assert type(choose_recording(history)).__name__ == "HistorySource"
    assert type(choose_recording(lines)).__name__ == "RecordFile"
    assert type(choose_recording(tmp_path / "absent")).__name__ == "RecordFile"


async def test_another_database_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    path.write_bytes(b"SQLite format 3\0" + bytes(200))
    with pytest.raises(ConfigurationError, match=str(path)):
        await HistorySource(path).prepare()

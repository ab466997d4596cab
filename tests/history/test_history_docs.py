"""The queries and the program of docs/history.md run, and their results are right."""

import re
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.histories import HOUR, START_MS, Run, write, writing

from hogpipe.history.counters import COUNTERS
from hogpipe.history.levels import BUCKETED
from hogpipe.model import TcpHealth

PAGE = (Path(__file__).parents[2] / "docs" / "history.md").read_text(encoding="utf-8")
HEALTH = TcpHealth(retransmits=2, rtt_samples=2, rtt_sum_us=500, rtt_min_us=200)
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, run = tmp_path_factory.mktemp("docs") / "history.db", Run()
    with writing(path) as writer:
        for at in range(0, 30 * HOUR, 60_000):
            moved = [("nginx", 1, 5, HEALTH), ("nginx", 2, 1, None)]
            write(writer, run.window(START_MS + at, 1000, moved))
    return path


@pytest.fixture
def database(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as database:
        # The shell has this function; without it, see its documentation (sqlar).
        database.create_function("sqlar_uncompress", 2, lambda data, _size: zlib.decompress(data))
        yield database


def test_the_programs_with_the_most_traffic(database: sqlite3.Connection) -> None:
    assert database.execute(QUERIES[0]).fetchall() == [("nginx", 1441 * 6, 1441 * 12)]


def test_a_unit_by_day(database: sqlite3.Connection) -> None:
    assert database.execute(QUERIES[1]).fetchall() == [("2026-11-22", 17 * 60 * 12, 0)]


def test_the_programs_with_the_most_retransmits(database: sqlite3.Connection) -> None:
    assert database.execute(QUERIES[2]).fetchall() == [("nginx", 1441 * 2, 0.25, 0.2)]


def test_the_coverage_of_hours(database: sqlite3.Connection) -> None:
    rows = database.execute(QUERIES[3]).fetchall()
    assert len(rows) == 29
    assert rows[0] == ("2026-11-22 07:00:00", 60, 60.0, 60)


def test_the_windows_by_process(database: sqlite3.Connection) -> None:
    assert database.execute(QUERIES[4]).fetchall() == [(1, "nginx", 20), (2, "nginx", 4)]


def test_every_query_has_a_test() -> None:
    assert len(QUERIES) == 5


def test_the_program_runs(path: Path, tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "program.py").write_text(program.replace("history.db", str(path)))
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "total 0\n"  # the history is not of the last minutes


def test_the_schema_is_that_of_the_file(database: sqlite3.Connection) -> None:
    rows = re.findall(
        r"^\| (`\w+`(?:, `\w+`)*) \| (.+?) \|$", PAGE.partition("## Schema")[2], re.MULTILINE
    )
    documented = {
        table: re.findall(r"`(\w+)`", re.sub(r"\(.*?\)|, without.*", "", columns))
        for tables, columns in rows
        for table in re.findall(r"\w+", tables)
    }
    tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
    for (table,) in database.execute(tables).fetchall():
        found = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
        assert [name for name in found if name != "used_until"] == documented.pop(table)
    assert documented == {}
    assert [level.name for level in BUCKETED] == ["minutes", "hours", "days"]
    assert len(COUNTERS) == 9

"""The file of a history: what is refused, what is set aside, who may open it."""

import logging
import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from support.histories import MINUTE, START_MS, Run, read_total, total_of, write, writing

from hogpipe.errors import ConfigurationError
from hogpipe.history import history_file
from hogpipe.history.history_file import (
    APPLICATION_ID,
    STEPS,
    find_file_problem,
    needs_folder,
    open_for_reading,
)
from hogpipe.history.level_tables import health_table
from hogpipe.history.levels import BUCKETED
from hogpipe.history.reader import HistoryReader
from hogpipe.model import TcpHealth


def make_history(path: Path) -> dict[str, int]:
    """Write a history of one window; return its totals."""
    window = Run().window(START_MS, 1000, [("nginx", 1, 100)])
    with writing(path) as writer:
        write(writer, window)
    return total_of([window])


def test_a_history_has_the_ids_of_the_documentation(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    make_history(path)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert database.execute("PRAGMA user_version").fetchone() == (len(STEPS),)
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert database.execute("PRAGMA auto_vacuum").fetchone() == (2,)


def test_only_its_user_and_group_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with writing(path) as writer:
        write(writer, Run().window(START_MS, 1000, []))
        modes = [stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()]
        assert len(modes) == 4
        assert all(mode & 0o007 == 0 for mode in modes)


def test_a_closed_history_is_one_file_and_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with writing(path) as writer:
        write(writer, Run().window(START_MS, 1000, [("nginx", 1, 100)]))
        writer.interrupt()  # as a close does that may come during a write
    assert {file.name for file in tmp_path.iterdir()} == {"history.db", "history.db-lock"}


def refused(path: Path, content: bytes) -> str:
    """Return why a file with this content is refused by all; it stays as it is."""
    path.write_bytes(content)
    problem = find_file_problem(path)
    with pytest.raises(ConfigurationError) as by_writer, writing(path):
        pass
    with pytest.raises(ConfigurationError) as by_reader:
        HistoryReader(path)
    assert problem is not None
    assert str(by_writer.value) == f"path {path}: {problem}"
    assert str(by_reader.value) == f"{path}: {problem}"
    assert path.read_bytes() == content
    assert not path.with_name(f"{path.name}-wal").exists()
    return problem


def database_bytes(path: Path, *statements: str) -> bytes:
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()
    content = path.read_bytes()
    path.unlink()
    return content


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    assert refused(path, b'{"type":"traffic"}\n' * 100) == "not a history of hogpipe"


def test_the_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    content = database_bytes(path, "CREATE TABLE moz_places (id INTEGER)")
    assert refused(path, content) == "an SQLite database of another program"


def test_a_history_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    version = len(STEPS) + 1
    content = database_bytes(
        path, f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {version}"
    )
    assert refused(path, content) == (
        f"a history of version {version}, and this hogpipe knows up to version {len(STEPS)}; "
        "upgrade hogpipe, or name another file"
    )


def test_an_empty_file_becomes_a_history(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    path.touch()
    assert find_file_problem(path) is None
    with pytest.raises(ConfigurationError):
        HistoryReader(path)
    total = make_history(path)
    with HistoryReader(path) as reader:
        assert read_total(reader, 0, 1 << 62) == total


def test_a_history_of_an_older_version_is_upgraded_and_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "history.db"
    total = make_history(path)
    monkeypatch.setattr(
        history_file, "STEPS", (*STEPS, "ALTER TABLE runs ADD COLUMN note TEXT; ANALYZE")
    )
    with HistoryReader(path) as reader:
        assert read_total(reader, 0, 1 << 62) == total
    with writing(path):
        pass
    with HistoryReader(path) as reader:
        assert read_total(reader, 0, 1 << 62) == total
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT note FROM runs").fetchall() == [(None,)]


def test_a_second_writer_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with (
        writing(path) as writer,
        pytest.raises(OSError, match="another run or sink writes to it"),
        writing(path),
    ):
        pass
    with writing(path):
        assert find_file_problem(path) is None
    assert writer is not None


def test_a_check_does_not_open_a_file_that_a_writer_has_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "history.db"
    with writing(path):
        monkeypatch.setattr(history_file, "_read_header", lambda _path: 1 / 0)
        assert find_file_problem(path) is None
    with pytest.raises(ZeroDivisionError):
        find_file_problem(path)


@pytest.mark.parametrize("kind", ["truncated", "overwritten"])
def test_a_damaged_history_is_set_aside_and_a_new_one_begins(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    path = tmp_path / "history.db"
    make_history(path)
    content = path.read_bytes()
    damaged = content[:5000] if kind == "truncated" else content[:100] + b"\xff" * 60_000
    path.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        total = make_history(path)
    assert "the history is damaged; it is now" in caplog.text
    assert (tmp_path / "history.db.damaged").read_bytes() == damaged
    with HistoryReader(path) as reader:
        assert read_total(reader, 0, 1 << 62) == total


def test_a_file_that_was_moved_away_is_made_again(tmp_path: Path) -> None:
    path, moved = tmp_path / "history.db", tmp_path / "moved.db"
    run = Run()
    first, second = (run.window(START_MS + at, 1000, [("curl", 1, 7)]) for at in (0, 1000))
    with writing(path) as writer:
        write(writer, first)
        path.rename(moved)
        write(writer, second)
    for where, window in ((moved, first), (path, second)):
        with HistoryReader(where) as reader:
            assert read_total(reader, 0, 1 << 62) == total_of([window])


def test_a_reader_that_may_not_write_beside_the_file_is_advised(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    make_history(path)
    with closing(open_for_reading(path)) as database:
        database.execute("PRAGMA user_version").fetchone()
        # The kernel refuses root nothing, so the error is that of a statement that would write.
        with pytest.raises(sqlite3.OperationalError) as refused:
            database.execute("PRAGMA user_version = 9")
    assert needs_folder(refused.value)


def test_a_missing_file_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file or directory"):
        HistoryReader(tmp_path / "none.db")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigurationError, match="not a regular file but a FIFO"):
        HistoryReader(tmp_path / "fifo")


def test_a_history_without_health_is_read_and_upgraded(
    tmp_path: Path,
) -> None:
    """Version 1 had no tables of health."""
    path, run = tmp_path / "history.db", Run()
    old = [run.window(START_MS + at * MINUTE, 1000, [("nginx", 1, 100)]) for at in range(3)]
    with writing(path) as writer:
        write(writer, *old)
    with closing(sqlite3.connect(path)) as database:
        for level in BUCKETED:
            database.execute(f"DROP TABLE {health_table(level).name}")
        database.execute("PRAGMA user_version = 1")
    with HistoryReader(path) as reader:
        assert read_total(reader, 0, 1 << 62) == total_of(old)
        assert reader.query(0, 1 << 62, health=True).total.health is None
        played = [one.records for one in reader.windows(0, 1 << 62)]
        assert total_of(played) == total_of(old)
    health = TcpHealth(retransmits=2, rtt_samples=1, rtt_sum_us=7, rtt_min_us=6)
    new = [run.window(START_MS + at * MINUTE, 1000, [("nginx", 1, 1, health)]) for at in (3, 4)]
    with writing(path) as writer:
        write(writer, *new)
    with HistoryReader(path) as reader:
        assert read_total(reader, 0, 1 << 62) == total_of([*old, *new])

"""Ranges of a history: what its sink wrote, and files that cannot be read."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hogpipe_web.history import Archive
from hogpipe_web.messages import Query
from made_up_host import MadeUpHost, process, stats, traffic
from web_support import Ask, OpenSink, write_history

from hogpipe import Record
from hogpipe.testing import total_bytes

START = 1_795_330_800.0
WINDOWS = 90


@pytest.fixture
def windows() -> list[list[Record]]:
    host = MadeUpHost()
    return [host.window(START + at) for at in range(WINDOWS)]


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    archive = Archive(tmp_path / "history.db", 5000)
    yield archive
    archive.close()


async def test_a_range_has_the_bytes_of_its_windows(
    archive: Archive, windows: list[list[Record]], tmp_path: Path
) -> None:
    await write_history(tmp_path / "history.db", windows)
    past = await archive.read(Query("program"), START, START + WINDOWS)
    picture = past.picture
    moved = sum(total_bytes(record) for window in windows for record in window)
    assert sum(picture.sums[:2]) == moved == sum(map(sum, picture.totals))
    assert sum(sum(row[3:5]) for row in picture.rows) == moved
    assert (past.step, past.covered, len(picture.windows)) == (1, WINDOWS, WINDOWS)
    assert past.extent == (START, START + WINDOWS)
    assert picture.losses is not None
    assert picture.losses.packets == WINDOWS * 10_000
    assert picture.present == ["program", "process", "user", "unit", "remote"]
    labels = {number: label for number, label, _detail, _values in picture.groups}
    assert labels[picture.top[0][0]] == "nginx"
    peers = await archive.read(
        Query("remote", (("program", ("nginx", None, None)),)), START, START + WINDOWS
    )
    of_nginx = [
        total_bytes(record)
        for window in windows
        for record in window
        if record["type"] == "traffic" and record.get("process", {}).get("name") == "nginx"
    ]
    assert sum(peers.picture.sums[:2]) == sum(of_nginx)
    assert len(peers.picture.rows) == 14
    (one,) = (
        await archive.read(
            Query(
                "program", (("process", (900, "2026-11-22T06:58:01.220Z", "nginx", None, None)),)
            ),
            START,
            START + WINDOWS,
        )
    ).picture.rows
    assert sum(one[3:5]) == sum(of_nginx)


async def test_groups_beyond_the_bound_and_the_remainder_are_the_rest(tmp_path: Path) -> None:
    bodies = [traffic(process(f"job-{n}"), n, 0, "exact") for n in range(1, 31)]
    bodies.append(traffic({"remainder": True}, 7, 0, "none"))
    window = MadeUpHost().stamped([*bodies, stats()], START)
    await write_history(tmp_path / "history.db", [window])
    archive = Archive(tmp_path / "history.db", 10)
    picture = (await archive.read(Query("program"), START, START + 60)).picture
    archive.close()
    assert len(picture.groups) == 10
    (rest,) = (row for row in picture.rows if row[0] == 0)
    assert rest[3] == sum(range(1, 21)) + 7
    assert picture.sums[0] == sum(range(1, 31)) + 7


async def test_what_cannot_be_read_is_said_and_read_once_it_can(
    opened: OpenSink, ask: Ask, windows: list[list[Record]], tmp_path: Path
) -> None:
    path = tmp_path / "history.db"
    await opened(history=str(path))
    question = f"/api/history?by=program&since={START}&until={START + WINDOWS}"
    absent = await ask(question)
    assert (absent.status, "No such file" in absent.json["error"]) == (503, True)
    path.write_bytes(b"not a database" * 1000)
    foreign = await ask(question)
    assert (foreign.status, "not a history" in foreign.json["error"]) == (503, True)
    path.unlink()
    await write_history(path, windows)
    assert (await ask(question)).status == 200
    database = sqlite3.connect(path)
    (version,) = database.execute("PRAGMA user_version").fetchone()
    database.execute(f"PRAGMA user_version = {version + 1}")
    database.commit()
    newer = await ask(question)
    assert (newer.status, "version" in newer.json["error"]) == (503, True)
    database.execute(f"PRAGMA user_version = {version}")
    database.commit()
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("BEGIN EXCLUSIVE")
    locked = await ask(question)
    database.rollback()
    database.close()
    assert (locked.status, "locked" in locked.json["error"]) in {(503, True), (200, False)}
    assert (await ask(question)).status == 200


@pytest.mark.parametrize(
    "span",
    ["", "since=1&until=1", "since=2&until=1", "since=nan&until=5", "since=1&until=inf",
     "since=1&until=1e300", "since=a&until=2", "since=-5&until=2"],
)  # fmt: skip
async def test_an_impossible_range_is_a_wrong_question(
    opened: OpenSink, ask: Ask, tmp_path: Path, span: str
) -> None:
    await opened(history=str(tmp_path / "history.db"))
    assert (await ask(f"/api/history?by=program&{span}")).status == 400


async def test_without_a_history_the_answer_names_the_setting(opened: OpenSink, ask: Ask) -> None:
    await opened()
    answer = await ask("/api/history?by=program&since=1&until=2")
    assert (answer.status, "history" in answer.json["error"]) == (404, True)

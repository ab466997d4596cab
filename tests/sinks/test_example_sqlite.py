"""The sink `records_db` keeps its promises, and stores each record once."""

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from example_sqlite import SqliteSettings, SqliteSink

from hogpipe import SinkType
from hogpipe.testing import PROMISES, SinkCase, check_sink


@pytest.fixture
def case(tmp_path: Path) -> SinkCase:
    path = tmp_path / "records.db"

    async def arrived() -> list[dict[str, object]]:
        with closing(sqlite3.connect(path)) as database:
            rows = database.execute("SELECT record FROM records ORDER BY rowid")
            return [json.loads(text) for (text,) in rows]

    @asynccontextmanager
    async def lock() -> AsyncIterator[None]:
        with closing(sqlite3.connect(path)) as database:
            database.execute("BEGIN EXCLUSIVE")
            yield
            database.rollback()

    return SinkCase(
        sink_type=SinkType("records_db", SqliteSettings, SqliteSink),
        keys={"path": path, "write_timeout": 0.5},
        arrived=arrived,
        stall=lock,
        exactly_once=True,
        largest_window=5_000,
    )


@pytest.mark.parametrize("promise", PROMISES)
async def test_sqlite_keeps_its_promises(case: SinkCase, promise: str) -> None:
    await check_sink(case, [promise])

"""The built-in sinks keep the promises that plugins have to keep."""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from support.line_server import LineServer

from hogpipe.history.reader import HistoryReader
from hogpipe.sinks.builtin import hogpipe_sinks
from hogpipe.sinks.contract import SinkType
from hogpipe.sinks.stdout import StdoutSettings, StdoutSink
from hogpipe.testing import PROMISES, SinkCase, check_sink

BUILT_IN = {sink_type.name: sink_type for sink_type in hogpipe_sinks()}


@pytest.fixture
def jsonl(tmp_path: Path) -> SinkCase:
    path = tmp_path / "records.jsonl"

    async def arrived() -> list[dict[str, object]]:
        lines = path.read_bytes().splitlines() if path.exists() else []
        return [orjson.loads(line) for line in lines]

    return SinkCase(
        sink_type=BUILT_IN["jsonl"],
        keys={"path": path},
        arrived=arrived,
        wrong_keys=[{"path": tmp_path}, {"path": "/dev/null/records.jsonl"}],
    )


@pytest.mark.parametrize("promise", PROMISES)
async def test_jsonl_keeps_its_promises(jsonl: SinkCase, promise: str) -> None:
    await check_sink(jsonl, [promise])


@pytest.fixture
def sqlite(tmp_path: Path) -> SinkCase:
    path = tmp_path / "history.db"

    async def arrived() -> list[dict[str, object]]:
        if not path.exists() or not path.stat().st_size:
            return []
        with HistoryReader(path) as reader:
            windows = list(reader.windows(0, 1 << 62))
        return [{**record} for window in windows for record in window.records]

    @asynccontextmanager
    async def lock() -> AsyncIterator[None]:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            yield
            database.execute("ROLLBACK")

    return SinkCase(
        sink_type=BUILT_IN["sqlite"],
        keys={"path": path, "write_timeout": 0.5},
        arrived=arrived,
        stall=lock,
        wrong_keys=[
            {"path": tmp_path},
            {"path": "/dev/null/history.db"},
            {"keep_minutes": 1800.0},
            {"keep_days": 86_400.0},
            {"max_mib": 1},
        ],
        exactly_once=True,
        largest_window=10_000,
    )


@pytest.mark.parametrize("promise", PROMISES)
async def test_sqlite_keeps_its_promises(sqlite: SinkCase, promise: str) -> None:
    await check_sink(sqlite, [promise])


@pytest.fixture
async def tcp() -> AsyncIterator[SinkCase]:
    async with LineServer() as server:
        yield SinkCase(
            sink_type=BUILT_IN["tcp"],
            keys={"host": "127.0.0.1", "port": server.port, "write_timeout": 0.5},
            arrived=server.arrived,
            outage=server.outage,
            stall=server.stall,
            wrong_keys=[{"port": 0}, {"port": 65536}, {"host": ""}],
        )


@pytest.mark.parametrize("promise", PROMISES)
async def test_tcp_keeps_its_promises(tcp: SinkCase, promise: str) -> None:
    await check_sink(tcp, [promise])


class Pipe:
    """A pipe whose reader keeps the lines, and can stall."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.data = bytearray()
        self.reading = False
        self.resume()

    def resume(self) -> None:
        asyncio.get_running_loop().add_reader(self.reader, self._read)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.data += os.read(self.reader, 1 << 16)

    async def arrived(self) -> list[dict[str, object]]:
        whole = bytes(self.data).rpartition(b"\n")[0]
        return [orjson.loads(line) for line in whole.splitlines()]

    @asynccontextmanager
    async def stall(self) -> AsyncIterator[None]:
        asyncio.get_running_loop().remove_reader(self.reader)
        yield
        self.resume()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.reader)
        os.close(self.reader)
        os.close(self.writer)


@pytest.fixture
async def stdout() -> AsyncIterator[SinkCase]:
    pipe = Pipe()
    yield SinkCase(
        sink_type=SinkType(
            "stdout", StdoutSettings, lambda settings: StdoutSink(settings, pipe.writer)
        ),
        keys={"write_timeout": 0.5},
        arrived=pipe.arrived,
        stall=pipe.stall,
        wrong_keys=[{"format": "yaml"}, {"rows": 0}],
        exactly_once=True,
    )
    pipe.close()


@pytest.mark.parametrize("promise", PROMISES)
async def test_stdout_keeps_its_promises(stdout: SinkCase, promise: str) -> None:
    await check_sink(stdout, [promise])

"""A sink that stores records in an SQLite database; a thread makes its blocking calls."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hogpipe import JsonEncoder, JsonSettings, Record, SinkSettings, SinkType, hookimpl, record_id


class SqliteSettings(JsonSettings, frozen=True, kw_only=True):
    """`type = "records_db"`."""

    path: Path


class SqliteSink:
    """Stores a row for each record."""

    def __init__(self, settings: SqliteSettings) -> None:
        self._path = settings.path
        self._encoder = JsonEncoder(settings)
        self._thread = ThreadPoolExecutor(1, "sqlite")
        self._database: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Open the database, and create the table if there is none."""
        await self._in_thread(self._open)

    async def write(self, records: Sequence[Record]) -> None:
        """Insert a window; a repeat changes nothing."""
        await self._in_thread(lambda: self._insert(records))

    async def close(self) -> None:
        """Let the thread close the database after its remaining work."""
        self._thread.submit(self._close)
        self._thread.shutdown(wait=False)

    async def _in_thread(self, work: Callable[[], None]) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.OperationalError as error:  # locked, disk full
            raise OSError(f"{self._path}: {error}") from error

    def _open(self) -> None:
        self._database = self._database or sqlite3.connect(self._path)
        columns = "run TEXT, sequence INTEGER, record TEXT, PRIMARY KEY (run, sequence)"
        self._database.execute(f"CREATE TABLE IF NOT EXISTS records ({columns})")

    def _insert(self, records: Sequence[Record]) -> None:
        assert self._database is not None
        documents = [document.decode() for document in self._encoder.documents(records)]
        ids = map(record_id, records)
        rows = [(*key, document) for key, document in zip(ids, documents, strict=True)]
        with self._database:  # one transaction: all of the window or nothing
            self._database.executemany("INSERT OR IGNORE INTO records VALUES (?, ?, ?)", rows)

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()


@hookimpl
def hogpipe_sinks() -> Iterable[SinkType[SinkSettings]]:
    """Offer the sink type `records_db`."""
    return [SinkType("records_db", SqliteSettings, SqliteSink)]

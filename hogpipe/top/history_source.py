"""A history (docs/history.md) as the source of the screen: from its beginning, and on as it grows.

In: the path of a history. Out: windows of the table of connections: days, hours and minutes where
no windows are kept any more, then windows as they were recorded. A thread of its own reads them, a
few at a time, as the screen takes them.

What may fail: `prepare` and `read` raise what `HistoryReader` raises.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from hogpipe.history.reader import HistoryReader
from hogpipe.text import printable
from hogpipe.top.record_windows import ParsedWindow, build_window, parse_records
from hogpipe.top.traffic_table import TrafficTable, WindowTraffic

if TYPE_CHECKING:
    from hogpipe.history.answers import HistoryWindow

_POLL_SECONDS = 0.5
_WINDOWS_AT_A_TIME = 4
_END_OF_TIME = 1 << 52  # milliseconds


class HistorySource:
    """The windows of a history, in the order of their start, from the one at `since` on."""

    is_live = False

    def __init__(self, path: Path, since: float = 0.0) -> None:
        self._path = path
        self._since_ms = max(0, round(since * 1000))
        self.is_at_end = False

    @property
    def title(self) -> str:
        """Return the name of the file."""
        return printable(self._path.name)

    async def prepare(self) -> None:
        """Check that it is a history."""
        await asyncio.to_thread(lambda: HistoryReader(self._path).close())

    async def read(self, table: TrafficTable) -> AsyncIterator[WindowTraffic]:
        """Read to the end, and on as windows are added."""
        self.is_at_end = False
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "history") as thread:
            reader = await loop.run_in_executor(thread, HistoryReader, self._path)
            reading = _Reading(reader, self._since_ms)
            try:
                while True:
                    windows = await loop.run_in_executor(thread, reading.read_next)
                    for window in windows:
                        yield build_window(table, window)
                    if not windows:
                        self.is_at_end = True
                        await asyncio.sleep(_POLL_SECONDS)
            finally:
                await asyncio.shield(loop.run_in_executor(thread, reading.close))


class _Reading:
    """One reading of a history; in one thread."""

    def __init__(self, reader: HistoryReader, since_ms: int) -> None:
        self._reader = reader
        self._since_ms = since_ms
        self._windows: Iterator[HistoryWindow] = iter(())

    def read_next(self) -> list[ParsedWindow]:
        """Return the next windows; none at the end, for now."""
        found = list(islice(self._windows, _WINDOWS_AT_A_TIME))
        if not found:
            self._windows = self._reader.windows(self._since_ms, _END_OF_TIME)
            found = list(islice(self._windows, _WINDOWS_AT_A_TIME))
        if found:
            self._since_ms = max(self._since_ms, *(one.start_ms + 1 for one in found))
        return [parse_records(one.start_ms / 1000, one.end_ms / 1000, one.records) for one in found]

    def close(self) -> None:
        """Close the history."""
        self._windows = iter(())  # it ends what it was reading
        self._reader.close()

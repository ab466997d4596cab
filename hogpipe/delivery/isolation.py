"""A sink whose calls take no longer than they may, and raise nothing but Exceptions."""

import asyncio
from collections.abc import Sequence
from functools import partial

from hogpipe.delivery.calls import Calls
from hogpipe.records.schema import Record
from hogpipe.sinks.contract import Reopenable, Sink

OPEN_SECONDS = 5.0
"""How long an open or a reopen may take."""
CLOSE_SECONDS = 0.4
"""How long a close may take: whoever stops a run waits for it."""


class IsolatedSink:
    """Calls a sink, one call at a time (calls.py); each raises what the sink raises."""

    def __init__(self, sink: Sink, write_seconds: float) -> None:
        self._sink = sink
        self._write_seconds = write_seconds
        self._calls = Calls()
        self._opening: asyncio.Task[None] | None = None
        self.opened = False
        self.reopenable = isinstance(sink, Reopenable)

    async def open(self, patience: float | None = None) -> bool:
        """Open it, or go on with it; return whether that was over within `patience` seconds."""
        if self._opening is None:
            opening = self._calls.call(self._sink.open, OPEN_SECONDS)
            self._opening = asyncio.create_task(opening)
        await asyncio.wait({self._opening}, timeout=patience)
        if not self._opening.done():
            return False
        opened, self._opening = self._opening, None
        opened.result()
        self.opened = True
        return True

    async def write(self, records: Sequence[Record]) -> None:
        """Give it records."""
        await self._calls.call(partial(self._sink.write, records), self._write_seconds)

    async def reopen(self) -> None:
        """Have it let go of its files, if it is `reopenable`."""
        assert isinstance(self._sink, Reopenable)
        await self._calls.call(self._sink.reopen, OPEN_SECONDS)

    async def close(self) -> None:
        """Close it, whatever it is doing."""
        if self._opening is not None:
            self._opening.cancel()
        await self._calls.finish()
        try:
            await self._calls.call(self._sink.close, CLOSE_SECONDS)
        finally:
            await self._calls.finish()

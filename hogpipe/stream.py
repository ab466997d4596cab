"""The pipeline as a library: a context in which records can be iterated over."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from hogpipe.config.settings import ConfiguredSink, Settings
from hogpipe.errors import CaptureError, OutputClosedError
from hogpipe.pipeline import Pipeline
from hogpipe.records.schema import Record
from hogpipe.sinks.contract import Sink, SinkSettings, SinkType

log = logging.getLogger(__name__)

_FOR_EVER = 1e9  # seconds
_MOST_WAITING = 2  # windows; more of them wait, and merge, in the sink's queue


class _Outlet:
    """A sink whose windows an iterator takes out again."""

    def __init__(self) -> None:
        self._windows: deque[Sequence[Record]] = deque()
        self._changed = asyncio.Condition()
        self._ended = False
        self.exhausted = False

    async def open(self) -> None:
        """Do nothing: the reader is there."""

    async def write(self, records: Sequence[Record]) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._windows) < _MOST_WAITING or self._ended)
            if self._ended:
                raise OutputClosedError("the iteration has ended")
            self._windows.append(records)
            self._changed.notify_all()

    async def close(self) -> None:
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    async def iterate(self) -> AsyncIterator[Record]:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._windows or self._ended)
                if not self._windows:
                    self.exhausted = True
                    return
                records = self._windows.popleft()
                self._changed.notify_all()
            for record in records:
                yield record


@asynccontextmanager
async def stream_records(
    settings: Settings, *, host: str | None = None
) -> AsyncIterator[AsyncIterator[Record]]:
    """Run a pipeline for as long as the context lasts, and give an iterator over its records.

    The iterator ends when the source does. The configured sinks, if any, get the records too. A
    reader that is slow gets windows merged (live) or slows the replay down.

    Raises ConfigurationError, NotPermittedError or CaptureError on entry; CaptureError on exit
    where the source broke off before its end and all was read.
    """
    outlet = _Outlet()

    def create(_settings: SinkSettings) -> Sink:
        return outlet

    # A reader may take its time: that is no failure to be tried again.
    sink = SinkSettings(type="stream", write_timeout=_FOR_EVER)
    choice = ConfiguredSink(SinkType("stream", SinkSettings, create), sink)
    pipeline = Pipeline(
        msgspec.structs.replace(settings, sinks=(*settings.sinks, choice)), host=host
    )
    await pipeline.open()
    run = asyncio.create_task(pipeline.run())
    try:
        yield outlet.iterate()
    finally:
        read_all = outlet.exhausted
        pipeline.stop()
        await outlet.close()
        try:
            await run
        except CaptureError as error:
            # Who left early, or with an error of their own, did not want to know.
            if read_all:
                raise
            log.info("%s", error)

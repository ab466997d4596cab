"""The pipeline as a library: a context that yields the records of a run.

An internal sink hands the records to the iterator, so the reader is one more sink: a slow reader
gets coalesced windows in a live run and slows a replay down.
"""

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

_NO_TIMEOUT = 1e9  # seconds
_MAX_WINDOWS = 2  # held for the iterator; further windows are coalesced in the sink's queue


class _IteratorSink:
    """A sink that passes windows to an iterator."""

    def __init__(self) -> None:
        self._windows: deque[Sequence[Record]] = deque()
        self._changed = asyncio.Condition()
        self._ended = False
        self.exhausted = False

    async def open(self) -> None:
        """Do nothing."""

    async def write(self, records: Sequence[Record]) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._windows) < _MAX_WINDOWS or self._ended)
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
    """Run a pipeline for as long as the context lasts; yields an iterator over its records.

    The iterator ends when the source does. The configured sinks, if any, get the records too.

    Raises ConfigurationError, NotPermittedError, BpfUnavailableError or CaptureError on entry;
    CaptureError on exit if the source broke off and the iterator was read to its end.
    """
    sink = _IteratorSink()

    def create(_settings: SinkSettings) -> Sink:
        return sink

    # A slow reader is no failure, so a write has no timeout and is never retried.
    sink_settings = SinkSettings(type="stream", write_timeout=_NO_TIMEOUT)
    configured = ConfiguredSink(SinkType("stream", SinkSettings, create), sink_settings)
    pipeline = Pipeline(
        msgspec.structs.replace(settings, sinks=(*settings.sinks, configured)), host=host
    )
    await pipeline.open()
    run = asyncio.create_task(pipeline.run())
    try:
        yield sink.iterate()
    finally:
        read_all = sink.exhausted
        pipeline.stop()
        await sink.close()
        try:
            await run
        except CaptureError as error:
            # A reader that left early, or with its own error, is not interested in the source's.
            if read_all:
                raise
            log.info("%s", error)

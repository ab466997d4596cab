"""A pipeline in this process as the source of the screen: live, or a replay of a savefile.

In: settings. Out: windows of the table of connections. A replay may be read again from its
beginning, and waits for the screen; a live pipeline is read once.

What may fail: `prepare` raises what `Pipeline.open` raises; `read` raises CaptureError if the
source breaks off, after all windows that it captured.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from hogpipe.aggregation.selectors import parse_selector
from hogpipe.config.settings import ConfiguredSink, Settings
from hogpipe.errors import CaptureError, OutputClosedError
from hogpipe.model import Process, Span, make_networks
from hogpipe.pipeline import Pipeline
from hogpipe.protocols import NANOSECONDS
from hogpipe.records.schema import Record, StatsRecord
from hogpipe.security.run_threads import RunThreads
from hogpipe.sinks.contract import Sink, SinkSettings, SinkType
from hogpipe.text import printable
from hogpipe.top.live_flows import DrainedFlows, LiveFlows
from hogpipe.top.live_windows import LiveWindows
from hogpipe.top.record_windows import parse_span
from hogpipe.top.traffic_table import TrafficTable, WindowTraffic

if TYPE_CHECKING:
    from hogpipe.aggregation.dimensions import DimensionName

_NO_TIMEOUT = 1e9  # seconds
_MAX_WINDOWS = 2  # of a replay that are ready


class PipelineSource:
    """A pipeline whose only sink is the screen; live, or a replay of a savefile."""

    def __init__(self, settings: Settings, threads: RunThreads | None = None) -> None:
        capture = settings.capture
        self.is_live = capture.source != "savefile"
        self.is_at_end = False
        dimensions: list[DimensionName] = ["process", "flow"]
        if capture.source != "ebpf":
            dimensions.insert(1, "interface")
        if settings.needs_peer_names:  # otherwise no rights for names of peers were kept
            dimensions.append("domain")
        aggregation = msgspec.structs.replace(settings.aggregation, group_by=tuple(dimensions))
        self._settings = msgspec.structs.replace(settings, aggregation=aggregation, sinks=())
        self._opened: _OpenPipeline | None = None
        self._threads = threads
        """Those of the first pipeline; None for a further one, of a replay."""

    @property
    def title(self) -> str:
        """Return the file, the source or the interfaces."""
        capture = self._settings.capture
        if capture.path is not None and capture.source == "savefile":
            return printable(capture.path.name)
        if capture.source == "ebpf":
            return "sockets (ebpf)"
        return printable(" ".join(capture.interfaces))

    async def prepare(self) -> None:
        """Open the pipeline; raises what its `open` raises."""
        threads, self._threads = self._threads, None
        opened = _OpenPipeline(self._settings, threads, is_live=self.is_live)
        await opened.pipeline.open()
        self._opened = opened

    async def read(self, table: TrafficTable) -> AsyncIterator[WindowTraffic]:
        """Run the pipeline. Raises CaptureError if its source breaks off."""
        self.is_at_end = False
        if self._opened is None:
            await self.prepare()
        opened, self._opened = self._opened, None
        assert opened is not None
        sink, pipeline = opened.sink, opened.pipeline
        windows = LiveWindows(table)
        run = asyncio.create_task(pipeline.run())
        run.add_done_callback(lambda _task: sink.end())
        try:
            while (window := await sink.take()) is not None:
                drained, stats = window
                yield windows.build(drained, _find_span(stats), stats)
            self.is_at_end = True
            await run
        finally:
            pipeline.stop()
            sink.end()
            with suppress(CaptureError):  # raised above, if all was read
                await run


class _OpenPipeline:
    """A pipeline with its sink."""

    def __init__(self, settings: Settings, threads: RunThreads | None, *, is_live: bool) -> None:
        self.sink = _WindowSink(is_live=is_live)

        def create(_settings: SinkSettings) -> Sink:
            return self.sink

        def make_flows(settings: Settings, recall: Callable[[Process], Process]) -> LiveFlows:
            networks = make_networks(settings.networks)
            only = [parse_selector(text, networks) for text in settings.aggregation.only]
            max_flows = settings.attribution.max_flows
            return LiveFlows(only, max_flows, recall, self.sink.add_drained, networks)

        # A write has no timeout, and windows are never merged: each belongs to what was drained.
        sink_settings = SinkSettings(type="screen", write_timeout=_NO_TIMEOUT, when_full="block")
        configured = ConfiguredSink(SinkType("screen", SinkSettings, create), sink_settings)
        self.pipeline = Pipeline(
            msgspec.structs.replace(settings, sinks=(configured,)),
            make_aggregator=make_flows,
            is_watched=True,
            threads=threads,
        )


class _WindowSink:
    """Joins what was drained in each window with the stats record of the window."""

    def __init__(self, *, is_live: bool) -> None:
        self._is_live = is_live
        self._drained: deque[DrainedFlows] = deque()
        self._windows: deque[tuple[DrainedFlows, StatsRecord]] = deque()
        self._filled, self._taken = asyncio.Event(), asyncio.Event()
        self._has_ended = False

    def add_drained(self, drained: DrainedFlows) -> None:
        """Add what moved in a window; its stats follow."""
        self._drained.append(drained)

    async def open(self) -> None:
        """Do nothing."""

    async def write(self, records: Sequence[Record]) -> None:
        """Add the stats of a window; a replay waits for the screen."""
        for record in records:
            if record["type"] != "stats":
                continue
            self._windows.append((self._drained.popleft(), record))
            self._filled.set()
            while not self._has_room():
                self._taken.clear()
                await self._taken.wait()
        if self._has_ended:
            raise OutputClosedError("the screen was closed")

    def _has_room(self) -> bool:
        return self._is_live or self._has_ended or len(self._windows) < _MAX_WINDOWS

    async def close(self) -> None:
        """Do nothing: the end of the run ends it."""

    def end(self) -> None:
        """End the waiting on both sides."""
        self._has_ended = True
        self._filled.set()
        self._taken.set()

    async def take(self) -> tuple[DrainedFlows, StatsRecord] | None:
        """Return the next window; None at the end."""
        while not self._windows:
            if self._has_ended:
                return None
            self._filled.clear()
            await self._filled.wait()
        self._taken.set()
        return self._windows.popleft()


def _find_span(stats: StatsRecord) -> Span:
    start, end = parse_span(stats["window"])
    return Span(round(start * NANOSECONDS), round(end * NANOSECONDS))

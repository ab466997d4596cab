"""Where the windows of the screen come from: a pipeline in this process, or a file of records.

In: settings, or a path. Out: windows of the table of connections, in order. `read` starts from the
beginning each time it is called, but for a live source, of which there is one reading.

What may fail: `prepare` and `read` raise HogpipeError. Files are read and parsed in a thread.
"""

import asyncio
import gzip
import os
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

import msgspec

from hogpipe.aggregation.selectors import parse_selector
from hogpipe.config.settings import ConfiguredSink, Settings
from hogpipe.errors import CaptureError, OutputClosedError
from hogpipe.files import require_regular
from hogpipe.model import Process, Span
from hogpipe.pipeline import Pipeline
from hogpipe.protocols import NANOSECONDS
from hogpipe.records.schema import Record, StatsRecord
from hogpipe.sinks.contract import Sink, SinkSettings, SinkType
from hogpipe.text import printable
from hogpipe.top.live_flows import DrainedFlows, LiveFlows, build_live_window
from hogpipe.top.record_windows import ParsedWindow, WindowParser, build_window, parse_span
from hogpipe.top.traffic_table import TrafficTable, WindowTraffic

if TYPE_CHECKING:
    from hogpipe.aggregation.dimensions import DimensionName

_NO_TIMEOUT = 1e9  # seconds
_MAX_WINDOWS = 2  # of a replay that are ready
_CHUNK_BYTES = 1 << 18
_LONGEST_LINE = 1 << 20
_POLL_SECONDS = 0.25
_SETTLE_POLLS = 4  # after which the last window of a file is complete, even without stats
_GZIP = b"\x1f\x8b"


class WindowSource(Protocol):
    """What the screen shows."""

    is_live: bool
    """Whether windows come by the clock, and once only."""
    is_at_end: bool
    """Whether all windows that there are have been read."""

    @property
    def title(self) -> str:
        """Return what is read, in a few words."""

    async def prepare(self) -> None:
        """Open what is read."""

    def read(self, table: TrafficTable) -> AsyncIterator[WindowTraffic]:
        """Yield the windows, each to be appended to the table at once."""


class PipelineSource:
    """A pipeline whose only sink is the screen; live, or a replay of a savefile."""

    def __init__(self, settings: Settings) -> None:
        capture = settings.capture
        self.is_live = capture.source != "savefile"
        self.is_at_end = False
        dimensions: list[DimensionName] = ["process", "flow"]
        if capture.source != "ebpf":
            dimensions.insert(1, "interface")
        aggregation = msgspec.structs.replace(settings.aggregation, group_by=tuple(dimensions))
        self._settings = msgspec.structs.replace(settings, aggregation=aggregation, sinks=())
        self._opened: _OpenPipeline | None = None

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
        opened = _OpenPipeline(self._settings, is_live=self.is_live)
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
        run = asyncio.create_task(pipeline.run())
        run.add_done_callback(lambda _task: sink.end())
        try:
            while (window := await sink.take()) is not None:
                drained, stats = window
                yield build_live_window(table, drained, _find_span(stats), stats)
            self.is_at_end = True
            await run
        finally:
            pipeline.stop()
            sink.end()
            with suppress(CaptureError):  # raised above, if all was read
                await run


class _OpenPipeline:
    """A pipeline with its sink."""

    def __init__(self, settings: Settings, *, is_live: bool) -> None:
        self.sink = _WindowSink(is_live=is_live)

        def create(_settings: SinkSettings) -> Sink:
            return self.sink

        def make_flows(settings: Settings, recall: Callable[[Process], Process]) -> LiveFlows:
            only = [parse_selector(text) for text in settings.aggregation.only]
            max_flows = settings.attribution.max_flows
            return LiveFlows(only, max_flows, recall, self.sink.add_drained)

        # A write has no timeout, and windows are never merged: each belongs to what was drained.
        sink_settings = SinkSettings(type="screen", write_timeout=_NO_TIMEOUT, when_full="block")
        configured = ConfiguredSink(SinkType("screen", SinkSettings, create), sink_settings)
        self.pipeline = Pipeline(
            msgspec.structs.replace(settings, sinks=(configured,)),
            make_aggregator=make_flows,
            is_watched=True,
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


class RecordFile:
    """A file of JSON lines, plain or gzip. A plain one is read on while it grows.

    If another file has its name, as after a rotation, that one follows; a file that got shorter is
    read from its beginning.
    """

    is_live = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self.is_at_end = False
        self.parser = WindowParser()
        self.damage = ""
        """Why the rest of a compressed file cannot be read; empty if it can."""

    @property
    def title(self) -> str:
        """Return the name of the file."""
        return printable(self._path.name)

    async def prepare(self) -> None:
        """Check that there is a file; raises CaptureError."""
        await asyncio.to_thread(lambda: self._open().close())

    async def read(self, table: TrafficTable) -> AsyncIterator[WindowTraffic]:
        """Read to the end, and on as the file grows. Raises CaptureError."""
        self.is_at_end, self.parser, self.damage = False, WindowParser(), ""
        lines = _LineReader(await asyncio.to_thread(self._open), self._path)
        quiet_polls = 0
        try:
            while True:
                windows = await asyncio.to_thread(self._parse_next, lines)
                for window in windows:
                    yield build_window(table, window)
                self.damage = lines.damage
                if lines.has_more:
                    quiet_polls = 0
                    continue
                quiet_polls += 1
                if lines.is_final or quiet_polls >= _SETTLE_POLLS:
                    for window in self.parser.finish():
                        yield build_window(table, window)
                self.is_at_end = True
                if lines.is_final:
                    return
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            lines.close()

    def _open(self) -> BinaryIO:
        try:
            require_regular(self._path)
            return self._path.open("rb", buffering=0)
        except OSError as error:
            reason = error.strerror or str(error)
            raise CaptureError(printable(f"--from {self._path}: {reason}")) from error

    def _parse_next(self, lines: "_LineReader") -> list[ParsedWindow]:
        """Return the windows that the next part of the file completes (in a thread)."""
        return list(self.parser.parse(lines.read()))


class _LineReader:
    """Reads whole lines of a file that may grow, be replaced or be compressed."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._path = path
        self._file = file
        self._rest = b""
        self._is_skipping = False
        self.is_final = file.read(len(_GZIP)) == _GZIP
        """Whether the file does not grow."""
        file.seek(0)
        self._reader: BinaryIO = gzip.GzipFile(fileobj=file) if self.is_final else file  # type: ignore[assignment]
        self.has_more = False
        """Whether the last `read` was not at the end."""
        self.damage = ""

    def read(self) -> list[bytes]:
        """Return the next whole lines; at the end of a compressed file the last part, too."""
        try:
            chunk = self._reader.read(_CHUNK_BYTES)
        except (EOFError, OSError, zlib.error) as error:
            chunk, self.damage = b"", printable(str(error))
        if not chunk and not self.damage and not self.is_final and self._was_replaced():
            self.has_more = True
            return self._take_rest()
        self.has_more = bool(chunk)
        if not chunk and self.is_final:
            return self._take_rest()
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            # Not a record: its parts are counted as lines that are none.
            lines, self._rest = [*lines, self._rest], b""
        return lines

    def _take_rest(self) -> list[bytes]:
        rest, self._rest = self._rest, b""
        return [rest] if rest else []

    def _was_replaced(self) -> bool:
        """Open the file that has the name now, if it is another one or has become shorter."""
        try:
            there, here = self._path.stat(), os.fstat(self._file.fileno())
            is_same = (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
            if is_same and here.st_size >= self._file.tell():
                return False
            require_regular(self._path)
            file = self._path.open("rb", buffering=0)
        except OSError:  # between two files, as during a rotation: the next poll finds it
            return False
        self._file.close()
        self._file = self._reader = file
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()

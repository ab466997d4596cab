"""PURE: lines of JSON records as windows of the table of connections.

In: lines. Out: `ParsedWindow`s, each from adjacent records of one span of time, and with
`build_window` entries of the table. A line that is no record, or has other types than a record, is
counted and left out.

Known limits: records of several hosts are summed up where their windows have the same times and
follow one another; a pid stands for one process then.
"""

from collections.abc import Iterator, Sequence
from typing import NotRequired, TypedDict, cast

import msgspec
import numpy as np

from hogpipe.flows.health_columns import SlotHealth
from hogpipe.records.schema import (
    DroppedInfo,
    LoopInfo,
    MemoryInfo,
    Record,
    StatsBody,
    TallyInfo,
    TrafficRecord,
    Window,
)
from hogpipe.records.tcp_health import parse_tcp
from hogpipe.top.described_flows import Owner, Path, parse_owner, parse_path
from hogpipe.top.run_figures import Figures, parse_stats
from hogpipe.top.traffic_table import QUALITIES, TrafficTable, WindowTraffic

_CODES = {str(quality): code for code, quality in enumerate(QUALITIES)}
_LARGEST = 1 << 62


class _Kind(msgspec.Struct):
    type: str


class _CaptureKeys(TypedDict):
    packets: int
    bytes: int
    dropped: DroppedInfo
    overflowed: TallyInfo
    not_local: TallyInfo


class _LedgerKeys(TypedDict):
    events_lost: int
    sockets_lost: int


class _PendingKeys(TypedDict):
    flows: int


class _AttributionKeys(TypedDict):
    pending: _PendingKeys
    ledger: NotRequired[_LedgerKeys]


class _AggregationKeys(TypedDict):
    folded_groups: int


class _CpuKeys(TypedDict):
    seconds: float


class _SelfKeys(TypedDict):
    cpu: _CpuKeys
    memory: MemoryInfo
    loop: LoopInfo


class _StatsLine(TypedDict):
    """The keys of a stats record that the screen shows: other versions may have more or fewer."""

    window: Window
    capture: _CaptureKeys
    attribution: _AttributionKeys
    aggregation: _AggregationKeys
    self: NotRequired[_SelfKeys]


_decode_kind = msgspec.json.Decoder(_Kind).decode
_decode_traffic = msgspec.json.Decoder(TrafficRecord).decode
_decode_stats = msgspec.json.Decoder(_StatsLine).decode


class _Entry(msgspec.Struct, frozen=True, gc=False):
    """What a traffic record says."""

    owner: Owner
    path: Path
    counters: tuple[int, int, int, int]
    flows: int
    qualities: tuple[tuple[int, int], ...]
    """Code and bytes."""
    health: tuple[int, ...] | None
    """The counters of `TcpHealth`, where a record has it."""


class ParsedWindow(msgspec.Struct):
    """The records of a window."""

    start: float
    end: float
    entries: list[_Entry] = msgspec.field(default_factory=list)
    figures: Figures = msgspec.field(default_factory=Figures)
    is_complete: bool = False
    """Whether its last record, the stats, is there."""


class WindowParser:
    """Makes windows of lines: `parse` them in their order, and `finish` at their end."""

    def __init__(self) -> None:
        self._open: ParsedWindow | None = None
        self._foreign = 0
        self.lines = 0
        self.foreign_lines = 0
        """How many lines were no records."""
        self.first_foreign = 0
        """The number of the first of them, from 1 on; 0 if there is none."""

    def parse(self, lines: Sequence[bytes]) -> Iterator[ParsedWindow]:
        """Yield the windows that these lines complete."""
        for line in lines:
            self.lines += 1
            if not line.strip():
                continue
            try:
                complete = self._add(line)
            except (ValueError, OSError, RecursionError):
                # DecodeError, a time or an address that is none, or values nested too deeply
                self._foreign += 1
                self.foreign_lines += 1
                self.first_foreign = self.first_foreign or self.lines
                continue
            if complete is not None:
                yield self._close(complete)

    @property
    def has_open_window(self) -> bool:
        """Whether there is a window that further lines may belong to."""
        return self._open is not None

    def finish(self) -> Iterator[ParsedWindow]:
        """Yield the last window, which no further line belongs to."""
        window, self._open = self._open, None
        if window is not None:
            yield self._close(window)

    def _close(self, window: ParsedWindow) -> ParsedWindow:
        window.figures.foreign_lines, self._foreign = self._foreign, 0
        return window

    def _add(self, line: bytes) -> ParsedWindow | None:
        """Add a record to its window; return the window before, if another one begins with it."""
        kind = _decode_kind(line).type
        if kind == "traffic":
            traffic = _decode_traffic(line)
            entry = _parse_entry(traffic)
            window, before = self._select(parse_span(traffic["window"]))
            window.entries.append(entry)
            return before
        if kind == "stats":
            stats = _decode_stats(line)
            span = parse_span(stats["window"])
            window, before = self._select_stats(span)
            _add_stats(window, cast("StatsBody", stats), span)
            return before
        raise ValueError(f"a record of the type {kind}")

    def _select(self, span: tuple[float, float]) -> tuple[ParsedWindow, ParsedWindow | None]:
        """Return the window of a span, and the one before if it ends with it."""
        window = self._open
        if window and (window.start, window.end) == span:
            return window, None
        self._open = ParsedWindow(*span)
        return self._open, window

    def _select_stats(self, span: tuple[float, float]) -> tuple[ParsedWindow, ParsedWindow | None]:
        """Return the window that stats belong to: the last one that their span covers.

        The stats of several windows may be in one record.
        """
        window = self._open
        if window and span[0] <= window.start and window.end == span[1]:
            return window, None
        start = max(span[0], window.end) if window and window.end < span[1] else span[0]
        return self._select((start, span[1]))


def _add_stats(window: ParsedWindow, stats: StatsBody, span: tuple[float, float]) -> None:
    figures = parse_stats(stats)
    window.figures.add(figures, 1)
    window.figures.seconds = span[1] - span[0]
    window.figures.pending_flows = figures.pending_flows
    window.figures.memory_bytes = figures.memory_bytes
    window.figures.loop_delay = figures.loop_delay
    window.is_complete = True


def parse_records(start: float, end: float, records: Sequence[Record]) -> ParsedWindow:
    """Return a window of records that are known to be records."""
    window = ParsedWindow(start, end)
    for record in records:
        if record["type"] == "traffic":
            window.entries.append(_parse_entry(record))
        else:
            _add_stats(window, record, parse_span(record["window"]))
    return window


def parse_span(times: Window) -> tuple[float, float]:
    """Return start and end of a window, seconds since the epoch. Raises ValueError."""
    start, end = times["start_unix"], times["end_unix"]
    if not 0 <= start <= end < _LARGEST:
        raise ValueError("the window ends before it starts")
    return start, end


def _parse_entry(record: TrafficRecord) -> _Entry:
    network = record["network"]
    transmit, receive = network["io"]["transmit"], network["io"]["receive"]
    counters = transmit["bytes"], receive["bytes"], transmit["packets"], receive["packets"]
    qualities = tuple((_CODES.get(name, -1), size) for name, size in record["attribution"].items())
    known = parse_tcp(network)
    health = None if known is None else msgspec.structs.astuple(known)
    numbers = (
        *counters,
        network["flows"],
        *(number for pair in qualities for number in pair),
        *(health or ()),
    )
    if not all(0 <= number < _LARGEST for number in numbers):
        raise ValueError("a counter is negative or too large, or a quality is unknown")
    owner, path = parse_owner(record), parse_path(record)
    return _Entry(owner, path, counters, network["flows"], qualities, health)


def build_window(table: TrafficTable, window: ParsedWindow) -> WindowTraffic:
    """Return a parsed window, whose connections are in the table then."""
    entries = window.entries
    table.make_room(len(entries))
    slots = [table.find(entry.owner, entry.path) for entry in entries]
    qualities = [
        (slot, code, size)
        for slot, entry in zip(slots, entries, strict=True)
        for code, size in entry.qualities
    ]
    counters = np.array([entry.counters for entry in entries], np.int64)
    health = [
        (slot, *entry.health, 1)
        for slot, entry in zip(slots, entries, strict=True)
        if entry.health is not None
    ]
    columns = np.array(health, np.int64)
    return WindowTraffic(
        window.start,
        window.end,
        np.array(slots, np.int32),
        counters.reshape(-1, 4).T,
        np.array([entry.flows for entry in entries], np.int64),
        np.array([slot for slot, _, _ in qualities], np.int32),
        np.array([code for _, code, _ in qualities], np.uint8),
        np.array([size for _, _, size in qualities], np.int64),
        window.figures,
        SlotHealth(columns[:, 0], columns[:, 1:]) if health else None,
    )

"""Histories for tests: windows at given times, a writer, and sums to compare with."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from hogpipe.history.counters import (
    ALL_COUNTERS,
    Totals,
    add_totals,
    read_counters,
    read_health,
)
from hogpipe.history.levels import DAYS, HOURS, MINUTES, WINDOWS, Level
from hogpipe.history.reader import HistoryReader
from hogpipe.history.writer import HistoryWriter, Retention
from hogpipe.model import TcpHealth, TrafficCounts
from hogpipe.records.schema import NetworkInfo, Record, TrafficBody, describe_io
from hogpipe.records.stamp import RecordStamper, make_run_id
from hogpipe.records.tcp_health import add_tcp
from support.sinks import stats

START_MS = 1_795_330_800_000  # 2026-11-22T07:00:00Z
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
KEEP: dict[Level, int] = {WINDOWS: HOUR, MINUTES: 7 * DAY, HOURS: 90 * DAY, DAYS: 365 * DAY}
_STATS = ("capture", "attribution", "aggregation", "self")
Moved = tuple[str, int, int] | tuple[str, int, int, TcpHealth | None]
"""Program, pid, bytes, and the health of TCP connections where it is known."""


class Run:
    """Makes windows of one run, whose sequence has no gap."""

    def __init__(self, number: int = 0) -> None:
        self._stamper = RecordStamper(
            make_run_id(START_MS * 1_000_000, bytes([number] * 10)), "web1"
        )

    def window(self, start_ms: int, length_ms: int, traffic: Iterable[Moved]) -> list[Record]:
        """Return a window with a record for each item of `traffic`, and its stats."""
        start, end = start_ms * 1_000_000, (start_ms + length_ms) * 1_000_000
        records: list[Record] = [
            self._stamper.traffic(make_body(*moved), start, end) for moved in traffic
        ]
        one = stats(packets=len(records))
        body = {key: one[key] for key in _STATS}  # type: ignore[literal-required]
        records.append(self._stamper.stats(body, start, end))  # type: ignore[arg-type]
        return records


def make_body(program: str, pid: int, size: int, health: TcpHealth | None = None) -> TrafficBody:
    """Return a record body of a process that transmitted `size` bytes and received twice that."""
    counts = TrafficCounts(
        transmit_bytes=size, transmit_packets=1, receive_bytes=2 * size, receive_packets=2
    )
    network: NetworkInfo = {"flows": 1, "io": describe_io(counts)}
    if health is not None:
        add_tcp(network, health)
    return {
        "process": {"pid": pid, "name": program, "creation": {"time": "2026-11-22T06:00:00.000Z"}},
        "systemd": {"unit": f"{program}.service"},
        "network": network,
        "attribution": {"exact": 3 * size} if size else {},
    }


@contextmanager
def writing(
    path: Path, keep: dict[Level, int] | None = None, max_bytes: int = 512 << 20
) -> Iterator[HistoryWriter]:
    """Open a writer, and close it."""
    writer = HistoryWriter(path, Retention(keep or KEEP, max_bytes))
    try:
        writer.open()
        yield writer
    finally:
        writer.close()


def write(writer: HistoryWriter, *windows: Sequence[Record]) -> None:
    """Write windows."""
    for window in windows:
        writer.write(window, Event())


def total_of(windows: Iterable[Sequence[Record]]) -> dict[str, int]:
    """Return the sums of all counters of all traffic records."""
    total = add_totals(
        Totals(*read_counters(record), *(read_health(record) or ()))
        for window in windows
        for record in window
        if record["type"] == "traffic"
    )
    return {name: getattr(total, name) for name in ALL_COUNTERS}


def read_total(reader: HistoryReader, since_ms: int, until_ms: int) -> dict[str, int]:
    """Return the sums of all counters of a span."""
    total = reader.query(since_ms, until_ms, health=True).total
    return {name: getattr(total, name) for name in ALL_COUNTERS}

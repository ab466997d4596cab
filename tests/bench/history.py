"""The size of a history, the cost of writing it, and the time of queries.

`python tests/bench/history.py` writes a day of windows with the real writer, as fast as it goes:
the times of the windows are arguments. All groups have traffic in every window, which is the worst
case. It prints the size of the file, the CPU time of a window beside that of the jsonl sink, and
the time of queries on the last minute, ninety minutes and the whole day.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.records import FULL
from support.sinks import stats

from hogpipe.history.levels import DAYS, HOURS, MINUTES, SECOND_MS, WINDOWS
from hogpipe.history.reader import HistoryReader
from hogpipe.history.writer import HistoryWriter, Retention
from hogpipe.records.schema import Record
from hogpipe.records.stamp import make_run_id, make_window
from hogpipe.sinks.jsonl.jsonl_sink import JsonlSettings, JsonlSink

START_MS = 1_795_305_600_000  # 2026-11-22T00:00:00Z
DAY = DAYS.length_ms
KEEP = {WINDOWS: HOURS.length_ms, MINUTES: 7 * DAY, HOURS: 90 * DAY, DAYS: 365 * DAY}


class WindowMaker:
    """Makes windows of `groups` programs, with sizes as they vary between connections."""

    def __init__(self, groups: int, seed: int = 1) -> None:
        self._rng = random.Random(seed)
        self._sequence = 0
        self._run = make_run_id(START_MS * 1_000_000, bytes(10))
        self._processes = [
            {**FULL["process"], "pid": 1000 + n, "name": f"program-{n}", "command": f"program-{n}"}
            for n in range(groups)
        ]

    def make(self, start_ms: int, length_ms: int) -> list[Record]:
        """Return the next window."""
        window = make_window(start_ms * 1_000_000, (start_ms + length_ms) * 1_000_000)
        stamp: dict[str, Any] = {"timestamp": window["end"], "window": window, "run": self._run}
        stamp |= {"schema": 1, "host": {"name": "web1"}}
        records: list[Any] = []
        for number, process in enumerate(self._processes):
            io = self._make_io(length_ms // SECOND_MS)
            total = io["transmit"]["bytes"] + io["receive"]["bytes"]
            none = total if number % 20 == 0 else 0
            records.append(
                {
                    "type": "traffic",
                    **stamp,
                    "sequence": self._next(),
                    "process": process,
                    "systemd": {"unit": f"unit-{number % 50}.service"},
                    "network": {
                        "flows": self._rng.randint(1, 3) * length_ms // SECOND_MS,
                        "io": io,
                    },
                    "attribution": {"none": none} if none else {"exact": total},
                }
            )
        records.append({**stats(), **stamp, "sequence": self._next()})
        return records

    def _make_io(self, seconds: int) -> dict[str, dict[str, int]]:
        sizes = [int(self._rng.paretovariate(1.0) * 200 * seconds) for _ in range(2)]
        return {
            side: {"bytes": size, "packets": 1 + size // 1400}
            for side, size in zip(("transmit", "receive"), sizes, strict=True)
        }

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence


def write_day(path: Path, groups: int, hours: float) -> dict[str, float]:
    """Write so many hours of windows of a second each; return the figures of the writer.

    Only the last hour has a window each second; before that one a minute, with sixty times the
    traffic, stands for sixty: they have expired by the end, and their minute has the same rows.
    """
    maker, end_ms = WindowMaker(groups), START_MS + round(hours * HOURS.length_ms)
    writer = HistoryWriter(path, Retention(KEEP, 512 << 20))
    writer.open()
    start_ms, seconds, windows = START_MS, 0.0, 0
    while start_ms < end_ms:
        is_recent = start_ms >= end_ms - KEEP[WINDOWS]
        length_ms = SECOND_MS if is_recent else MINUTES.length_ms
        window = maker.make(start_ms, length_ms)
        begun = time.process_time()
        writer.write(window, Event())
        if is_recent:
            seconds += time.process_time() - begun
            windows += 1
        start_ms += length_ms
    writer.close()
    return {"window_ms": seconds / windows * 1e3, "mib": path.stat().st_size / (1 << 20)}


def time_queries(path: Path, rounds: int) -> dict[str, float]:
    """Return the CPU milliseconds of each query, with a new reader: the median.

    The file is in the cache of the system, so that on an idle machine a query takes as long.
    """
    with HistoryReader(path) as reader:
        extent = reader.find_extent()
    assert extent is not None
    first, last = extent
    minute = MINUTES.length_ms

    def query(since_ms: int, until_ms: int, by: Sequence[str]) -> Callable[[], object]:
        def run() -> object:
            with HistoryReader(path) as reader:
                return reader.query(since_ms, until_ms, by=by, top=10)

        return run

    def series() -> object:
        with HistoryReader(path) as reader:
            return reader.series(first, last, step_ms=HOURS.length_ms, by=["process.name"])

    asked = {
        "last minute by process": query(last - minute, last, ["process.pid"]),
        "last 90 minutes by program": query(last - 90 * minute, last, ["process.name"]),
        "odd span of the day by program": query(first + 90_500, last - 90_500, ["process.name"]),
        "whole day by unit": query(first, last, ["systemd.unit"]),
        "hours of the day by program": series,
    }
    figures = {}
    for name, run in asked.items():
        times = []
        for _ in range(rounds):
            begun = time.process_time()
            run()
            times.append(time.process_time() - begun)
        figures[name] = sorted(times)[rounds // 2] * 1e3
    return figures


async def compare_writes(folder: Path, records: int, rounds: int) -> dict[str, float]:
    """Return the CPU milliseconds of a window for the history and for the jsonl sink."""
    maker = WindowMaker(records - 1)
    windows = [maker.make(START_MS + n * SECOND_MS, SECOND_MS) for n in range(rounds)]
    writer = HistoryWriter(folder / "compared.db", Retention(KEEP, 512 << 20))
    writer.open()
    jsonl = JsonlSink(JsonlSettings(type="jsonl", path=folder / "compared.jsonl"))
    await jsonl.open()
    seconds: dict[str, list[float]] = {"sqlite": [], "jsonl": []}
    for window in windows:
        begun = time.process_time()
        writer.write(window, Event())
        middle = time.process_time()
        await jsonl.write(window)
        seconds["sqlite"].append(middle - begun)
        seconds["jsonl"].append(time.process_time() - middle)
    writer.close()
    await jsonl.close()
    return {name: sorted(one)[len(one) // 2] * 1e3 for name, one in seconds.items()}


def main() -> None:
    """Measure with the sizes of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=500)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--records", type=int, default=1000, help="of a window to compare")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="also write the figures to FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "history.db"
        day = write_day(path, options.groups, options.hours)
        queries = time_queries(path, options.rounds)
        writes = asyncio.run(compare_writes(folder, options.records, options.rounds * 5))
    print(f"{options.hours:g} h of {options.groups} groups: {day['mib']:.1f} MiB")
    print(f"CPU of a window of {options.groups} groups: {day['window_ms']:.2f} ms")
    for name, figure in queries.items():
        print(f"CPU of a query, {name}: {figure:.1f} ms")
    for name, figure in writes.items():
        print(f"CPU of a window of {options.records} records, {name}: {figure:.2f} ms")
    if options.json:
        options.json.write_text(json.dumps({"day": day, "queries": queries, "writes": writes}))


if __name__ == "__main__":
    main()

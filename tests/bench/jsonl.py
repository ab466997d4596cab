"""The cost of writing a window of JSON lines: `python tests/bench/jsonl.py`.

For each shape, on one core: the records a second that the jsonl sink encodes and writes to a file,
and the ratio of its CPU time to that of `orjson.dumps` on the same dicts. Then, with all cores: the
longest delay of the event loop while one such window is written.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import orjson

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.records import FULL

from hogpipe import Record
from hogpipe.sinks.jsonl.jsonl_sink import JsonlSettings, JsonlSink
from hogpipe.sinks.stdout import StdoutSettings, StdoutSink

SHAPES = [(schema, layout) for schema in ("otel", "ecs") for layout in ("nested", "flat")]
HEAD = ("schema", "layout", "processes", "records/s", "us a record", "ratio", "bytes a record")
PERIOD = 0.001  # seconds between two checks of the loop
IDLE = 0.3  # seconds without work, for comparison


def make_window(count: int, processes: int) -> list[Record]:
    """Return a window of `count` records of `processes` processes, all different objects."""
    blank = orjson.dumps({key: value for key, value in FULL.items() if key != "network"})
    window = []
    for number in range(count):
        record = orjson.loads(blank)
        record["sequence"] = number + 1
        record["process"]["pid"] = 1000 + number % processes
        del record["process"]["command_args"]
        record["network"] = {
            "flows": 3,
            "io": {
                "transmit": {"bytes": 1000 + number, "packets": 7},
                "receive": {"bytes": 40 * number, "packets": 9},
            },
        }
        record["attribution"] = {"exact": 1000 + 40 * number, "listener": number + 1}
        window.append(record)
    return window


async def measure(folder: Path, window: Sequence[Record], rounds: int) -> list[dict[str, Any]]:
    """Return the cost of a window for each shape, the best of `rounds`."""
    figures = []
    for schema, layout in SHAPES:
        path = folder / f"{schema}-{layout}"
        sink = JsonlSink(JsonlSettings(type="jsonl", path=path, schema=schema, layout=layout))
        await sink.open()
        baseline, cost = [], []
        for _ in range(rounds):
            begun = time.process_time()
            for record in window:
                orjson.dumps(record)
            baseline.append(time.process_time() - begun)
            begun = time.process_time()
            await sink.write(window)
            cost.append(time.process_time() - begun)
        await sink.close()
        size = path.stat().st_size
        path.unlink()
        figures.append(
            {
                "schema": schema,
                "layout": layout,
                "seconds": min(cost) / len(window),
                "ratio": min(cost) / min(baseline),
                "bytes": size / len(window) / rounds,
            }
        )
    return figures


async def measure_delay(work: Coroutine[Any, Any, None]) -> float:
    """Return the longest delay of the event loop, in seconds, while `work` runs."""
    working = asyncio.ensure_future(work)
    longest = 0.0
    while not working.done():
        begun = time.perf_counter()
        await asyncio.sleep(PERIOD)
        longest = max(longest, time.perf_counter() - begun - PERIOD)
    await working
    return longest


async def write(sink: JsonlSink | StdoutSink, window: Sequence[Record]) -> None:
    """Open a sink, write a window and close the sink."""
    await sink.open()
    await sink.write(window)
    await sink.close()


def start_reader() -> "subprocess.Popen[bytes]":
    """Start a program that reads and discards its input."""
    return subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)


async def measure_delays(folder: Path, window: Sequence[Record]) -> list[dict[str, Any]]:
    """Return the delay of the loop for each shape: idle, and for each sink."""
    figures = []
    for schema, layout in SHAPES:
        shape = {"schema": schema, "layout": layout}
        path = folder / "delay"
        jsonl = JsonlSink(JsonlSettings(type="jsonl", path=path, **shape))
        seconds = {"none": await measure_delay(asyncio.sleep(IDLE))}
        seconds["jsonl"] = await measure_delay(write(jsonl, window))
        path.unlink()
        with start_reader() as reader:
            assert reader.stdin is not None
            stdout = StdoutSink(StdoutSettings(type="stdout", **shape), reader.stdin.fileno())
            seconds["stdout"] = await measure_delay(write(stdout, window))
            reader.stdin.close()
        figures.append({**shape, "seconds": seconds})
    return figures


def print_tables(costs: dict[int, list[dict[str, Any]]], delays: list[dict[str, Any]]) -> None:
    """Print the figures as Markdown."""
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    for processes, rows in costs.items():
        for row in rows:
            cells = [row["schema"], row["layout"], str(processes), f"{1 / row['seconds']:,.0f}"]
            cells += [f"{row['seconds'] * 1e6:.1f}", f"{row['ratio']:.2f}", f"{row['bytes']:.0f}"]
            print(f"| {' | '.join(cells)} |")
    print("\n| schema | layout | sink | longest loop delay, ms |\n|---|---|---|---|")
    for row in delays:
        for sink, seconds in row["seconds"].items():
            print(f"| {row['schema']} | {row['layout']} | {sink} | {seconds * 1e3:.1f} |")


def main() -> None:
    """Measure with the sizes of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=50_000, help="records of a window")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the figures to FILE")
    options = parser.parse_args()
    cores = os.sched_getaffinity(0)
    costs = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.sched_setaffinity(0, {min(cores)})
        for processes in (500, options.records):
            window = make_window(options.records, processes)
            costs[processes] = asyncio.run(measure(folder, window, options.rounds))
        os.sched_setaffinity(0, cores)
        delays = asyncio.run(measure_delays(folder, make_window(options.records, 500)))
    print_tables(costs, delays)
    if options.json:
        options.json.write_text(json.dumps({"costs": costs, "delays": delays}))


if __name__ == "__main__":
    main()

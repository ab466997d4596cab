"""What it costs to write a window of JSON lines: `python tests/bench/jsonl.py`.

For each shape, all on one core: how many records a second are encoded and written to a file by the
jsonl sink, and its CPU time beside that of bare `orjson.dumps` of the same dicts. Then, with all
cores: how long the event loop is held up at the most while one such window is written.
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
LOOK = 0.001  # seconds between two looks at the loop
IDLE = 0.3  # seconds of nothing to do, to compare with


def make_window(count: int, processes: int) -> list[Record]:
    """Return a window of `count` records of as many processes, as different objects."""
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
    """Return for each shape what a window costs, the best of so many rounds."""
    told = []
    for schema, layout in SHAPES:
        path = folder / f"{schema}-{layout}"
        sink = JsonlSink(JsonlSettings(type="jsonl", path=path, schema=schema, layout=layout))
        await sink.open()
        bare, cost = [], []
        for _ in range(rounds):
            begun = time.process_time()
            for record in window:
                orjson.dumps(record)
            bare.append(time.process_time() - begun)
            begun = time.process_time()
            await sink.write(window)
            cost.append(time.process_time() - begun)
        await sink.close()
        size = path.stat().st_size
        path.unlink()
        told.append(
            {
                "schema": schema,
                "layout": layout,
                "seconds": min(cost) / len(window),
                "ratio": min(cost) / min(bare),
                "bytes": size / len(window) / rounds,
            }
        )
    return told


async def measure_delay(work: Coroutine[Any, Any, None]) -> float:
    """Return by how many seconds the loop was late at the most until `work` was done."""
    working = asyncio.ensure_future(work)
    longest = 0.0
    while not working.done():
        begun = time.perf_counter()
        await asyncio.sleep(LOOK)
        longest = max(longest, time.perf_counter() - begun - LOOK)
    await working
    return longest


async def write(sink: JsonlSink | StdoutSink, window: Sequence[Record]) -> None:
    """Write a window as a run does."""
    await sink.open()
    await sink.write(window)
    await sink.close()


def start_reader() -> "subprocess.Popen[bytes]":
    """Start a program that reads what is printed, and does nothing with it."""
    return subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)


async def measure_delays(folder: Path, window: Sequence[Record]) -> list[dict[str, Any]]:
    """Return the loop's delay for each sink and shape, and without any."""
    told = []
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
        told.append({**shape, "seconds": seconds})
    return told


def print_tables(costs: dict[int, list[dict[str, Any]]], delays: list[dict[str, Any]]) -> None:
    """Print what was measured, as Markdown."""
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    for processes, rows in costs.items():
        for row in rows:
            cells = [row["schema"], row["layout"], str(processes), f"{1 / row['seconds']:,.0f}"]
            cells += [f"{row['seconds'] * 1e6:.1f}", f"{row['ratio']:.2f}", f"{row['bytes']:.0f}"]
            print(f"| {' | '.join(cells)} |")
    print("\n| schema | layout | sink | loop late by at most, ms |\n|---|---|---|---|")
    for row in delays:
        for sink, seconds in row["seconds"].items():
            print(f"| {row['schema']} | {row['layout']} | {sink} | {seconds * 1e3:.1f} |")


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=50_000, help="in a window")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="where to keep the figures, too")
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

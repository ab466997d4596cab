"""The cost of `hogpipe top` beside that of `run`: `python tests/bench/screen.py`.

In a process without a terminal, on the CPU clock: windows in which every flow has traffic pass the
aggregator of `run` (by process) and become records, as for a sink; then the same windows pass the
live flows of `top`, its table, a query and a redraw in a headless Textual application. The figures
are seconds of CPU a window, medians of all windows but the first. Capture and attribution are the
same for both and not part of it.
"""

import argparse
import asyncio
import gc
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.flow_sums import SumsMaker
from support.sinks import stats

from hogpipe.aggregation.aggregator import Aggregator
from hogpipe.flows.packet_rows import FlowSums
from hogpipe.model import (
    BUILT_IN_NETWORKS,
    Attribution,
    FlowDelta,
    FlowKey,
    Process,
    Quality,
    Span,
)
from hogpipe.records.stamp import RecordStamper, make_run_id
from hogpipe.sinks.table import render_table
from hogpipe.top.live_flows import DrainedFlows, LiveFlows
from hogpipe.top.live_windows import LiveWindows
from hogpipe.top.row_groups import Query
from hogpipe.top.rows_screen import RowsScreen
from hogpipe.top.screen_text import Look
from hogpipe.top.top_app import TopApp
from hogpipe.top.traffic_table import TrafficTable, WindowTraffic

SECOND = 10**9
Flow = tuple[FlowKey, FlowDelta, Attribution]


def make_sums(processes: int, flows: int) -> FlowSums:
    """Return the traffic of a window: `flows` connections of `processes` processes."""
    owners = [
        Attribution(
            Quality.EXACT,
            Process(
                1000 + number,
                number,
                command=f"worker{number % 50}",
                executable=f"/usr/bin/worker{number % 50}",
                user_id=0,
                user_name="root",
                unit=f"service{number % 40}.service",
            ),
        )
        for number in range(processes)
    ]
    delta = FlowDelta(transmit_bytes=100, transmit_packets=1, receive_bytes=1000, receive_packets=2)
    moved: list[Flow] = [
        (
            FlowKey(
                6,
                b"\x0a\0\0\1",
                10_000 + number % 50_000,
                b"\x0a\1" + (number % 3000).to_bytes(2, "big"),
                443,
                "eth0",
            ),
            delta,
            owners[number % processes],
        )
        for number in range(flows)
    ]
    return SumsMaker().make(moved)


def measure_run(sums: FlowSums, windows: int) -> float:
    """Return the CPU of a window of `run` with a table by process."""
    aggregator = Aggregator(["process"], [], 100_000)
    stamper = RecordStamper(make_run_id(0, bytes(10)), "web1")

    def window(number: int) -> None:
        aggregator.ingest(sums)
        span = number * SECOND, (number + 1) * SECOND
        records = [stamper.traffic(body, *span) for body in aggregator.drain()]
        render_table(records, 80)

    return measure(window, windows)


def measure(work: Callable[[int], None], windows: int) -> float:
    """Return the median CPU seconds of `work`, without its first call."""
    costs = []
    for number in range(windows + 1):
        began = time.process_time()
        work(number)
        costs.append(time.process_time() - began)
    return statistics.median(costs[1:])


class NoWindows:
    """A live source without windows: the benchmark appends them itself."""

    title = "benchmark"
    is_live = True
    is_at_end = False

    async def prepare(self) -> None:
        """Do nothing."""

    async def read(self, table: TrafficTable) -> AsyncIterator[WindowTraffic]:
        """Wait for ever."""
        await asyncio.Event().wait()
        yield table.recent(1)[0]


async def measure_top(sums: FlowSums, windows: int, size: tuple[int, int]) -> dict[str, float]:
    """Return the CPU of a window of `top`, by part."""
    drained: list[DrainedFlows] = []
    live = LiveFlows([], 65_536, lambda process: process, drained.append, BUILT_IN_NETWORKS)
    app = TopApp(NoWindows(), Query(), Look(), has_colour=True)
    live_windows = LiveWindows(app.table)
    costs: dict[str, list[float]] = {"ingest": [], "table": [], "draw": []}
    async with app.run_test(size=size) as pilot:
        while not isinstance(app.screen, RowsScreen):
            await pilot.pause(0.01)
        for number in range(windows + 1):
            times = [time.process_time()]
            live.ingest(sums)
            live.drain()
            times.append(time.process_time())
            span = Span(number * SECOND, (number + 1) * SECOND)
            app.table.append(live_windows.build(drained.pop(), span, stats()))
            app.table.advance()
            times.append(time.process_time())
            app.screen.draw()
            await pilot.pause()
            times.append(time.process_time())
            for name, began, ended in zip(costs, times, times[1:], strict=False):
                costs[name].append(ended - began)
    await app.close_player()
    return {name: statistics.median(values[1:]) for name, values in costs.items()}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=5_000)
    parser.add_argument("--flows", type=int, default=50_000)
    parser.add_argument("--windows", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    gc.freeze()
    gc.set_threshold(2_000, 10, 1_000)  # as the command line sets it
    sums = make_sums(options.processes, options.flows)
    run = measure_run(sums, options.windows)
    figures: dict[str, Any] = {"run": run}
    print("| | ingest | table | draw | all |\n|---|---|---|---|---|")
    print(f"| `run`, a table by process | | | | {1000 * run:.0f} ms |")
    for size in ((80, 24), (160, 50)):
        parts = asyncio.run(measure_top(sums, options.windows, size))
        figures[f"{size[0]}x{size[1]}"] = parts
        cells = " | ".join(
            f"{1000 * cost:.0f} ms" for cost in (*parts.values(), sum(parts.values()))
        )
        print(f"| `top`, {size[0]}x{size[1]} | {cells} |")
    if options.json:
        options.json.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()

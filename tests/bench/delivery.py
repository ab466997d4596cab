"""The cost of delivery: large windows to each kind of sink, and a good sink beside failing ones.

    .venv/bin/python tests/bench/delivery.py [CASE…] [--records N] [--windows N] [--interval S]

A window of 50,000 records a second passes through the real dispatcher. `published` is the time for
which `publish` kept the pipeline, `delivered` the time until the sink had the window (median), and
`worst` its maximum. `loop` is the longest delay of the event loop, which delays capture. `CPU` is
that of the whole process for a window. In the last cases a sink that discards records runs beside
one that fails at once and one that never returns. No privileges are needed.
"""

import argparse
import asyncio
import gc
import os
import resource
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from report import host, table
from support.sinks import stats, traffic

from hogpipe.delivery.dispatch import Dispatcher
from hogpipe.records.schema import Record
from hogpipe.sinks.contract import Sink, SinkSettings
from hogpipe.sinks.registry import load_plugins

HEAD = (
    "case", "published ms", "delivered ms", "worst ms", "loop ms", "CPU ms", "queued", "peak MB",
)  # fmt: skip


class DiscardingSink:
    """Accepts every window at once."""

    async def open(self) -> None: ...

    async def write(self, records: Sequence[Record]) -> None: ...

    async def close(self) -> None: ...


class FailingSink(DiscardingSink):
    async def write(self, records: Sequence[Record]) -> None:  # noqa: ARG002 - it is a Sink
        raise OSError("always fails")


class StalledSink(DiscardingSink):
    async def write(self, records: Sequence[Record]) -> None:  # noqa: ARG002 - it is a Sink
        await asyncio.Event().wait()


class Timed:
    """A sink that records the time at which each window was delivered."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.times: list[float] = []
        self.open, self.close = sink.open, sink.close

    async def write(self, records: Sequence[Record]) -> None:
        await self._sink.write(records)
        self.times.append(time.perf_counter())


def make_window(number: int, records: int) -> list[Record]:
    """Return a window of `records` processes with one peer each."""
    window: list[Record] = []
    for pid in range(records):
        record = traffic(number * (records + 1) + pid, pid=pid, second=number % 59)
        record["process"] |= {
            "parent_pid": 1,
            "creation": {"time": "2026-11-22T06:58:01.220Z"},
            "command": f"program{pid}",
            "user": {"id": 33},
            "owner": "www-data",
            "linux": {"cgroup": "/system.slice/nginx.service"},
        }
        record["network"]["peer"] = {"address": f"10.0.{pid >> 8 & 255}.{pid & 255}", "port": 443}
        window.append(record)
    return [*window, stats(number * (records + 1) + records, second=number % 59)]


def serve() -> int:
    """Start a thread that reads and discards what it receives; return its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def read() -> None:
        while True:
            connection, _peer = listener.accept()
            while connection.recv(1 << 20):
                pass

    threading.Thread(target=read, daemon=True).start()
    return int(listener.getsockname()[1])


def built_in(name: str, **keys: object) -> tuple[Sink, SinkSettings]:
    sink_type = load_plugins([], []).sink_types[name]
    settings = sink_type.settings(type=name, **keys)
    return sink_type.create(settings), settings


def discarding(name: str = "discard", **keys: object) -> tuple[Sink, SinkSettings]:
    return DiscardingSink(), SinkSettings(type=name, **keys)


def failing() -> tuple[Sink, SinkSettings]:
    return FailingSink(), SinkSettings(type="failing", queue_windows=2)


def stalled() -> tuple[Sink, SinkSettings]:
    return StalledSink(), SinkSettings(type="stalled", queue_windows=2)


Sinks = list[tuple[Sink, SinkSettings]]
CASES: dict[str, Callable[[Path], Sinks]] = {
    "discard": lambda _folder: [discarding()],
    "jsonl": lambda folder: [built_in("jsonl", path=folder / "out.jsonl")],
    "stdout": lambda _folder: [built_in("stdout", format="jsonl")],
    "tcp": lambda _folder: [built_in("tcp", host="127.0.0.1", port=serve())],
    "discard, spooled": lambda folder: [discarding(spool=folder / "spool", spool_mib=1024)],
    "beside a failing sink": lambda _folder: [discarding(), failing()],
    "beside failing and stalled sinks": lambda _folder: [discarding(), failing(), stalled()],
}


async def watch_loop(worst: list[float]) -> None:
    """Record the longest delay of the event loop."""
    while True:
        before = time.perf_counter()
        await asyncio.sleep(0.001)
        worst[0] = max(worst[0], time.perf_counter() - before - 0.001)


async def measure(name: str, options: argparse.Namespace, folder: Path) -> list[str]:
    """Run one case; return its row."""
    (first, settings), *others = CASES[name](folder)
    timed = Timed(first)
    dispatcher = Dispatcher([(timed, settings), *others], on_output_closed=lambda: None)
    windows = [make_window(number, options.records) for number in range(options.windows)]
    gc.collect()
    gc.freeze()  # windows that a real pipeline would have released
    await dispatcher.open()
    running = asyncio.create_task(dispatcher.run())
    offered, published, worst = [], [], [0.0]
    watching = asyncio.create_task(watch_loop(worst))
    cpu = time.process_time()
    for window in windows:
        offered.append(time.perf_counter())
        await dispatcher.publish(window)
        published.append(time.perf_counter() - offered[-1])
        await asyncio.sleep(max(0.0, offered[-1] + options.interval - time.perf_counter()))
    queued = sum(info["queued"] for info in dispatcher.health())
    while len(timed.times) < len(windows):  # noqa: ASYNC110 - a sink has no event for a delivery
        await asyncio.sleep(0.01)
    cpu = time.process_time() - cpu
    watching.cancel()
    await dispatcher.drain(1)
    await running
    delays = [end - start for start, end in zip(offered, timed.times, strict=True)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    milliseconds = [max(published), sorted(delays)[len(delays) // 2], max(delays), worst[0]]
    cells = [f"{1000 * seconds:.1f}" for seconds in milliseconds]
    return [name, *cells, f"{1000 * cpu / len(windows):.0f}", str(queued), f"{peak:.0f}"]


def run_case(name: str, options: argparse.Namespace) -> list[str]:
    """Measure in a child process, for a memory peak of its own, with stdout discarded."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        with suppress(BaseException), tempfile.TemporaryDirectory() as folder:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            row = asyncio.run(measure(name, options, Path(folder)))
            os.write(writer, "\n".join(row).encode())
            status = 0
        os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as result:
        row = result.read().split("\n")
    if os.waitpid(child, 0)[1]:
        raise SystemExit(f"{name}: failed")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of: {'; '.join(CASES)}")
    parser.add_argument("--records", type=int, default=50_000, help="records of a window")
    parser.add_argument("--windows", type=int, default=10)
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between windows")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"no case {', '.join(sorted(unknown))}; there are: {'; '.join(CASES)}")
    rows = [run_case(name, options) for name in options.cases or CASES]
    print(f"{options.windows} windows of {options.records} records; {host()}\n")
    print(table(HEAD, rows))


if __name__ == "__main__":
    main()

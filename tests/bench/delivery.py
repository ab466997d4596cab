"""What delivery costs: large windows to each kind of sink, and bad sinks beside a good one.

    .venv/bin/python tests/bench/delivery.py [CASE…] [--records N] [--windows N] [--interval S]

A window a second, of 50,000 records, passes through the real dispatcher. `published` is how long
the pipeline was kept, `delivered` how long the sink took from then on, `loop` the longest that the
event loop kept anybody waiting: that is what delays capture. `CPU` is that of the whole process for
a window. In the last cases a sink that only counts stands beside one that fails at once and one
that stalls. No privileges are needed.
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
    "case", "published ms", "delivered ms", "worst ms", "loop ms", "CPU ms", "waiting", "peak MB",
)  # fmt: skip


class CountingSink:
    """Takes everything at once."""

    async def open(self) -> None: ...

    async def write(self, records: Sequence[Record]) -> None: ...

    async def close(self) -> None: ...


class DeadSink(CountingSink):
    async def write(self, records: Sequence[Record]) -> None:  # noqa: ARG002 - it is a Sink
        raise OSError("dead")


class StalledSink(CountingSink):
    async def write(self, records: Sequence[Record]) -> None:  # noqa: ARG002 - it is a Sink
        await asyncio.Event().wait()


class Timed:
    """A sink that notes when each window was delivered."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.times: list[float] = []
        self.open, self.close = sink.open, sink.close

    async def write(self, records: Sequence[Record]) -> None:
        await self._sink.write(records)
        self.times.append(time.perf_counter())


def make_window(number: int, records: int) -> list[Record]:
    """Return a window of as many processes with one peer each."""
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
    """Have a thread read and forget what comes; return its port."""
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


def counting(name: str = "counting", **keys: object) -> tuple[Sink, SinkSettings]:
    return CountingSink(), SinkSettings(type=name, **keys)


def dead() -> tuple[Sink, SinkSettings]:
    return DeadSink(), SinkSettings(type="dead", queue_windows=2)


def stalled() -> tuple[Sink, SinkSettings]:
    return StalledSink(), SinkSettings(type="stalled", queue_windows=2)


Sinks = list[tuple[Sink, SinkSettings]]
CASES: dict[str, Callable[[Path], Sinks]] = {
    "counting": lambda _folder: [counting()],
    "jsonl": lambda folder: [built_in("jsonl", path=folder / "out.jsonl")],
    "stdout": lambda _folder: [built_in("stdout", format="jsonl")],
    "tcp": lambda _folder: [built_in("tcp", host="127.0.0.1", port=serve())],
    "counting, spooled": lambda folder: [counting(spool=folder / "spool", spool_mib=1024)],
    "beside a dead one": lambda _folder: [counting(), dead()],
    "beside dead and stalled": lambda _folder: [counting(), dead(), stalled()],
}


async def watch_loop(worst: list[float]) -> None:
    """Note how late the loop is, at most."""
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
    gc.freeze()  # what the pipeline itself would have let go of long ago
    await dispatcher.open()
    running = asyncio.create_task(dispatcher.run())
    given, published, worst = [], [], [0.0]
    watching = asyncio.create_task(watch_loop(worst))
    cpu = time.process_time()
    for window in windows:
        given.append(time.perf_counter())
        await dispatcher.publish(window)
        published.append(time.perf_counter() - given[-1])
        await asyncio.sleep(max(0.0, given[-1] + options.interval - time.perf_counter()))
    waiting = sum(info["queued"] for info in dispatcher.health())
    while len(timed.times) < len(windows):  # noqa: ASYNC110 - a sink has no event for it
        await asyncio.sleep(0.01)
    cpu = time.process_time() - cpu
    watching.cancel()
    await dispatcher.drain(1)
    await running
    delays = [end - start for start, end in zip(given, timed.times, strict=True)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    milliseconds = [max(published), sorted(delays)[len(delays) // 2], max(delays), worst[0]]
    cells = [f"{1000 * seconds:.1f}" for seconds in milliseconds]
    return [name, *cells, f"{1000 * cpu / len(windows):.0f}", str(waiting), f"{peak:.0f}"]


def run_case(name: str, options: argparse.Namespace) -> list[str]:
    """Measure in a process of its own, whose memory is its own, with its stdout out of the way."""
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
    with os.fdopen(reader) as told:
        row = told.read().split("\n")
    if os.waitpid(child, 0)[1]:
        raise SystemExit(f"{name}: failed")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of: {'; '.join(CASES)}")
    parser.add_argument("--records", type=int, default=50_000, help="in a window")
    parser.add_argument("--windows", type=int, default=10)
    parser.add_argument("--interval", type=float, default=1.0, help="between two windows")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"no case {', '.join(sorted(unknown))}; there are: {'; '.join(CASES)}")
    rows = [run_case(name, options) for name in options.cases or CASES]
    print(f"{options.windows} windows of {options.records} records; {host()}\n")
    print(table(HEAD, rows))


if __name__ == "__main__":
    main()

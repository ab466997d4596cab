"""Records, sinks and dispatchers for the tests of delivery."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from hogpipe.delivery.dispatch import Dispatcher
from hogpipe.records.schema import Record, SinkInfo, StatsRecord, TallyInfo, TrafficRecord
from hogpipe.records.stamp import make_window
from hogpipe.sinks.contract import Sink, SinkSettings

S = TypeVar("S", bound=SinkSettings)

SECOND = 1_000_000_000
_START_NS = 1_795_330_800 * SECOND  # 2026-11-22T07:00:00Z

NOTHING: TallyInfo = {"bytes": 0, "packets": 0}


def traffic(
    sequence: int = 1, pid: int | None = 1, transmit: int = 100, receive: int = 200, second: int = 0
) -> TrafficRecord:
    """Return a record of the process `pid` in the window that begins at `second`."""
    record: TrafficRecord = {
        "type": "traffic",
        "schema": 1,
        "timestamp": f"2026-11-22T07:00:{second + 1:02}.000Z",
        "window": make_window(_START_NS + second * SECOND, _START_NS + (second + 1) * SECOND),
        "run": "01JD",
        "sequence": sequence,
        "host": {"name": "web1"},
        "network": {
            "flows": 1,
            "io": {
                "transmit": {"bytes": transmit, "packets": 1},
                "receive": {"bytes": receive, "packets": 2},
            },
        },
        "attribution": {"none" if pid is None else "exact": transmit + receive},
    }
    if pid is not None:
        record["process"] = {
            "pid": pid,
            "name": f"program{pid}",
            "executable": {"name": f"program{pid}", "path": f"/bin/program{pid}"},
        }
    return record


def stats(sequence: int = 1, packets: int = 10, second: int = 0) -> StatsRecord:
    """Return a stats record of the window that begins at `second`."""
    stamp = traffic(sequence, second=second)
    return {
        "type": "stats",
        "schema": 1,
        "timestamp": stamp["timestamp"],
        "window": stamp["window"],
        "run": stamp["run"],
        "sequence": sequence,
        "host": stamp["host"],
        "capture": {
            "packets": packets,
            "bytes": packets * 100,
            "dropped": {"kernel": 1, "interface": 0},
            "not_local": NOTHING,
            "not_ip": NOTHING,
            "undecoded": NOTHING,
            "both_sides": NOTHING,
            "length_floored": NOTHING,
            "overflowed": NOTHING,
            "merged_batches": 0,
            "health_lost": 0,
        },
        "attribution": {
            "new_flows": 2,
            "batches": 1,
            "failed_batches": 0,
            "table_reads": 1,
            "tuple_lookups": 0,
            "dumps_interrupted": 0,
            "dumps_failed": 0,
            "tables_incomplete": 0,
            "rows_skipped": 0,
            "fd_scans": 1,
            "fds_read": 5,
            "fds_evicted": 0,
            "not_permitted": 0,
            "malformed_files": 0,
            "container_files_unread": 0,
            "deferred": 0,
            "ambiguous": 0,
            "evicted_flows": 0,
            "overflowed": NOTHING,
            "translated": NOTHING,
            "pending": {"flows": sequence, "bytes": 7},
            "bytes": {"exact": 300},
        },
        "aggregation": {"records": 2, "folded_groups": 0, "uncounted_flows": 0},
        "sinks": [],
        "self": {
            "cpu": {"seconds": 0.25},
            "memory": {"bytes": 1000 + sequence},
            "loop": {"longest_delay_seconds": 1.0 / sequence},
        },
    }


def settings(name: str = "s", **changes: object) -> SinkSettings:
    """Return settings with a short backoff."""
    return SinkSettings(
        type="test", name=name, **{"retry_initial": 0.001, "retry_max": 0.002, **changes}
    )


def total_bytes(records: Sequence[Record]) -> int:
    """Return the bytes of all traffic records."""
    total = 0
    for record in records:
        if record["type"] == "traffic":
            io = record["network"]["io"]
            total += io["transmit"]["bytes"] + io["receive"]["bytes"]
    return total


async def until(condition: Callable[[], object]) -> None:
    """Wait until `condition` holds; TimeoutError after 20 seconds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - it stands for many kinds of condition
            await asyncio.sleep(0.001)


async def until_ended(name: str) -> None:
    """Wait until no thread has this name; TimeoutError after 20 seconds."""
    await until(lambda: name not in {one.name for one in threading.enumerate()})


class ScriptedSink:
    """Keeps its records; `on_open`, `on_write` and `on_close` may raise or wait before that."""

    def __init__(
        self,
        on_write: Callable[[], Awaitable[None]] | None = None,
        on_open: Callable[[], Awaitable[None]] | None = None,
        on_close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.on_write, self.on_open, self.on_close = on_write, on_open, on_close
        self.windows: list[list[Record]] = []
        self.calls: list[str] = []

    @property
    def records(self) -> list[Record]:
        return [record for window in self.windows for record in window]

    async def open(self) -> None:
        self.calls.append("open")
        if self.on_open:
            await self.on_open()

    async def write(self, records: Sequence[Record]) -> None:
        self.calls.append("write")
        if self.on_write:
            await self.on_write()
        self.windows.append(list(records))

    async def close(self) -> None:
        self.calls.append("close")
        if self.on_close:
            await self.on_close()


class Script:
    """An action that raises each of `errors` in turn, and then does nothing."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)

    async def __call__(self) -> None:
        if self.errors:
            raise self.errors.pop(0)


class Gate:
    """An action that waits until the gate is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.waiting = 0

    async def __call__(self) -> None:
        self.waiting += 1
        try:
            await self.opened.wait()
        finally:
            self.waiting -= 1


def accounted(info: SinkInfo) -> int:
    """Return the sum of the counts: the records that were offered, or found in the spool."""
    return info["queued"] + info["delivered"] + info["dropped"] + info["coalesced"]


@asynccontextmanager
async def running(dispatcher: Dispatcher) -> AsyncIterator[None]:
    """Run a dispatcher; its task is cancelled when the context ends."""
    await dispatcher.open()
    async with asyncio.TaskGroup() as group:
        run = group.create_task(dispatcher.run())
        yield
        run.cancel()


@asynccontextmanager
async def delivering(
    make: Callable[[S], Sink], settings: S, *, patience: float = 10
) -> AsyncIterator[Dispatcher]:
    """Run a dispatcher with one sink; at the end it has `patience` seconds for queued records."""
    dispatcher = Dispatcher(
        [(make(settings), settings)], on_output_closed=lambda: None, rng=random.Random(1)
    )
    await dispatcher.open()
    async with asyncio.TaskGroup() as group:
        group.create_task(dispatcher.run())
        yield dispatcher
        await dispatcher.drain(patience)

"""The attribution stage with its flow table, a scripted resolver and a clock set by hand."""

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Executor

from hogpipe.attribution.resolver import FlowsInSpans, Resolution
from hogpipe.attribution.stage.attributor import Attributor
from hogpipe.attribution.stale_flows import StaleFlows
from hogpipe.flows.flow_table import FlowTable
from hogpipe.linux.procfs import ProcessIdentity
from hogpipe.model import (
    UNATTRIBUTED,
    Attribution,
    FlowDelta,
    FlowKey,
    Quality,
    ResolverCounts,
    TrafficCounts,
)
from support.flow_rows import list_sums, rows_of
from support.traffic import make_delta


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class ScriptedResolver:
    """Answers from `answers`, raises `error`, and blocks while `gate` is closed."""

    def __init__(self) -> None:
        self.answers: dict[FlowKey, Attribution] = {}
        self.inferences: dict[FlowKey, Attribution] = {}
        self.error: BaseException | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.asked: list[list[FlowKey]] = []
        self.calls: asyncio.Queue[list[FlowKey]] = asyncio.Queue()
        self.cpu_seconds = 0.0
        self.prepared = False
        self.has_history = False
        self.closed = False
        self.recalled: dict[FlowKey, Attribution] = {}
        self.reused: list[FlowKey] = []
        self.final: list[FlowKey] = []
        self.by_span: dict[FlowKey, tuple[Attribution, ...]] = {}
        self.open_for: dict[FlowKey, float] = {}
        self._loop = asyncio.get_running_loop()
        self._counts = ResolverCounts()

    def prepare(self) -> None:
        self.prepared = True
        if self.error is not None:
            raise self.error

    def describe(self) -> str:
        raise NotImplementedError

    def describe_reading(self) -> str:
        return "/proc/1/stat"

    def resolve(self, flows: Collection[FlowKey]) -> dict[FlowKey, Resolution]:
        self._counts.table_reads += 1
        self.asked.append(list(flows))
        answers = {flow: self._resolve(flow) for flow in flows if flow in self.answers}
        self._loop.call_soon_threadsafe(self.calls.put_nowait, list(flows))
        assert self.gate.wait(10)
        until = time.thread_time() + self.cpu_seconds
        while time.thread_time() < until:
            pass
        if self.error is not None:
            raise self.error
        return answers

    def infer(self, flow: FlowKey) -> Attribution:
        return self.inferences.get(flow, UNATTRIBUTED)

    def infer_sender(self, _flow: FlowKey, _moved: FlowDelta) -> Attribution:
        return UNATTRIBUTED

    def recall(self, flows: FlowsInSpans) -> list[Resolution | None]:
        found = [(flow, self.recalled.get(flow)) for flow, _span in flows]
        return [
            None if owner is None else Resolution(owner, open_for=self.open_for.get(flow, 0.0))
            for flow, owner in found
        ]

    def close(self) -> None:
        self.closed = True

    def counts(self) -> ResolverCounts:
        return self._counts

    def _resolve(self, flow: FlowKey) -> Resolution:
        answer = self.answers[flow]
        return Resolution(
            answer,
            is_final=answer.quality is Quality.INFERRED or flow in self.final,
            may_be_reused=flow in self.reused,
            owners_by_span=self.by_span.get(flow),
            open_for=self.open_for.get(flow, 0.0),
        )


class Lifetime:
    def __init__(self) -> None:
        self.exited_ns: int | None = None


class ScriptedExits:
    """Processes that live until `exit` is called; `seen` at the next poll."""

    def __init__(self) -> None:
        self.watched: dict[int, Lifetime] = {}
        self._processes: dict[int, ProcessIdentity] = {}
        self._exits: dict[int, int] = {}

    def watch(self, process: ProcessIdentity, /) -> Lifetime:
        self._processes[process.pid] = process
        return self.watched.setdefault(process.pid, Lifetime())

    def poll(self) -> list[ProcessIdentity]:
        exits, self._exits = self._exits, {}
        for pid, exited_ns in exits.items():
            self.watched[pid].exited_ns = exited_ns
        return [self._processes[pid] for pid in exits]

    def exit(self, pid: int, seen_at: float) -> None:
        self._exits[pid] = round(seen_at * 1e9)


class WatchedTable(FlowTable):
    """A table that calls `on_add` after each `add`."""

    def __init__(self, max_flows: int) -> None:
        super().__init__(max_flows, max_flows)
        self.on_add: Callable[[], None]

    def add(self, moved: Iterable[tuple[FlowKey, TrafficCounts, Attribution]]) -> None:
        for one in moved:
            super().add([one])
            self.on_add()


class Stage:
    """An attributor with its table; `emitted` is what was emitted or counted there, in order.

    Packets pass as in a live run: the table counts what it can, the attributor gets the rest. If
    `has_lanes` is false, the table counts nothing, so that the attributor judges each packet. It
    gets parts of `part_size` flows.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        hold: float = 2.0,
        cpu_budget: float = 1.0,
        max_flows: int = 10_000,
        max_pending: int = 1000,
        max_stale: int = 1000,
        exits: ScriptedExits | None = None,
        is_replay: bool = False,
        has_lanes: bool = True,
        part_size: int = 1000,
    ) -> None:
        self.clock = Clock()
        self.resolver = ScriptedResolver()
        self.stale_flows = StaleFlows(max_flows=max_stale)
        self.emitted: list[tuple[FlowKey, TrafficCounts, Attribution]] = []
        self.table = WatchedTable(max_flows)
        self.table.on_add = self._collect
        self.batch_intervals: list[float] = []
        self.has_emitted = asyncio.Event()
        self.attributor = Attributor(
            self.resolver,
            self.stale_flows,
            executor,
            self.table,
            hold=hold,
            cpu_budget=cpu_budget,
            clock=self.clock,
            set_batch_interval=self.batch_intervals.append,
            max_pending=max_pending,
            exits=exits,
            is_replay=is_replay,
        )
        self._has_lanes = has_lanes
        self._part_size = part_size
        self._is_started = True

    def pass_on(self, flows: Mapping[FlowKey, FlowDelta]) -> None:
        """Count packets, and ingest those that the table does not count."""
        self.ingest_held(self.count(flows))

    def count(self, flows: Mapping[FlowKey, FlowDelta]) -> dict[FlowKey, FlowDelta]:
        """Count packets; return those that the table does not count."""
        rows = rows_of(self.table, flows, self.clock.now)
        with self.table.lock:
            self._is_started = self.table.may_be_known(rows)
            if self._is_started:
                self.attributor.start_batch()
            if not self._has_lanes:
                self.table.close_lanes(flows)
            held = self.table.count(rows, self.clock.now)
        self._collect()
        return held

    def ingest_held(self, flows: Mapping[FlowKey, FlowDelta]) -> None:
        """Ingest packets that the table did not count."""
        if not self._is_started and self.attributor.is_known(flows):
            self.attributor.start_batch()
        waiting = list(flows.items())
        while True:
            part, waiting = waiting[: self._part_size], waiting[self._part_size :]
            self.attributor.ingest_part(dict(part), 0 if waiting else None)
            if not waiting:
                return

    def pass_packets(self, *flows: FlowKey, first: float, last: float, size: int = 1) -> None:
        """Ingest packets that passed from `first` to `last`, in seconds, at the time of `last`."""
        self.clock.now = last
        at_ns = (round(first * 1e9), round(last * 1e9))
        self.pass_on({flow: make_delta((size, 1), at_ns=at_ns) for flow in flows})

    async def look_up(self) -> None:
        """Look up what is due, at the present time of the clock."""
        await self.attributor._look_up_due(self.clock.now)

    def ingest(self, *flows: FlowKey, size: int = 1, opened: bool = False) -> None:
        self.pass_on({flow: make_delta((size, 1), opened=opened) for flow in flows})

    async def next_lookup(self) -> float:
        """Do as `run` does when the next lookup is due; return the time."""
        self.clock.now = max(self.clock.now, self.attributor._next_lookup())
        await self.attributor._look_up_due(self.clock.now)
        return self.clock.now

    async def wait_for_emitted(self, number: int) -> None:
        """Wait until the flows of so many calls have been emitted since the last `drain`."""
        while len(self.emitted) < number:
            self.has_emitted.clear()
            await self.has_emitted.wait()

    def drain(self) -> list[tuple[FlowKey, int, Attribution]]:
        """Return flow, bytes and owner of what was emitted since the last call."""
        emitted, self.emitted = self.emitted, []
        return [(flow, delta.total_bytes, owner) for flow, delta, owner in emitted]

    def _collect(self) -> None:
        sums = list(list_sums(self.attributor.take_translated(self.table.drain())))
        if sums:
            self.emitted += sums
            self.has_emitted.set()

"""A window may end at any moment: its records and its counters are of that moment."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from support.resolving import BlankResolver
from support.running import imbalances, stats_of
from support.traffic import NGINX, exact, make_delta, make_flow

from hogpipe import processing
from hogpipe.aggregation.aggregator import Aggregator
from hogpipe.attribution.resolver import FlowSpans, Resolution
from hogpipe.attribution.stage.attributor import Attributor
from hogpipe.attribution.stale_flows import StaleFlows
from hogpipe.capture.batch_counter import BatchCounter
from hogpipe.capture.handoff import Handoff
from hogpipe.flows.flow_batch import FlowBatch
from hogpipe.flows.flow_table import FlowTable
from hogpipe.flows.packet_rows import PacketRows
from hogpipe.model import CaptureCounts, FlowKey, Span, Tally
from hogpipe.processing import Intake, PacketClock, Processing, WindowPublisher
from hogpipe.protocols import NANOSECONDS
from hogpipe.records.stamp import RecordStamper, make_run_id
from hogpipe.run_requests import StopRequest

FLOWS = [make_flow(port) for port in range(1, 8)]
SIZE = 100


class Resolver(BlankResolver):
    """Knows the owner of every other flow."""

    def resolve(self, flows: FlowSpans) -> dict[FlowKey, Resolution]:
        return {flow: Resolution(exact(NGINX)) for flow in flows if flow.local_port % 2}


class Sinks:
    """Keeps what is published; `gate` holds it up."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def publish(self, records: Sequence[object]) -> None:
        await self.gate.wait()
        self.records += records

    def health(self) -> list[object]:
        return []


class CountingSource:
    """A source that closes the windows itself, and offers nothing by itself."""

    live = True
    closes_windows = True


class Stage:
    """Intake, attribution, aggregation and publisher; a window ends whenever `close` is called."""

    def __init__(
        self,
        executor: ThreadPoolExecutor,
        is_late: Callable[[], bool] = lambda: False,
        *,
        waits: bool = True,
    ) -> None:
        aggregator = Aggregator(["process", "flow"], [], 100)
        self.table = FlowTable(5, 5)
        self.stale_flows = StaleFlows()
        self.attributor = Attributor(
            Resolver(), self.stale_flows, executor, self.table, hold=60, cpu_budget=1, max_pending=5
        )
        counter = BatchCounter(self.table, self.attributor.start_batch, time.monotonic)
        self.handoff = Handoff(counter, waits=waits)
        self.intake = Intake(self.handoff, self.table, self.attributor, aggregator, is_late)
        self.sinks = Sinks()
        self.publisher = WindowPublisher(
            self.intake,
            self.attributor,
            aggregator,
            RecordStamper(make_run_id(0), "host"),
            self.sinks,  # type: ignore[arg-type]
            live=True,
        )
        self._windows = 0

    async def close(self) -> None:
        await self.publisher.wait_for_room()
        self._windows += 1
        self.publisher.close(Span(self._windows - 1, self._windows))

    async def finish(self, publishing: asyncio.Task[None]) -> list[Any]:
        """Close the last window, and return the stats of all; `publishing` ends."""
        await self.close()
        await self.publisher.finish()
        publishing.cancel()
        return stats_of(self.sinks.records)


@pytest.fixture(scope="module")
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def make_batch() -> FlowBatch:
    flows = {flow: make_delta((SIZE, 1)) for flow in FLOWS}
    counts = CaptureCounts(captured=Tally(len(flows), SIZE * len(flows)))
    return FlowBatch(flows=flows, counts=counts)


def make_packets(table: FlowTable) -> FlowBatch:
    """Return a batch of a transmitted packet of each flow."""
    count = len(FLOWS)
    slots, is_folded = table.give_slots(table.packer.pack(FLOWS), time.monotonic())
    zeros, ones = np.zeros(count, np.int64), np.ones(count, np.int64)
    rows = PacketRows(slots, zeros, SIZE * ones, ones, zeros > 0, zeros, zeros)
    counts = CaptureCounts(captured=Tally(count, SIZE * count))
    counts.overflowed = Tally(int(is_folded.sum()), SIZE * int(is_folded.sum()))
    return FlowBatch(rows=rows, counts=counts)


@pytest.mark.parametrize("late_after", [0, 3, 100])
async def test_the_sum_is_exact_wherever_in_a_batch_a_window_ends(
    executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, late_after: int
) -> None:
    monkeypatch.setattr(processing, "_FLOW_SLICE", 1)
    asked = iter(range(1000))
    stage = Stage(executor, is_late=lambda: next(asked) >= late_after)
    publishing = asyncio.create_task(stage.publisher.run())
    for _ in range(2):
        ingesting = asyncio.create_task(stage.intake.ingest(make_batch()))
        while not ingesting.done():
            await stage.close()
            await asyncio.sleep(0)
        await stage.attributor.resolve_pending()
    stats = await stage.finish(publishing)
    assert len(stats) > 2 * len(FLOWS)
    assert imbalances(stage.sinks.records) == [0] * len(stats)
    pending = [one["attribution"]["pending"]["bytes"] for one in stats]
    assert max(pending) > 0 == pending[-1]


async def test_the_sum_is_exact_whatever_of_a_batch_the_flow_table_counts(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor, waits=False)
    publishing = asyncio.create_task(stage.publisher.run())
    batches = aiter(stage.handoff)
    for _ in range(4):
        stage.handoff.offer(make_packets(stage.table))
        await stage.close()
        if stage.handoff.list_queued():
            await stage.intake.ingest(await anext(batches))
        await stage.close()
        await stage.attributor.resolve_pending()
    stats = await stage.finish(publishing)
    assert imbalances(stage.sinks.records) == [0] * len(stats)
    assert sum(one["capture"]["packets"] for one in stats) == 4 * len(FLOWS)
    pending = [one["attribution"]["pending"]["bytes"] for one in stats]
    assert max(pending) > 0 == pending[-1]


async def test_the_sum_is_exact_while_packets_of_pending_flows_gather(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor, waits=False)
    publishing = asyncio.create_task(stage.publisher.run())
    batches = aiter(stage.handoff)
    stage.handoff.offer(make_packets(stage.table))
    await stage.intake.ingest(await anext(batches))
    for _ in range(3):
        stage.handoff.offer(make_packets(stage.table))
        assert not stage.handoff.list_queued()
        await stage.close()
    await stage.attributor.resolve_pending()
    stats = await stage.finish(publishing)
    assert imbalances(stage.sinks.records) == [0] * len(stats)
    pending = [one["attribution"]["pending"]["bytes"] for one in stats]
    assert pending[:3] == sorted(pending[:3])
    assert len(set(pending[:3])) == 3
    assert pending[-1] == 0


async def test_flows_that_became_known_after_they_were_counted_are_pending_after_an_event(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor, waits=False)
    known = [flow for flow in FLOWS[: stage.table.max_flows] if flow.local_port % 2]
    batches = aiter(stage.handoff)
    for _ in range(2):
        stage.handoff.offer(make_packets(stage.table))
    await stage.intake.ingest(await anext(batches))
    await stage.attributor.resolve_pending()
    stage.stale_flows.ingest_before_drain(lambda: stage.stale_flows.add_all(known))
    await stage.intake.ingest(await anext(batches))
    stats = stage.attributor.drain_stats()
    assert (stats.pending_flows, stats.pending_bytes) == (len(known), SIZE * len(known))


async def test_a_window_ends_in_time_while_earlier_ones_are_published(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    stage.sinks.gate.clear()
    publishing = asyncio.create_task(stage.publisher.run())
    for _ in range(2):
        await stage.intake.ingest(make_batch())
        await stage.close()
    waiting = asyncio.create_task(stage.publisher.wait_for_room())
    await asyncio.sleep(0)
    assert not waiting.done()
    assert stage.sinks.records == []
    stage.sinks.gate.set()
    await waiting
    await stage.publisher.finish()
    publishing.cancel()
    assert [one["sequence"] for one in stats_of(stage.sinks.records)] == [2, 4]


async def test_a_window_has_more_flows_than_the_table(executor: ThreadPoolExecutor) -> None:
    stage = Stage(executor, waits=False)
    publishing = asyncio.create_task(stage.publisher.run())
    flows, size = [make_flow(port) for port in range(1, 30, 2)], stage.table.max_flows
    for start in range(0, len(flows), size):
        part = dict.fromkeys(flows[start : start + size], make_delta((SIZE, 1)))
        await stage.intake.ingest(FlowBatch(flows=part, counts=CaptureCounts()))
        await stage.attributor.resolve_pending()
        assert stage.table.is_crowded
        stage.intake.make_evictable()
        stage.table.evict(time.monotonic() + 100, idle=60, idle_unowned=15)
        assert not stage.table.is_crowded
    await stage.close()
    await stage.publisher.finish()
    publishing.cancel()
    traffic = [one for one in stage.sinks.records if one["type"] == "traffic"]
    assert len(traffic) == len(flows)
    assert {one["process"]["pid"] for one in traffic} == {NGINX.pid}


async def test_a_counted_window_leaves_room_in_the_table(executor: ThreadPoolExecutor) -> None:
    stage = Stage(executor)
    run = Processing(
        CountingSource(),  # type: ignore[arg-type]
        stage.handoff,
        stage.intake,
        stage.attributor,
        stage.publisher,
        stop=StopRequest(),
        packet_clock=PacketClock(),
        interval_ns=3600 * NANOSECONDS,
    )
    running = asyncio.create_task(run.run())
    some = FlowBatch(flows={flow: make_delta((SIZE, 1)) for flow in FLOWS[:3]})
    await asyncio.to_thread(stage.handoff.offer, some)
    async with asyncio.timeout(10):
        while stage.attributor.drain_stats().pending_flows:
            await stage.attributor.resolve_pending()
        await asyncio.to_thread(stage.handoff.offer, FlowBatch())
        assert len(stage.table.evict(time.monotonic() + 100, idle=60, idle_unowned=15))
        stage.handoff.end()
        await running

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.flow_rows import rows_of
from support.lanes import open_lane
from support.stage import Stage
from support.traffic import NGINX, exact, make_delta

from hogpipe.capture.batch_counter import BatchCounter
from hogpipe.capture.handoff import Handoff, merge_batches
from hogpipe.flows.flow_batch import FlowBatch
from hogpipe.flows.flow_table import FlowTable
from hogpipe.flows.packet_rows import PacketRows
from hogpipe.model import UNATTRIBUTED, CaptureCounts, FlowKey, Tally, fold_key


def flow(number: int) -> FlowKey:
    return FlowKey(6, b"\x0a\0\0\1", number, b"\x0a\0\0\2", 80, "eth0")


def batch(*numbers: int, size: int = 100) -> FlowBatch:
    flows = {flow(number): make_delta((size, 1)) for number in numbers}
    counts = CaptureCounts(captured=Tally(len(flows), size * len(flows)))
    return FlowBatch(flows=flows, counts=counts, time_ns=max(numbers, default=0))


def make_handoff(
    *, waits: bool = False, depth: int = 16, max_flows: int = 16_384, table: FlowTable | None = None
) -> Handoff:
    """Return a handoff of batches whose flows need a decision; the clock stands."""
    counter = BatchCounter(table or FlowTable(100, 100), lambda: None, lambda: 0.0)
    return Handoff(counter, waits=waits, depth=depth, max_flows=max_flows)


def bytes_of(batches: list[FlowBatch]) -> int:
    return sum(delta.total_bytes for one in batches for delta in one.flows.values())


async def collect(handoff: Handoff) -> list[FlowBatch]:
    return [one async for one in handoff]


async def test_batches_come_out_in_the_order_of_offer() -> None:
    handoff = make_handoff()
    for number in range(5):
        handoff.offer(batch(number))
    handoff.end()
    assert [taken.time_ns for taken in await collect(handoff)] == [0, 1, 2, 3, 4]


async def test_a_later_batch_wakes_the_iteration() -> None:
    handoff = make_handoff()
    with ThreadPoolExecutor(1) as thread:
        taking = asyncio.create_task(collect(handoff))
        await asyncio.sleep(0)
        await asyncio.wrap_future(thread.submit(handoff.offer, batch(1)))
        await asyncio.wrap_future(thread.submit(handoff.end))
        assert len(await taking) == 1


async def test_the_longest_delay_of_the_loop_is_reported_once() -> None:
    handoff = make_handoff()
    with ThreadPoolExecutor(1) as thread:
        taking = asyncio.create_task(collect(handoff))
        await asyncio.sleep(0)
        thread.submit(handoff.offer, batch(1)).result()
        time.sleep(0.2)  # noqa: ASYNC251 - the loop is to be blocked
        handoff.end()
        await taking
    assert handoff.take_longest_delay() >= 0.2
    assert handoff.take_longest_delay() == 0.0


async def test_a_loop_that_is_behind_gets_merged_batches_with_every_byte() -> None:
    handoff = make_handoff(depth=3)
    for number in range(100):
        handoff.offer(batch(number))
    handoff.end()
    taken = await collect(handoff)
    assert len(taken) == 3
    assert bytes_of(taken) == 100 * 100
    counts = handoff.drain_counts()
    assert counts.captured.bytes == 100 * 100
    assert counts.merged_batches == 97
    assert taken[-1].time_ns == 99


async def test_a_source_that_waits_offers_one_batch_after_the_other() -> None:
    handoff = make_handoff(waits=True)

    done: list[int] = []
    seen: list[int] = []

    def offer_all() -> None:
        for number in range(50):
            handoff.offer(batch(number))
            seen.append(len(done))
        handoff.end()

    with ThreadPoolExecutor(1) as thread:
        offering = thread.submit(offer_all)
        async for one in handoff:
            handoff.count(one)
            await asyncio.sleep(0)
            done.append(one.time_ns)
        await asyncio.wrap_future(offering)
    assert done == list(range(50))
    assert seen == list(range(1, 51))
    assert handoff.drain_counts().captured.packets == 50


async def test_abandoning_unblocks_a_waiting_thread() -> None:
    handoff = make_handoff(waits=True)
    started = threading.Event()

    def offer_more() -> None:
        started.set()
        handoff.offer(batch(2))

    with ThreadPoolExecutor(1) as thread:
        offering = thread.submit(offer_more)
        started.wait()
        handoff.abandon()
        await asyncio.wrap_future(offering)


async def test_a_cancelled_iteration_ends_at_once() -> None:
    handoff = make_handoff()
    taking = asyncio.create_task(collect(handoff))
    await asyncio.sleep(0)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking


@given(st.lists(st.lists(st.integers(0, 40), max_size=10), max_size=10), st.integers(1, 10))
def test_merging_keeps_every_byte_and_bounds_the_flows(rows: list[list[int]], most: int) -> None:
    merged, overflowed = FlowBatch(), Tally()
    for numbers in rows:
        overflowed.add(merge_batches(merged, batch(*numbers), max_flows=most)[0])
    whole = sum(100 * len(set(numbers)) for numbers in rows)
    assert bytes_of([merged]) == whole
    assert len(merged.flows) <= most + 1
    kept = sum(delta.total_bytes for key, delta in merged.flows.items() if key.local_port)
    assert overflowed.bytes <= whole - kept


@given(st.lists(st.integers(0, 8), max_size=20), st.integers(1, 10))
async def test_all_queued_batches_together_have_a_bounded_number_of_flows(
    sizes: list[int], most: int
) -> None:
    handoff = make_handoff(depth=4, max_flows=most)
    offered, first = 0, 0
    for size in sizes:
        handoff.offer(batch(*range(first, first + size)))
        first += size
        offered += 100 * size
    handoff.end()
    taken = await collect(handoff)
    kept = sum(key.local_port > 0 for one in taken for key in one.flows)
    assert kept <= most + max(sizes, default=0)
    assert bytes_of(taken) == offered == handoff.drain_counts().captured.bytes


async def test_the_flows_of_a_batch_count_until_the_next_one_is_taken() -> None:
    handoff = make_handoff(depth=4, max_flows=4)
    handoff.offer(batch(1, 2, 3))
    batches = aiter(handoff)
    first = await anext(batches)
    handoff.offer(batch(4))
    handoff.offer(batch(5, 6))
    second = await anext(batches)
    handoff.offer(batch(7))
    handoff.offer(batch(8))
    handoff.end()
    rest = [one async for one in batches]
    assert [len(one.flows) for one in (first, second, *rest)] == [3, 2, 1, 1]
    assert handoff.drain_counts().overflowed.packets == 2


def packets(table: FlowTable, *numbers: int) -> FlowBatch:
    """Return a batch of a transmitted packet of 100 bytes for each flow."""
    count = len(numbers)
    slots, _ = table.give_slots(table.packer.pack([flow(number) for number in numbers]), 0.0)
    zeros, ones = np.zeros(count, np.int64), np.ones(count, np.int64)
    rows = PacketRows(slots, zeros, 100 * ones, ones, zeros > 0, zeros, zeros)
    return FlowBatch(rows=rows, counts=CaptureCounts(captured=Tally(count, 100 * count)))


async def test_packets_of_known_flows_are_counted_without_waking_the_loop() -> None:
    table = FlowTable(100, 100)
    handoff = make_handoff(table=table)
    handoff.offer(packets(table, 1, 2))
    batches = aiter(handoff)
    first = (await anext(batches)).flows
    assert set(first) == {flow(1), flow(2)}
    table.receive(first, 0.0)
    open_lane(table, flow(1), exact(NGINX), due_at=1.0)
    handoff.offer(packets(table, 1, 1))
    assert handoff.list_queued() == []
    handoff.offer(packets(table, 1, 2))
    assert [delta.total_bytes for delta in handoff.list_queued()] == [100]
    assert set((await anext(batches)).flows) == {flow(2)}
    assert handoff.drain_counts().captured.packets == 6
    assert table.drain().counters.sum(axis=0).tolist() == [300, 3, 0, 0]


async def test_a_batch_of_unknown_flows_is_counted_without_a_start() -> None:
    table = FlowTable(100, 100)
    starts: list[int] = []
    counter = BatchCounter(table, lambda: starts.append(1), lambda: 0.0)
    handoff = Handoff(counter, waits=False, depth=1)
    for numbers in ([1], [2, 3], [1, 2]):
        handoff.offer(packets(table, *numbers))
    batches = aiter(handoff)
    merged = await anext(batches)
    assert (starts, merged.is_started) == ([], False)
    table.receive(merged.flows, 0.0)
    open_lane(table, flow(1), exact(NGINX), due_at=0.0)
    handoff.offer(packets(table, 1, 4))
    handoff.offer(packets(table, 4))
    merged = await anext(batches)
    assert (starts, merged.is_started) == ([1], False)


async def test_what_has_changed_on_the_host_is_taken_in_before_packets_are_counted() -> None:
    table = FlowTable(100, 100)
    stale: list[FlowKey] = []
    counter = BatchCounter(table, lambda: table.close_lanes(stale), lambda: 0.0)
    handoff = Handoff(counter, waits=False)
    handoff.offer(packets(table, 1))
    table.receive((await anext(aiter(handoff))).flows, 0.0)
    open_lane(table, flow(1), exact(NGINX), due_at=1.0)
    stale.append(flow(1))
    handoff.offer(packets(table, 1))
    assert len(handoff.list_queued()) == 1


async def test_a_connection_whose_syn_is_folded_has_not_the_owner_of_the_one_before() -> None:
    with ThreadPoolExecutor(1) as executor:
        stage = Stage(executor)
        stage.resolver.answers[flow(1)] = exact(NGINX)
        stage.ingest(flow(1))
        await stage.next_lookup()
    table, attributor = stage.table, stage.attributor
    counter = BatchCounter(
        table,
        attributor.start_batch,
        stage.clock,
        end_connections=stage.stale_flows.add_all,
    )
    handoff = Handoff(counter, waits=False, depth=1, max_flows=1)
    for packet in (
        {flow(2): make_delta((10, 1))},  # there is no room for others
        {flow(1): make_delta((20, 1), opened=True)},
    ):
        handoff.offer(FlowBatch(rows=rows_of(table, packet, 0.0)))
    stage.drain()
    iteration = aiter(handoff)
    batch = await anext(iteration)
    attributor.ingest_part(batch.flows, batch.calls)
    assert stage.drain() == [(fold_key(flow(1)), 20, UNATTRIBUTED)]
    handoff.offer(FlowBatch(rows=rows_of(table, {flow(1): make_delta((30, 1))}, 0.0)))
    batch = await anext(iteration)
    attributor.ingest_part(batch.flows, batch.calls)
    assert stage.drain() == []
    assert attributor.drain_stats().pending_flows == 2

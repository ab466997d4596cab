import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.traffic import make_delta, make_traffic

from hogpipe.capture.handoff import Handoff, merge_batches
from hogpipe.flows.flow_batch import FlowBatch, OwnedFlow
from hogpipe.model import UNATTRIBUTED, CaptureCounts, FlowKey, Tally


def flow(number: int) -> FlowKey:
    return FlowKey(6, b"\x0a\0\0\1", number, b"\x0a\0\0\2", 80, "eth0")


def batch(*numbers: int, size: int = 100) -> FlowBatch:
    flows = {flow(number): make_delta((size, 1)) for number in numbers}
    counts = CaptureCounts(captured=Tally(len(flows), size * len(flows)))
    return FlowBatch(flows, counts, time_ns=max(numbers, default=0))


def test_merged_batches_keep_owned_flows() -> None:
    owned = [OwnedFlow(flow(at), make_traffic((at, 1)), UNATTRIBUTED) for at in (1, 2)]
    older, newer = FlowBatch(owned=owned[:1]), FlowBatch(owned=owned[1:])
    merge_batches(older, newer, 1)
    assert older.owned == owned


def bytes_of(batches: list[FlowBatch]) -> int:
    return sum(delta.total_bytes for one in batches for delta in one.flows.values())


async def collect(handoff: Handoff) -> list[FlowBatch]:
    return [one async for one in handoff]


async def test_batches_come_out_in_the_order_of_offer() -> None:
    handoff = Handoff(merge=True)
    for number in range(5):
        handoff.offer(batch(number))
    handoff.end()
    assert [taken.time_ns for taken in await collect(handoff)] == [0, 1, 2, 3, 4]


async def test_a_later_batch_wakes_the_iteration() -> None:
    handoff = Handoff(merge=True)
    with ThreadPoolExecutor(1) as thread:
        taking = asyncio.create_task(collect(handoff))
        await asyncio.sleep(0)
        await asyncio.wrap_future(thread.submit(handoff.offer, batch(1)))
        await asyncio.wrap_future(thread.submit(handoff.end))
        assert len(await taking) == 1


async def test_the_longest_delay_of_the_loop_is_reported_once() -> None:
    handoff = Handoff(merge=True)
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
    handoff = Handoff(merge=True, depth=3)
    for number in range(100):
        handoff.offer(batch(number))
    handoff.end()
    taken = await collect(handoff)
    assert len(taken) == 3
    assert bytes_of(taken) == 100 * 100
    assert sum(one.counts.captured.bytes for one in taken) == 100 * 100
    assert sum(one.counts.merged_batches for one in taken) == 97
    assert taken[-1].time_ns == 99


async def test_a_replay_waits_for_room_instead_of_merging() -> None:
    handoff = Handoff(merge=False, depth=2)

    def offer_all() -> None:
        for number in range(50):
            handoff.offer(batch(number))
        handoff.end()

    with ThreadPoolExecutor(1) as thread:
        offering = thread.submit(offer_all)
        taken = await collect(handoff)
        await asyncio.wrap_future(offering)
    assert [one.time_ns for one in taken] == list(range(50))


async def test_abandoning_unblocks_a_waiting_thread() -> None:
    handoff = Handoff(merge=False, depth=1)
    handoff.offer(batch(1))
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
    handoff = Handoff(merge=True)
    taking = asyncio.create_task(collect(handoff))
    await asyncio.sleep(0)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking


@given(st.lists(st.lists(st.integers(0, 40), max_size=10), max_size=10), st.integers(1, 10))
def test_merging_keeps_every_byte_and_bounds_the_flows(rows: list[list[int]], most: int) -> None:
    merged = FlowBatch()
    for numbers in rows:
        merge_batches(merged, batch(*numbers), max_flows=most)
    whole = sum(100 * len(set(numbers)) for numbers in rows)
    assert bytes_of([merged]) == whole == merged.counts.captured.bytes
    assert len(merged.flows) <= most + 1
    kept = sum(delta.total_bytes for key, delta in merged.flows.items() if key.local_port)
    assert merged.counts.overflowed.bytes <= whole - kept


@given(st.lists(st.integers(0, 8), max_size=20), st.integers(1, 10))
async def test_all_queued_batches_together_have_a_bounded_number_of_flows(
    sizes: list[int], most: int
) -> None:
    handoff = Handoff(merge=True, depth=4, max_flows=most)
    offered, first = 0, 0
    for size in sizes:
        handoff.offer(batch(*range(first, first + size)))
        first += size
        offered += 100 * size
    handoff.end()
    taken = await collect(handoff)
    kept = sum(key.local_port > 0 for one in taken for key in one.flows)
    assert kept <= most + max(sizes, default=0)
    assert bytes_of(taken) == offered == sum(one.counts.captured.bytes for one in taken)


async def test_the_flows_of_a_batch_count_until_the_next_one_is_taken() -> None:
    handoff = Handoff(merge=True, depth=4, max_flows=4)
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
    assert second.counts.overflowed.packets == 2

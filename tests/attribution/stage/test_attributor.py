"""The stage against a scripted resolver, a real executor thread and a clock set by hand."""

import asyncio
import math
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from msgspec.structs import replace
from support.stage import ScriptedExits, Stage
from support.traffic import NGINX, exact, make_delta, make_flow

from hogpipe.attribution.resolver import Resolution
from hogpipe.attribution.stage import (
    attributor,
    batching,
    known_flows,
    pending_resolution,
    rechecks,
)
from hogpipe.attribution.stage.batching import LookupVerdict
from hogpipe.model import (
    TRANSLATED,
    UNATTRIBUTED,
    Attribution,
    FlowKey,
    Latency,
    Process,
    Quality,
    Tally,
    User,
    fold_key,
)
from hogpipe.threads import SerialExecutor

CURL = replace(NGINX, pid=77, command="curl")
ONLY_USER = Attribution(Quality.NONE, None, User(33, "www-data"))
FLOW = make_flow(1)


@pytest.fixture(scope="module")
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


async def test_a_new_flow_is_looked_up_at_once_and_known_from_then_on(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor, cpu_budget=0.2)
    stage.resolver.answers[FLOW] = exact(NGINX)
    async with asyncio.timeout(10):
        run = asyncio.create_task(stage.attributor.run())
        await asyncio.sleep(0)
        stage.ingest(FLOW, size=10)
        assert stage.drain() == []
        await stage.has_emitted.wait()
        assert stage.drain() == [(FLOW, 10, exact(NGINX))]
        stage.ingest(FLOW, size=5)
        assert stage.drain() == [(FLOW, 5, exact(NGINX))]
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert stage.resolver.asked == [[FLOW]]


async def test_a_translated_flow_is_counted_and_not_emitted(executor: ThreadPoolExecutor) -> None:
    stage = Stage(executor)
    stage.resolver.answers[FLOW] = TRANSLATED
    stage.ingest(FLOW, size=10)
    await stage.next_lookup()
    assert stage.attributor.drain_stats().translated == Tally(1, 10)
    stage.ingest(FLOW, size=5)
    assert stage.attributor.drain_stats().translated == Tally(1, 5)
    assert stage.drain() == []
    assert stage.resolver.asked == [[FLOW]]


async def test_a_flow_that_is_found_to_be_translated_later_is_counted_from_then_on(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor, hold=0.0)
    stage.ingest(FLOW, size=10)
    stage.attributor.emit_expired()
    stage.resolver.answers[FLOW] = TRANSLATED
    stage.ingest(FLOW, size=5)
    await stage.next_lookup()
    stage.ingest(FLOW, size=3)
    assert stage.drain() == [(FLOW, 10, UNATTRIBUTED), (FLOW, 5, UNATTRIBUTED)]
    assert stage.attributor.drain_stats().translated == Tally(1, 3)


async def test_the_batch_interval_of_the_capture_follows_the_lookups(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    flows = [make_flow(number) for number in range(1, 11)]
    stage.resolver.answers.update((flow, exact(NGINX)) for flow in flows)
    stage.resolver.answers[flows[0]] = UNATTRIBUTED
    stage.ingest(*flows)
    await stage.next_lookup()
    assert stage.batch_intervals == [batching._SHORT_BATCH]
    for number in range(100, 150):
        flow = make_flow(number)
        stage.resolver.answers[flow] = Attribution(Quality.INFERRED, CURL)
        stage.ingest(flow)
        await stage.next_lookup()
    assert stage.batch_intervals[-1] == batching._FINAL_BATCH


async def test_the_batch_interval_is_short_where_five_tuples_may_be_reused(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    flows = [make_flow(number) for number in range(1, 20)]
    stage.resolver.answers.update((flow, exact(NGINX)) for flow in flows)
    stage.resolver.reused = flows
    stage.ingest(*flows)
    await stage.next_lookup()
    assert stage.batch_intervals == [batching._SHORT_BATCH]


@pytest.mark.parametrize("error", [None, OSError("not now")])
async def test_preparing_lets_the_resolver_read_ahead_and_survives_its_failure(
    executor: ThreadPoolExecutor, error: OSError | None
) -> None:
    stage = Stage(executor)
    stage.resolver.error = error
    await stage.attributor.prepare()
    assert stage.resolver.prepared
    assert stage.attributor.drain_stats().batches == 0


async def test_all_new_flows_are_one_batch_and_bytes_add_up_meanwhile(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    stage.ingest(make_flow(1), make_flow(2))
    stage.ingest(make_flow(2), make_flow(3))
    await stage.next_lookup()
    assert stage.resolver.asked == [[make_flow(1), make_flow(2), make_flow(3)]]
    assert stage.attributor.drain_stats().pending_bytes == 4


async def test_a_pending_delta_is_a_copy(executor: ThreadPoolExecutor) -> None:
    stage = Stage(executor)
    delta = make_delta((1, 1))
    stage.pass_on({FLOW: delta})
    stage.ingest(FLOW, size=2)
    assert delta == make_delta((1, 1))


async def test_a_flow_without_an_answer_is_retried_with_backoff_until_hold(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor, hold=2.0)
    stage.ingest(FLOW)
    times = []
    while not stage.emitted:
        times.append(await stage.next_lookup())
    assert times == pytest.approx([0.0, 0.05, 0.15, 0.35, 0.75, 1.55, 2.0])
    assert stage.drain() == [(FLOW, 1, UNATTRIBUTED)]


@pytest.mark.parametrize("way", ["run", "end of a window"])
async def test_a_flow_without_a_socket_is_not_retried_but_may_be_inferred(
    executor: ThreadPoolExecutor, way: str
) -> None:
    stage = Stage(executor, hold=2.0)
    stage.resolver.answers[FLOW] = UNATTRIBUTED
    stage.ingest(FLOW)
    await stage.next_lookup()
    inferred = stage.resolver.inferences[FLOW] = Attribution(Quality.INFERRED, CURL)
    stage.ingest(FLOW)
    if way == "run":
        assert await stage.next_lookup() == 2.0
    else:
        stage.clock.now = 2.0
        stage.attributor.emit_expired()
    assert stage.drain() == [(FLOW, 2, inferred)]
    assert stage.resolver.asked == [[FLOW]]


async def test_a_flow_without_a_socket_is_unattributed_where_nothing_is_inferred(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor, hold=2.0)
    stage.resolver.answers[FLOW] = UNATTRIBUTED
    stage.ingest(FLOW)
    await stage.next_lookup()
    await stage.next_lookup()
    assert stage.drain() == [(FLOW, 1, UNATTRIBUTED)]


async def test_a_final_resolution_without_an_owner_is_emitted_at_once(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor, hold=2.0)
    stage.resolver.answers[FLOW] = UNATTRIBUTED
    stage.resolver.final.append(FLOW)
    stage.ingest(FLOW)
    await stage.next_lookup()
    assert stage.clock.now == 0.0
    assert stage.drain() == [(FLOW, 1, UNATTRIBUTED)]


async def test_every_flow_is_looked_up_once_even_without_hold(executor: ThreadPoolExecutor) -> None:
    stage = Stage(executor, hold=0.0)
    stage.ingest(make_flow(1), make_flow(2))
    stage.resolver.answers[make_flow(1)] = exact(NGINX)
    stage.clock.now = 5.0
    await stage.next_lookup()
    assert stage.drain() == [
        (make_flow(1), 1, exact(NGINX)),
        (make_flow(2), 1, UNATTRIBUTED),
    ]


async def test_a_user_that_one_lookup_found_is_emitted_though_a_later_one_finds_nothing(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    stage.resolver.answers[FLOW] = ONLY_USER
    stage.ingest(FLOW)
    await stage.next_lookup()
    assert stage.drain() == []
    del stage.resolver.answers[FLOW]
    await stage.attributor.resolve_pending()
    assert stage.drain() == [(FLOW, 1, ONLY_USER)]


async def test_a_flow_without_an_owner_is_not_looked_up_with_each_batch(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    stage.ingest(FLOW)
    await stage.attributor.resolve_pending()
    for second in range(1, 10):
        stage.clock.now = second / 2
        stage.ingest(FLOW)
        await stage.next_lookup()
    assert stage.resolver.asked == [[FLOW]]
    assert stage.drain() == [(FLOW, 1, UNATTRIBUTED)] * 10


async def test_an_old_answer_is_used_at_once_and_rechecked(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    stage.resolver.answers[FLOW] = exact(NGINX)
    stage.ingest(FLOW)
    await stage.attributor.resolve_pending()
    stage.resolver.answers[FLOW] = exact(CURL)
    stage.clock.now = 10.0
    stage.ingest(FLOW)
    stage.ingest(FLOW)
    await stage.next_lookup()
    stage.ingest(FLOW)
    assert stage.drain() == [(FLOW, 1, exact(NGINX))] * 3 + [(FLOW, 1, exact(CURL))]
    assert stage.resolver.asked == [[FLOW]] * 2


async def test_rechecks_alone_cause_no_lookup_more_often_than_answers_age(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    first, second = make_flow(1), make_flow(2)
    stage.ingest(first)
    await stage.attributor.resolve_pending()
    stage.clock.now = 4.0
    stage.ingest(second)
    await stage.attributor.resolve_pending()
    stage.clock.now = 6.0
    stage.ingest(first)
    assert await stage.next_lookup() == 9.0
    assert stage.resolver.asked[2:] == [[first]]


async def recheck(
    executor: ThreadPoolExecutor, flow: FlowKey, first: Attribution, then: Attribution
) -> Attribution:
    """Return the owner of a flow that a lookup answered with `first` and a recheck with `then`."""
    stage = Stage(executor)
    stage.resolver.answers[flow] = first
    stage.ingest(flow)
    await stage.attributor.resolve_pending()
    stage.resolver.answers[flow] = then
    stage.clock.now = 10.0
    stage.ingest(flow)
    await stage.next_lookup()
    stage.ingest(flow)
    emitted = [owner for _flow, _size, owner in stage.drain()]
    assert emitted[:2] == [first, first]
    return emitted[2]


BY_LISTENER, BY_OTHER_LISTENER = (
    Attribution(Quality.LISTENER, process) for process in (NGINX, CURL)
)


@pytest.mark.parametrize("then", [UNATTRIBUTED, BY_OTHER_LISTENER])
async def test_a_tcp_connection_keeps_its_owner_when_its_socket_is_closed(
    executor: ThreadPoolExecutor, then: Attribution
) -> None:
    assert await recheck(executor, FLOW, exact(NGINX), then) == exact(NGINX)


async def test_a_more_certain_answer_replaces_a_less_certain_one(
    executor: ThreadPoolExecutor,
) -> None:
    assert await recheck(executor, FLOW, BY_LISTENER, exact(CURL)) == exact(CURL)


async def test_a_udp_flow_loses_its_owner_with_its_socket(executor: ThreadPoolExecutor) -> None:
    udp = replace(FLOW, protocol=17)
    assert await recheck(executor, udp, exact(NGINX), UNATTRIBUTED) == UNATTRIBUTED


async def test_a_lookup_is_bounded_and_takes_the_newest_flows_first_in_the_order_of_arrival(
    executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attributor, "_MAX_BATCH", 3)
    stage = Stage(executor, hold=0.0)
    stage.ingest(*[make_flow(port) for port in range(5)])
    assert await stage.next_lookup() == 0.0
    assert await stage.next_lookup() == 0.0
    assert stage.resolver.asked == [
        [make_flow(port) for port in some] for some in ((2, 3, 4), (0, 1))
    ]
    assert {flow for flow, _, _ in stage.drain()} == {make_flow(port) for port in range(5)}


async def test_flows_that_come_faster_than_lookups_are_answered_before_they_are_given_up(
    executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attributor, "_MAX_BATCH", 3)
    stage = Stage(executor, hold=2.0)
    flows = [make_flow(port) for port in range(60)]
    stage.resolver.answers = dict.fromkeys(flows, exact(NGINX))
    async with asyncio.timeout(10):
        for turn in range(10):  # six flows a second, and a lookup of three that takes 0.9 seconds
            stage.ingest(*flows[6 * turn : 6 * turn + 6])
            stage.resolver.gate.clear()
            lookup = asyncio.create_task(stage.look_up())
            await stage.resolver.calls.get()
            stage.clock.now = turn + 0.9
            stage.attributor.emit_expired()
            stage.resolver.gate.set()
            await lookup
            stage.clock.now = turn + 1.0
    owned = [flow for flow, _, owner in stage.drain() if owner == exact(NGINX)]
    assert len(owned) == 30


async def test_a_cached_owner_stays_when_a_lookup_fails(executor: ThreadPoolExecutor) -> None:
    stage = Stage(executor)
    flow = replace(FLOW, protocol=17)
    stage.resolver.answers[flow] = exact(NGINX)
    stage.ingest(flow)
    await stage.attributor.resolve_pending()
    stage.resolver.error = OSError("no")
    stage.clock.now = 10.0
    stage.ingest(flow)
    await stage.next_lookup()
    stage.ingest(flow)
    assert stage.drain() == [(flow, 1, exact(NGINX))] * 3


async def test_an_invalidated_answer_is_not_used_for_later_packets(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    stage.resolver.answers[FLOW] = exact(NGINX)
    stage.ingest(FLOW)
    await stage.next_lookup()
    stage.resolver.answers[FLOW] = exact(CURL)
    stage.stale_flows.add(FLOW)
    stage.ingest(FLOW)
    await stage.next_lookup()
    assert stage.drain() == [(FLOW, 1, exact(NGINX)), (FLOW, 1, exact(CURL))]


async def test_an_answer_invalidated_during_its_lookup_is_for_the_pending_bytes_alone(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    stage.resolver.answers[FLOW] = exact(NGINX)
    stage.resolver.gate.clear()
    stage.ingest(FLOW)
    lookup = asyncio.create_task(stage.next_lookup())
    await stage.resolver.calls.get()
    stage.resolver.answers[FLOW] = exact(CURL)
    stage.stale_flows.add(FLOW)
    stage.ingest(make_flow(2))
    stage.resolver.gate.set()
    await lookup
    stage.ingest(FLOW)
    await stage.next_lookup()
    emitted = [one for one in stage.drain() if one[0] == FLOW]
    assert emitted == [(FLOW, 1, exact(NGINX)), (FLOW, 1, exact(CURL))]


async def test_more_invalidated_flows_than_the_bound_invalidate_the_whole_cache(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor, max_stale=2)
    flows = [make_flow(1), make_flow(2)]
    stage.resolver.answers = dict.fromkeys(flows, exact(NGINX))
    stage.ingest(*flows)
    await stage.next_lookup()
    stage.resolver.answers = dict.fromkeys(flows, exact(CURL))
    stage.stale_flows.add_all([make_flow(port) for port in range(7, 10)])
    stage.ingest(*flows)
    await stage.next_lookup()
    assert stage.drain() == [
        *((flow, 1, exact(NGINX)) for flow in flows),
        *((flow, 1, exact(CURL)) for flow in flows),
    ]


async def test_after_an_overflow_of_invalidations_a_running_lookup_names_no_later_owner(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor, max_stale=0)
    stage.resolver.answers[FLOW] = exact(NGINX)
    stage.resolver.gate.clear()
    stage.ingest(FLOW, size=10)
    lookup = asyncio.create_task(stage.next_lookup())
    await stage.resolver.calls.get()
    stage.stale_flows.add(make_flow(9))
    stage.ingest(FLOW, size=5)
    stage.resolver.gate.set()
    await lookup
    assert stage.drain() == [(FLOW, 10, exact(NGINX))]
    stage.resolver.answers[FLOW] = exact(CURL)
    await stage.next_lookup()
    assert stage.drain() == [(FLOW, 5, exact(CURL))]


async def test_bytes_of_a_flow_invalidated_during_its_lookup_are_looked_up_again(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    stage.resolver.answers[FLOW] = exact(NGINX)
    stage.resolver.gate.clear()
    stage.ingest(FLOW, size=10)
    lookup = asyncio.create_task(stage.next_lookup())
    await stage.resolver.calls.get()
    stage.stale_flows.add(FLOW)
    stage.ingest(FLOW, size=5)
    stage.resolver.gate.set()
    await lookup
    assert stage.drain() == [(FLOW, 10, exact(NGINX))]
    stage.resolver.answers[FLOW] = exact(CURL)
    await stage.next_lookup()
    assert stage.drain() == [(FLOW, 5, exact(CURL))]


class Changes:
    """Events that make FLOW stale once they are ingested; `ingestions` counts when they were."""

    def __init__(self, stage: Stage) -> None:
        self.have_happened = False
        self.ingestions = 0
        self._stale_flows = stage.stale_flows
        stage.stale_flows.ingest_before_drain(self._ingest)

    def _ingest(self) -> None:
        self.ingestions += 1
        if self.have_happened:
            self._stale_flows.add(FLOW)


async def test_events_are_ingested_before_the_next_packet_where_none_came_during_a_lookup(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    changes = Changes(stage)
    stage.resolver.answers[FLOW] = exact(NGINX)
    stage.resolver.gate.clear()
    stage.ingest(FLOW, size=10)
    lookup = asyncio.create_task(stage.next_lookup())
    await stage.resolver.calls.get()
    changes.have_happened = True
    stage.resolver.gate.set()
    await lookup
    assert stage.drain() == [(FLOW, 10, exact(NGINX))]
    assert changes.ingestions == 0
    stage.resolver.answers[FLOW] = exact(CURL)
    stage.ingest(FLOW, size=5)
    assert changes.ingestions == 1
    await stage.next_lookup()
    assert stage.drain() == [(FLOW, 5, exact(CURL))]


async def test_events_during_a_lookup_are_ingested_where_packets_came_in_meanwhile(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    changes = Changes(stage)
    stage.resolver.answers[FLOW] = exact(NGINX)
    stage.resolver.gate.clear()
    stage.ingest(FLOW, size=10)
    lookup = asyncio.create_task(stage.next_lookup())
    await stage.resolver.calls.get()
    changes.have_happened = True
    stage.ingest(FLOW, size=5)
    assert changes.ingestions == 0
    stage.resolver.gate.set()
    await lookup
    assert stage.drain() == [(FLOW, 10, exact(NGINX))]
    stage.resolver.answers[FLOW] = exact(CURL)
    await stage.next_lookup()
    assert stage.drain() == [(FLOW, 5, exact(CURL))]


async def test_packets_that_were_counted_before_their_flow_was_known_are_looked_up_after_an_event(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    changes = Changes(stage)
    stage.resolver.answers[FLOW] = exact(NGINX)
    first, second = (stage.count({FLOW: make_delta((size, 1))}) for size in (10, 5))
    stage.ingest_held(first)
    await stage.next_lookup()
    changes.have_happened = True
    assert changes.ingestions == 0
    stage.ingest_held(second)
    stage.resolver.answers[FLOW] = exact(CURL)
    await stage.next_lookup()
    assert stage.drain() == [(FLOW, 10, exact(NGINX)), (FLOW, 5, exact(CURL))]


async def test_events_are_ingested_before_owners_are_recalled(executor: ThreadPoolExecutor) -> None:
    stage = Stage(executor)
    stage.stale_flows.ingest_before_drain(
        lambda: stage.resolver.recalled.update({FLOW: exact(NGINX)})
    )
    stage.ingest(FLOW, size=10)
    assert stage.resolver.recalled == {}
    stage.ingest(FLOW, size=5, opened=True)
    assert stage.drain() == [(FLOW, 10, exact(NGINX))]


async def test_bytes_that_come_in_during_a_lookup_get_its_owner(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    stage.resolver.answers[FLOW] = exact(NGINX)
    stage.resolver.gate.clear()
    stage.ingest(FLOW, size=10)
    lookup = asyncio.create_task(stage.next_lookup())
    await stage.resolver.calls.get()
    stage.ingest(FLOW, size=5)
    stage.resolver.gate.set()
    await lookup
    assert stage.drain() == [(FLOW, 15, exact(NGINX))]


async def test_packets_of_a_pending_flow_gather_in_the_table_until_its_lookup_ends(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    stage.resolver.answers[FLOW] = exact(NGINX)
    assert stage.count({FLOW: make_delta((10, 1))}).keys() == {FLOW}
    stage.attributor.ingest_part({FLOW: make_delta((10, 1))})
    stage.resolver.gate.clear()
    assert stage.count({FLOW: make_delta((5, 1))}) == {}
    lookup = asyncio.create_task(stage.next_lookup())
    await stage.resolver.calls.get()
    assert stage.count({FLOW: make_delta((3, 1))}) == {}
    assert stage.drain() == []
    stage.resolver.gate.set()
    await lookup
    assert stage.drain() == [(FLOW, 18, exact(NGINX))]
    assert stage.table.gathered_bytes == 0


async def test_what_gathers_for_an_invalidated_flow_during_its_lookup_is_looked_up_by_itself(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    stage.resolver.answers[FLOW] = exact(NGINX)
    stage.ingest(FLOW, size=10)
    stage.resolver.gate.clear()
    lookup = asyncio.create_task(stage.next_lookup())
    await stage.resolver.calls.get()
    stage.stale_flows.add(FLOW)
    assert stage.count({FLOW: make_delta((5, 1))}) == {}
    stage.resolver.gate.set()
    await lookup
    assert stage.drain() == [(FLOW, 10, exact(NGINX))]
    stage.resolver.answers[FLOW] = exact(CURL)
    await stage.next_lookup()
    assert stage.drain() == [(FLOW, 5, exact(CURL))]


async def test_a_syn_ends_the_connection_for_which_packets_gather(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    stage.ingest(FLOW, size=1, opened=True)
    stage.pass_on({FLOW: make_delta((10, 1), (10, 1))})
    stage.ingest(FLOW, size=2, opened=True)
    assert stage.drain() == [(FLOW, 21, UNATTRIBUTED)]
    stage.resolver.answers[FLOW] = exact(CURL)
    await stage.next_lookup()
    assert stage.drain() == [(FLOW, 2, exact(CURL))]


async def test_with_history_packets_of_a_pending_flow_gather_once_it_has_many_pieces(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    stage.resolver.has_history = True
    held = []
    for _ in range(pending_resolution._MAX_PIECES + 2):
        held.append(stage.count({FLOW: make_delta((1, 1))}))
        stage.ingest_held(held[-1])
    assert all(held[:-2])
    assert not held[-1]
    await stage.attributor.resolve_pending()
    await stage.attributor.fold_pending()
    assert sum(size for _, size, _ in stage.drain()) == len(held)


async def test_with_history_packets_gather_while_more_flows_are_new_than_a_lookup_takes(
    executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attributor, "_MAX_BATCH", 2)
    stage = Stage(executor)
    stage.resolver.has_history = True
    few, many = [make_flow(1), make_flow(2)], [make_flow(port) for port in range(1, 6)]
    each = make_delta((1, 1))
    stage.ingest(*few)
    held = stage.count(dict.fromkeys(few, each))
    assert list(held) == few
    stage.ingest_held(held)
    stage.ingest(*many)
    assert not stage.count(dict.fromkeys(many, each))
    await stage.attributor.resolve_pending()
    assert sum(size for _, size, _ in stage.drain()) == 2 * len(few) + 2 * len(many)


async def test_a_contested_flow_is_emitted_span_by_span(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    stage.resolver.has_history = True
    stage.resolver.answers[FLOW] = UNATTRIBUTED
    stage.resolver.by_span[FLOW] = (exact(NGINX), exact(NGINX), UNATTRIBUTED, exact(CURL))
    for number, size in enumerate((1, 10, 100, 1000), 1):
        delta = make_delta((size, 1), at_ns=(number, number))
        stage.pass_on({FLOW: delta})
    await stage.next_lookup()
    emitted = [(FLOW, 11, exact(NGINX)), (FLOW, 100, UNATTRIBUTED), (FLOW, 1000, exact(CURL))]
    assert stage.drain() == emitted
    stage.ingest(FLOW)
    assert stage.drain() == []  # the present owner is looked up


async def test_a_flow_that_no_lookup_reached_is_emitted_with_its_recorded_owner(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    known, unknown = make_flow(1), make_flow(2)
    stage.resolver.recalled[known] = exact(NGINX)
    stage.ingest(known, unknown)
    stage.clock.now += 3.0
    stage.attributor.emit_expired()
    assert stage.drain() == [(known, 1, exact(NGINX)), (unknown, 1, UNATTRIBUTED)]


async def test_a_flow_that_no_lookup_reached_passes_until_one_does_and_has_its_owner_from_then_on(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor, exits=ScriptedExits())
    flow = make_flow(7, protocol=17)
    stage.resolver.answers[flow] = exact(NGINX)
    stage.resolver.open_for[flow] = math.inf
    stage.pass_packets(flow, first=0.0, last=0.0)
    stage.clock.now = 2.0
    stage.attributor.emit_expired()
    for second in (4.0, 6.0):  # each after a pause
        stage.pass_packets(flow, first=second, last=second)
        stage.attributor.emit_expired()
    assert stage.drain() == [(flow, 1, UNATTRIBUTED)] * 3
    await stage.next_lookup()
    stage.pass_packets(flow, first=8.0, last=8.0)
    assert stage.drain() == [(flow, 1, exact(NGINX))]
    assert stage.resolver.asked == [[flow]]
    assert stage.attributor.drain_stats().new_flows == 1


async def test_new_flows_are_looked_up_before_those_that_no_lookup_reached(
    executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attributor, "_MAX_BATCH", 2)
    stage = Stage(executor)
    early, late, later = (make_flow(port) for port in (1, 2, 3))
    stage.ingest(early)
    stage.clock.now = 2.0
    stage.attributor.emit_expired()
    stage.ingest(late, later)
    await stage.look_up()
    await stage.look_up()
    assert stage.resolver.asked == [[late, later], [early]]


async def test_a_flow_that_a_late_lookup_found_without_a_socket_is_looked_up_after_a_pause(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor, exits=ScriptedExits())
    flow = make_flow(7, protocol=17)
    stage.resolver.answers[flow] = UNATTRIBUTED
    stage.pass_packets(flow, first=0.0, last=0.0)
    stage.clock.now = 2.0
    stage.attributor.emit_expired()
    stage.pass_packets(flow, first=2.0, last=2.0)
    await stage.next_lookup()
    stage.resolver.answers[flow] = exact(NGINX)
    stage.pass_packets(flow, first=2.1, last=2.1)
    stage.pass_packets(flow, first=2.9, last=2.9)
    await stage.next_lookup()
    assert stage.drain() == [(flow, 1, UNATTRIBUTED)] * 3 + [(flow, 1, exact(NGINX))]


async def test_a_recalled_owner_may_pause_for_as_long_as_its_release_will_be_reported(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor, exits=ScriptedExits())
    flow = make_flow(7, protocol=17)
    stage.resolver.recalled[flow] = exact(NGINX)
    stage.resolver.open_for[flow] = math.inf
    stage.pass_packets(flow, first=0.0, last=0.0)
    stage.clock.now = 2.0
    stage.attributor.emit_expired()
    stage.pass_packets(flow, first=2.0, last=2.0)
    stage.pass_packets(flow, first=4.0, last=4.0)
    assert stage.drain() == [(flow, 1, exact(NGINX))] * 3
    stage.stale_flows.add(flow)
    stage.pass_packets(flow, first=4.1, last=4.1)
    assert stage.drain() == []


async def test_a_new_connection_on_a_known_five_tuple_is_looked_up(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    stage.resolver.answers[FLOW] = exact(NGINX)
    stage.ingest(FLOW)
    await stage.attributor.resolve_pending()
    stage.drain()
    stage.resolver.answers[FLOW] = exact(CURL)
    stage.ingest(FLOW, size=10, opened=True)
    stage.ingest(FLOW, size=20)
    assert stage.drain() == []
    await stage.next_lookup()
    assert stage.drain() == [(FLOW, 30, exact(CURL))]


async def test_a_lookup_that_began_before_a_new_connection_does_not_name_its_owner(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    stage.resolver.answers[FLOW] = exact(NGINX)
    stage.ingest(FLOW, size=10)
    stage.resolver.gate.clear()
    async with asyncio.timeout(10):
        lookup = asyncio.create_task(stage.next_lookup())
        await stage.resolver.calls.get()
        stage.resolver.answers[FLOW] = exact(CURL)
        stage.ingest(FLOW, size=20, opened=True)
        stage.resolver.gate.set()
        await lookup
    assert stage.drain() == [(FLOW, 10, UNATTRIBUTED)]
    await stage.next_lookup()
    assert stage.drain() == [(FLOW, 20, exact(CURL))]


async def test_bytes_of_the_previous_connection_never_go_to_the_next_owner(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    stage.pass_on({FLOW: make_delta((60, 1), (60, 1), opened=True)})
    stage.pass_on({FLOW: make_delta((300_000, 200), (5_000, 100))})
    stage.ingest(FLOW, size=60, opened=True)
    assert stage.drain() == [(FLOW, 305_120, UNATTRIBUTED)]
    stage.resolver.answers[FLOW] = exact(CURL)
    await stage.next_lookup()
    assert stage.drain() == [(FLOW, 60, exact(CURL))]


async def test_a_retransmitted_syn_is_the_same_connection(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    stage.resolver.answers[FLOW] = exact(CURL)
    stage.ingest(FLOW, size=60, opened=True)
    stage.ingest(FLOW, size=60, opened=True)
    await stage.next_lookup()
    assert stage.drain() == [(FLOW, 120, exact(CURL))]


async def test_a_flow_is_emitted_after_hold_though_the_budget_delays_lookups(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor, hold=0.5, cpu_budget=0.01)
    stage.resolver.cpu_seconds = 0.02
    stage.ingest(make_flow(1))
    await stage.next_lookup()
    stage.clock.now = 0.6
    stage.ingest(make_flow(2))
    stage.attributor.emit_expired()
    assert stage.drain() == [(make_flow(1), 1, UNATTRIBUTED)]
    stage.clock.now = 1.2
    stage.attributor.emit_expired()
    assert stage.drain() == [(make_flow(2), 1, UNATTRIBUTED)]
    # The flow was never looked up, so the next byte causes a lookup, which serves later bytes.
    stage.resolver.answers[make_flow(2)] = exact(NGINX)
    stage.ingest(make_flow(2))
    await stage.next_lookup()
    stage.ingest(make_flow(2))
    assert stage.drain() == [(make_flow(2), 1, UNATTRIBUTED), (make_flow(2), 1, exact(NGINX))]


async def test_an_answer_that_comes_after_hold_serves_later_packets(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor, hold=0.5)
    stage.resolver.answers[FLOW] = exact(NGINX)
    stage.ingest(FLOW)
    stage.resolver.gate.clear()
    async with asyncio.timeout(10):
        lookup = asyncio.create_task(stage.next_lookup())
        await stage.resolver.calls.get()
        stage.clock.now = 1.0
        stage.attributor.emit_expired()
        stage.resolver.gate.set()
        await lookup
    stage.ingest(FLOW)
    assert stage.drain() == [(FLOW, 1, UNATTRIBUTED), (FLOW, 1, exact(NGINX))]


async def test_resolving_pending_flows_does_not_wait_for_a_slow_lookup() -> None:
    with ThreadPoolExecutor(1) as pool:
        stage = Stage(pool)
        stage.ingest(FLOW)
        stage.resolver.gate.clear()
        async with asyncio.timeout(10):
            await stage.attributor.resolve_pending(0.01)
        assert stage.drain() == [(FLOW, 1, UNATTRIBUTED)]
        stage.resolver.gate.set()


async def test_a_flow_without_an_address_is_not_looked_up(executor: ThreadPoolExecutor) -> None:
    stage = Stage(executor)
    nameless = FlowKey(0, b"", 0, b"", 0, "")
    stage.ingest(nameless)
    assert stage.drain() == [(nameless, 1, UNATTRIBUTED)]
    assert stage.attributor.drain_stats().new_flows == 0


async def test_lookups_stay_within_the_cpu_budget(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor, cpu_budget=0.01)
    stage.resolver.cpu_seconds = 0.02
    stage.ingest(make_flow(1))
    assert await stage.next_lookup() == 0.0  # the budget of one second is there at the start
    stage.ingest(make_flow(2))
    cost = stage.attributor.drain_stats().lookup_seconds
    assert cost >= 0.02
    assert await stage.next_lookup() == pytest.approx((cost - 0.01) / 0.01)


async def test_new_flows_are_gathered_for_a_while_after_a_lookup(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    stage.resolver.cpu_seconds = 0.01  # an expensive lookup makes a long interval
    stage.resolver.answers = {make_flow(port): exact(NGINX) for port in range(9)}
    async with asyncio.timeout(10):
        run = asyncio.create_task(stage.attributor.run())
        stage.ingest(make_flow(0))
        assert await stage.resolver.calls.get() == [make_flow(0)]
        await stage.has_emitted.wait()
        for port in (1, 2):
            stage.ingest(make_flow(port))
            await asyncio.sleep(0.01)  # by the stage's clock no time passes
        assert stage.resolver.asked == [[make_flow(0)]]
        stage.clock.now = batching._MAX_FINAL_INTERVAL
        assert await stage.resolver.calls.get() == [make_flow(1), make_flow(2)]
        run.cancel()
        await asyncio.wait([run])


async def gathering_after(executor: ThreadPoolExecutor, *answers: Attribution | None) -> float:
    """Return how long flows are gathered after a lookup with these answers."""
    stage = Stage(executor)
    stage.attributor._pacer.interval.next_interval(1.0, LookupVerdict(10))  # grown a little
    flows = [make_flow(port) for port in range(len(answers))]
    stage.resolver.answers = {
        flow: answer for flow, answer in zip(flows, answers, strict=True) if answer is not None
    }
    stage.ingest(*flows)
    await stage.next_lookup()
    return stage.attributor._pacer.ready_at() - stage.clock.now


async def test_the_interval_grows_while_sockets_are_found(
    executor: ThreadPoolExecutor,
) -> None:
    grown = batching._MAX_SHORTEST * batching._GROWTH
    found = [exact(NGINX), Attribution(Quality.LISTENER, NGINX), ONLY_USER]
    assert await gathering_after(executor, *found) == pytest.approx(grown * batching._GROWTH)
    for gone in (UNATTRIBUTED, Attribution(Quality.INFERRED, NGINX)):
        assert await gathering_after(executor, *found, gone) < grown
    # A flow without an answer is not judged.
    assert await gathering_after(executor, None, None) == pytest.approx(grown)
    assert await gathering_after(executor, *found, None) == pytest.approx(grown * batching._GROWTH)


async def test_only_the_first_answer_of_a_flow_is_judged(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    stage.resolver.answers[FLOW] = ONLY_USER
    stage.ingest(FLOW)
    await stage.next_lookup()
    stage.attributor._pacer.interval.next_interval(1.0, LookupVerdict(10))
    stage.resolver.answers[FLOW] = UNATTRIBUTED  # closed, but the first lookup was in time
    await stage.next_lookup()
    assert stage.attributor._pacer.ready_at() - stage.clock.now >= batching._MAX_SHORTEST


async def test_other_tasks_run_while_very_many_resolutions_are_acted_on(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor, max_pending=5000)
    flows = [make_flow(port) for port in range(1, 1700)]
    stage.resolver.answers = dict.fromkeys(flows, exact(NGINX))
    stage.ingest(*flows)
    seen = []

    async def watch() -> None:
        while len(stage.emitted) < len(flows):
            seen.append(len(stage.emitted))
            await asyncio.sleep(0)

    async with asyncio.timeout(10):
        await asyncio.gather(stage.attributor.resolve_pending(), watch())
    at_work = sorted(set(seen) - {0})
    assert len(at_work) >= 3
    turns = [0, *at_work, len(flows)]
    assert all(later - earlier <= 500 for earlier, later in pairwise(turns))


CONNECTIONLESS = [make_flow(7, protocol=number) for number in (1, 17, 47, 58, 136)]


@pytest.mark.parametrize("flow", CONNECTIONLESS, ids=lambda flow: f"protocol {flow.protocol}")
async def test_a_flow_without_connections_that_paused_waits_for_a_lookup(
    executor: ThreadPoolExecutor, flow: FlowKey
) -> None:
    stage = Stage(executor, exits=ScriptedExits())
    stage.resolver.answers[flow] = exact(NGINX)
    stage.pass_packets(flow, first=1.0, last=1.0)
    await stage.look_up()
    stage.pass_packets(flow, first=1.4, last=1.4)
    assert stage.drain() == [(flow, 1, exact(NGINX))] * 2
    stage.resolver.answers[flow] = exact(CURL)
    stage.pass_packets(flow, first=1.95, last=1.95)
    assert stage.drain() == []
    await stage.look_up()
    assert stage.drain() == [(flow, 1, exact(CURL))]


@pytest.mark.parametrize(
    ("open_for", "pause"), [(0.9, 0.5), (3.0, 1.5), (60.0, 2.5), (math.inf, 2.5)]
)
async def test_a_socket_that_has_been_open_for_long_may_pause_for_half_of_that_time(
    executor: ThreadPoolExecutor, open_for: float, pause: float
) -> None:
    flow = make_flow(7, protocol=17)
    stage = Stage(executor, exits=ScriptedExits())
    stage.resolver.answers[flow] = exact(NGINX)
    stage.resolver.open_for[flow] = open_for
    stage.pass_packets(flow, first=1.0, last=1.0)
    await stage.look_up()
    stage.pass_packets(flow, first=1.2, last=1.2)  # the owner is watched from now on
    again_ns = round((1.2 + pause) * 1e9)
    assert stage.count({flow: make_delta((1, 1), at_ns=(again_ns, again_ns))}) == {}
    late_ns = again_ns + round(pause * 1e9) + 1
    late = stage.count({flow: make_delta((1, 1), at_ns=(late_ns, late_ns))})
    assert late.keys() == {flow}
    stage.ingest_held(late)
    assert stage.drain() == [(flow, 1, exact(NGINX))] * 3
    await stage.look_up()
    assert stage.drain() == [(flow, 1, exact(NGINX))]


async def test_a_port_that_a_living_process_gives_away_within_a_pause_is_noticed_at_the_comparison(
    executor: ThreadPoolExecutor,
) -> None:
    flow = make_flow(7, protocol=17)
    stage = Stage(executor, exits=ScriptedExits())
    stage.resolver.answers[flow] = exact(NGINX)
    stage.resolver.open_for[flow] = 60.0
    stage.pass_packets(flow, first=1.0, last=1.0)
    await stage.look_up()
    stage.resolver.answers[flow] = exact(CURL)  # NGINX lives, and its socket is closed
    stage.resolver.open_for[flow] = 0.0
    stage.pass_packets(flow, first=1.9, last=1.9)
    assert stage.drain() == [(flow, 1, exact(NGINX))] * 2
    stage.pass_packets(flow, first=2.1, last=2.1)  # a second after the lookup
    assert stage.drain() == []
    await stage.look_up()
    assert stage.drain() == [(flow, 1, exact(CURL))]
    stage.pass_packets(flow, first=2.7, last=2.7)  # the new socket may not pause yet
    assert stage.drain() == []
    assert stage.resolver.asked == [[flow]] * 2


async def test_a_new_owner_that_a_recheck_finds_may_not_pause_as_the_former_one(
    executor: ThreadPoolExecutor,
) -> None:
    flow = make_flow(7, protocol=17)
    stage = Stage(executor, exits=ScriptedExits())
    stage.resolver.answers[flow] = exact(NGINX)
    stage.resolver.open_for[flow] = math.inf
    stage.pass_packets(flow, first=1.0, last=1.0)
    await stage.look_up()
    stage.attributor._cache.refresh([(flow, Resolution(exact(CURL)))], 1.1)
    stage.pass_packets(flow, first=1.2, last=1.2)
    stage.drain()
    stage.pass_packets(flow, first=1.8, last=1.8)
    assert stage.drain() == []


async def test_flows_of_one_endpoint_may_pause_for_as_long_as_each_of_their_sockets(
    executor: ThreadPoolExecutor,
) -> None:
    old, new = (make_flow(7, protocol=17, remote_port=port) for port in (1, 2))
    stage = Stage(executor, exits=ScriptedExits())
    stage.resolver.answers = dict.fromkeys((old, new), exact(NGINX))
    stage.resolver.open_for[old] = 60.0
    stage.pass_packets(old, new, first=1.0, last=1.0)
    await stage.look_up()
    stage.drain()
    stage.pass_packets(old, first=1.6, last=1.6)
    assert stage.drain() == []
    await stage.look_up()
    assert stage.drain() == [(old, 1, exact(NGINX))]
    stage.pass_packets(old, first=2.5, last=2.5)  # alone since the pause
    assert stage.drain() == [(old, 1, exact(NGINX))]


async def test_a_tcp_connection_may_pause(executor: ThreadPoolExecutor) -> None:
    stage = Stage(executor, exits=ScriptedExits())
    stage.resolver.answers[FLOW] = exact(NGINX)
    stage.pass_packets(FLOW, first=1.0, last=1.0)
    await stage.look_up()
    stage.pass_packets(FLOW, first=1.9, last=1.9)
    assert stage.drain() == [(FLOW, 1, exact(NGINX))] * 2
    assert stage.resolver.asked == [[FLOW]]


async def test_clients_that_transmit_rarely_cost_no_lookup_while_their_server_is_busy(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor, exits=ScriptedExits())
    clients = [make_flow(53, protocol=17, remote_port=port) for port in range(1, 9)]
    stage.resolver.answers = dict.fromkeys(clients, Attribution(Quality.LISTENER, NGINX))
    stage.pass_packets(*clients, first=0.0, last=0.0)
    await stage.look_up()
    for turn, client in enumerate(clients):
        stage.pass_packets(client, first=0.1 * turn, last=0.1 * turn)
    assert stage.resolver.asked == [clients]
    assert len(stage.drain()) == 2 * len(clients)


async def test_all_flows_of_a_local_port_that_paused_wait_for_a_lookup(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor, exits=ScriptedExits())
    one, other = (make_flow(53, protocol=17, remote_port=port) for port in (1, 2))
    stage.resolver.answers = dict.fromkeys([one, other], exact(NGINX))
    stage.pass_packets(one, other, first=0.0, last=0.0)
    await stage.look_up()
    stage.drain()
    stage.resolver.answers = dict.fromkeys([one, other], exact(CURL))
    for second, flow in ((0.6, one), (0.7, other)):
        stage.pass_packets(flow, first=second, last=second)
        assert stage.drain() == []
        await stage.look_up()
        assert stage.drain() == [(flow, 1, exact(CURL))]


async def test_packets_after_the_exit_of_their_owner_wait_for_a_lookup(
    executor: ThreadPoolExecutor,
) -> None:
    exits, flow = ScriptedExits(), make_flow(7, protocol=17)
    stage = Stage(executor, exits=exits)
    stage.resolver.answers[flow] = exact(NGINX)
    stage.pass_packets(flow, first=0.0, last=0.0)
    await stage.look_up()
    stage.pass_packets(flow, first=0.1, last=0.1)
    stage.drain()
    exits.exit(NGINX.pid, seen_at=0.15)
    stage.resolver.answers[flow] = UNATTRIBUTED
    stage.pass_packets(flow, first=0.2, last=0.2)
    await stage.look_up()
    assert stage.drain() == []  # the flow has no socket: it waits as long as a new one
    await stage.attributor.resolve_pending()
    assert stage.drain() == [(flow, 1, UNATTRIBUTED)]


@pytest.mark.parametrize(("found", "owner"), [(UNATTRIBUTED, NGINX), (exact(CURL), CURL)])
async def test_packets_from_before_an_exit_was_seen_are_the_former_owners_unless_there_is_another(
    executor: ThreadPoolExecutor, found: Attribution, owner: Process
) -> None:
    exits, flow = ScriptedExits(), make_flow(7, protocol=17)
    stage = Stage(executor, exits=exits)
    stage.resolver.answers[flow] = exact(NGINX)
    stage.pass_packets(flow, first=0.0, last=0.0)
    await stage.look_up()
    stage.pass_packets(flow, first=0.1, last=0.1)
    stage.drain()
    exits.exit(NGINX.pid, seen_at=0.21)
    stage.resolver.answers[flow] = found
    stage.pass_packets(flow, first=0.15, last=0.2)
    assert stage.drain() == []
    await stage.look_up()
    assert stage.drain() == [(flow, 1, exact(owner))]
    stage.pass_packets(flow, first=0.25, last=0.25)
    assert stage.drain() == [(flow, 1, found)]


async def test_only_owners_of_flows_without_connections_that_go_on_are_watched(
    executor: ThreadPoolExecutor,
) -> None:
    exits, datagrams = ScriptedExits(), make_flow(7, protocol=17)
    stage = Stage(executor, exits=exits)
    stage.resolver.answers = {FLOW: exact(CURL), datagrams: exact(NGINX)}
    stage.ingest(FLOW, datagrams)
    await stage.look_up()
    stage.ingest(FLOW)
    assert not exits.watched
    stage.ingest(datagrams)
    assert exits.watched.keys() == {NGINX.pid}


async def test_a_young_attribution_is_compared_before_its_bytes_are_emitted(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor, exits=ScriptedExits())
    stage.resolver.answers[FLOW] = exact(NGINX)
    stage.ingest(FLOW)
    await stage.look_up()
    stage.clock.now = 0.9
    stage.ingest(FLOW)
    assert len(stage.drain()) == 2
    stage.resolver.answers[FLOW] = exact(CURL)
    stage.clock.now = 1.0
    stage.ingest(FLOW, size=5)
    stage.ingest(FLOW, size=6)
    assert stage.drain() == []
    await stage.look_up()
    stage.ingest(FLOW, size=7)
    assert stage.drain() == [(FLOW, 11, exact(CURL)), (FLOW, 7, exact(CURL))]
    assert stage.attributor.drain_stats().new_flows == 1


async def test_comparisons_become_rarer_while_the_owner_stays_and_then_delay_no_bytes(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor, exits=ScriptedExits())
    stage.resolver.answers[FLOW] = exact(NGINX)
    looked_up, delayed = [], []
    for tenth in range(300):
        stage.clock.now = tenth / 10
        stage.ingest(FLOW)
        if not stage.drain():
            delayed.append(stage.clock.now)
        if stage.attributor._next_lookup() <= stage.clock.now:
            looked_up.append(stage.clock.now)
            await stage.look_up()
            stage.drain()
    assert delayed == [0.0, 1.0, 3.0, 7.0]
    assert looked_up == [0.0, 1.0, 3.0, 7.0, 12.0, 17.0, 22.0, 27.0]


@pytest.mark.parametrize("answer", [None, UNATTRIBUTED, Attribution(Quality.LISTENER, CURL)])
async def test_a_comparison_with_a_closed_connection_leaves_its_owner(
    executor: ThreadPoolExecutor, answer: Attribution | None
) -> None:
    stage = Stage(executor, exits=ScriptedExits())
    stage.resolver.answers[FLOW] = exact(NGINX)
    stage.ingest(FLOW)
    await stage.look_up()
    stage.resolver.answers = {} if answer is None else {FLOW: answer}
    stage.clock.now = 1.0
    stage.ingest(FLOW)
    await stage.look_up()
    stage.ingest(FLOW)
    assert stage.drain() == [(FLOW, 1, exact(NGINX))] * 3


async def test_a_comparison_that_no_lookup_reached_leaves_the_owner(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor, exits=ScriptedExits())
    stage.resolver.answers[FLOW] = exact(NGINX)
    stage.ingest(FLOW)
    await stage.look_up()
    stage.clock.now = 1.0
    stage.ingest(FLOW)
    stage.clock.now = 3.0
    stage.attributor.emit_expired()
    stage.ingest(FLOW)
    assert stage.drain() == [(FLOW, 1, exact(NGINX))] * 3


@pytest.mark.parametrize("opened", [False, True])
async def test_bytes_that_come_in_between_two_resolutions_are_emitted_once(
    executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, opened: bool
) -> None:
    monkeypatch.setattr(attributor, "_SLICE", 1)
    stage = Stage(executor)
    flows = [make_flow(port) for port in range(1, 5)]
    stage.resolver.answers = dict.fromkeys(flows, exact(NGINX))
    stage.ingest(*flows, size=10)
    ingested = 0

    async def add() -> None:
        nonlocal ingested
        while len(stage.emitted) < len(flows):
            if stage.emitted:
                stage.ingest(*flows, size=1, opened=opened)
                ingested += 1
            await asyncio.sleep(0)

    async with asyncio.timeout(10):
        await asyncio.gather(stage.attributor.resolve_pending(), add())
        await stage.attributor.resolve_pending()
    emitted = Counter[FlowKey]()
    for flow, size, _ in stage.drain():
        emitted[flow] += size
    assert ingested
    assert emitted == dict.fromkeys(flows, 10 + ingested)


async def test_an_answer_invalidated_between_two_resolutions_is_not_used_for_later_packets(
    executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attributor, "_SLICE", 1)
    stage = Stage(executor)
    flows = [make_flow(port) for port in range(1, 5)]
    stage.resolver.answers = dict.fromkeys(flows, exact(NGINX))
    stage.ingest(*flows)

    async def pass_on(flow: FlowKey) -> None:
        await stage.has_emitted.wait()
        stage.resolver.answers[flow] = exact(CURL)
        stage.stale_flows.add(flow)
        stage.ingest(make_flow(9))
        for _ in range(len(flows)):
            await asyncio.sleep(0)
            if flow in [one for one, _delta, _answer in stage.emitted]:
                stage.ingest(flow, size=5)
                return

    async with asyncio.timeout(10):
        await asyncio.gather(stage.attributor.resolve_pending(), pass_on(flows[2]))
        await stage.attributor.resolve_pending()
    emitted = [one for one in stage.drain() if one[0] == flows[2]]
    assert emitted == [(flows[2], 1, exact(NGINX)), (flows[2], 5, exact(CURL))]


async def test_cancelling_between_two_resolutions_loses_nothing(
    executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attributor, "_SLICE", 1)
    stage = Stage(executor)
    flows = [make_flow(port) for port in range(1, 5)]
    stage.resolver.answers = dict.fromkeys(flows, exact(NGINX))
    async with asyncio.timeout(10):
        run = asyncio.create_task(stage.attributor.run())
        stage.ingest(*flows)
        await stage.has_emitted.wait()
        run.cancel()
        await asyncio.wait([run])
        before = len(stage.emitted)
        assert 0 < before < len(flows)
        await stage.attributor.resolve_pending()
    assert stage.drain() == [(flow, 1, exact(NGINX)) for flow in flows]


@pytest.mark.parametrize("steps", range(12))
async def test_cancelling_lookups_at_any_point_loses_nothing(
    executor: ThreadPoolExecutor, steps: int
) -> None:
    stage = Stage(executor)
    stage.resolver.answers[make_flow(1)] = exact(NGINX)
    async with asyncio.timeout(10):
        run = asyncio.create_task(stage.attributor.run())
        stage.ingest(make_flow(1), make_flow(2), size=10)
        for _ in range(steps):
            await asyncio.sleep(0)
        run.cancel()
        await asyncio.wait([run])
        stage.ingest(make_flow(1), make_flow(2), size=1)
        await stage.attributor.resolve_pending()
    emitted = Counter[FlowKey]()
    for flow, size, _ in stage.drain():
        emitted[flow] += size
    assert emitted == {make_flow(1): 11, make_flow(2): 11}
    assert run.cancelled()


async def test_a_cancelled_lookup_ends_before_the_next_begins() -> None:
    with ThreadPoolExecutor(2) as pool:
        stage = Stage(pool)
        stage.resolver.answers[FLOW] = exact(NGINX)
        stage.ingest(FLOW)
        stage.resolver.gate.clear()
        async with asyncio.timeout(10):
            run = asyncio.create_task(stage.attributor.run())
            await stage.resolver.calls.get()
            run.cancel()
            await asyncio.wait([run])
            settling = asyncio.create_task(stage.attributor.resolve_pending())
            await asyncio.sleep(0)
            assert len(stage.resolver.asked) == 1
            stage.resolver.gate.set()
            await settling
    assert stage.drain() == [(FLOW, 1, exact(NGINX))]
    assert stage.resolver.asked == [[FLOW]] * 2


@pytest.mark.parametrize(
    "error",
    [
        OSError(5, "Input/output error", "/proc/net/tcp"),
        ValueError("odd row in /proc/net/tcp"),
        MemoryError("/proc/net/tcp"),
    ],
)
async def test_a_failing_resolver_is_logged_once_and_its_flows_are_pending_until_hold(
    executor: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    stage = Stage(executor, hold=0.1)
    stage.resolver.error = error
    stage.ingest(FLOW)
    times = []
    while not stage.emitted:
        times.append(await stage.next_lookup())
    assert times == pytest.approx([0.0, 0.05, 0.1])
    assert stage.drain() == [(FLOW, 1, UNATTRIBUTED)]
    assert len(caplog.records) == 1
    assert "/proc/net/tcp" in caplog.text
    counts = stage.attributor.drain_stats()
    assert (counts.batches, counts.failed_batches) == (3, 3)


async def test_a_lookup_whose_thread_is_ended_has_failed_and_is_retried() -> None:
    executor = SerialExecutor("lookup")
    stage = Stage(executor)
    stage.resolver.error = SystemExit()
    stage.resolver.answers[FLOW] = exact(NGINX)
    stage.ingest(FLOW)
    await stage.next_lookup()
    stage.resolver.error = None
    await stage.next_lookup()
    executor.shutdown()
    assert stage.drain() == [(FLOW, 1, exact(NGINX))]
    counts = stage.attributor.drain_stats()
    assert (counts.batches, counts.failed_batches) == (2, 1)


async def test_bytes_beyond_the_bound_of_pending_flows_are_unattributed_and_counted(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor, max_pending=2)
    stage.ingest(make_flow(1), make_flow(2), make_flow(3), size=7)
    assert stage.drain() == [(fold_key(make_flow(3)), 7, UNATTRIBUTED)]
    counts = stage.attributor.drain_stats()
    assert counts.overflowed == Tally(packets=1, bytes=7)
    assert counts.pending_flows == 2


async def test_latency_is_the_time_from_the_first_bytes_of_a_flow_to_its_first_answer(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    stage.ingest(FLOW)
    stage.clock.now = 0.2
    stage.ingest(FLOW)
    await stage.next_lookup()
    assert stage.attributor.drain_stats().latency is None  # there was no answer
    stage.resolver.answers[FLOW] = ONLY_USER
    stage.clock.now = 0.25
    await stage.next_lookup()
    assert stage.attributor.drain_stats().latency == Latency(0.25, 0.25)
    stage.clock.now = 0.5
    await stage.next_lookup()
    assert stage.attributor.drain_stats().latency is None  # a second answer is not the first


async def test_statistics_cover_the_work_since_they_were_last_drained(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    for port in range(5):
        stage.ingest(make_flow(port))
        await stage.attributor.resolve_pending()
    counts = stage.attributor.drain_stats()
    assert (counts.new_flows, counts.batches, counts.resolver.table_reads) == (5, 5, 5)
    assert counts.evicted_flows == 0
    stage.table.evict(100.0, idle=60, idle_unowned=15)
    stage.ingest(make_flow(9), size=30)
    counts = stage.attributor.drain_stats()
    assert (counts.new_flows, counts.batches, counts.resolver.table_reads) == (1, 0, 0)
    assert (counts.pending_flows, counts.pending_bytes, counts.evicted_flows) == (1, 30, 5)


async def test_flows_that_are_folded_keep_the_owners_that_are_known(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    stage.resolver.answers[FLOW] = exact(NGINX)
    stage.ingest(FLOW)
    await stage.next_lookup()
    stage.drain()
    other = make_flow(2)
    stage.attributor.start_batch()
    stage.attributor.fold({FLOW: make_delta((5, 1)), other: make_delta((7, 1))})
    assert stage.drain() == [(FLOW, 5, exact(NGINX)), (fold_key(other), 7, UNATTRIBUTED)]
    assert stage.attributor.drain_stats().overflowed == Tally(1, 7)


async def test_a_connection_that_is_folded_leaves_nothing_to_the_owner_of_the_one_before(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    stage.resolver.answers[FLOW] = exact(NGINX)
    stage.ingest(FLOW)
    await stage.next_lookup()
    stage.drain()
    stage.attributor.fold({FLOW: make_delta((5, 1), opened=True)})
    stage.attributor.fold({FLOW: make_delta((7, 1))})
    assert Counter(stage.drain()) == Counter(
        [(fold_key(FLOW), 5, UNATTRIBUTED), (fold_key(FLOW), 7, UNATTRIBUTED)]
    )


async def test_a_connection_that_is_folded_leaves_a_pending_one_without_its_owner(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    stage.ingest(FLOW, size=3)
    stage.attributor.fold({FLOW: make_delta((5, 1), opened=True)})
    stage.resolver.answers[FLOW] = exact(CURL)
    await stage.attributor.resolve_pending()
    assert Counter(stage.drain()) == Counter(
        [(FLOW, 3, UNATTRIBUTED), (fold_key(FLOW), 5, UNATTRIBUTED)]
    )


async def test_datagrams_that_are_folded_after_a_pause_have_no_owner(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor, exits=ScriptedExits())
    datagrams = make_flow(53, protocol=17)
    stage.resolver.answers[datagrams] = exact(NGINX)
    stage.pass_packets(datagrams, first=1.0, last=1.0)
    await stage.next_lookup()
    stage.drain()
    late = {datagrams: make_delta((7, 1), at_ns=(9_000_000_000, 9_000_000_000))}
    stage.attributor.fold(late)
    assert stage.drain() == [(fold_key(datagrams), 7, UNATTRIBUTED)]


async def test_what_the_capture_has_folded_does_not_overflow_twice(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    folded = fold_key(FLOW)
    stage.attributor.start_batch()
    stage.attributor.fold({folded: make_delta((7, 1))})
    assert stage.drain() == [(folded, 7, UNATTRIBUTED)]
    assert stage.attributor.drain_stats().overflowed == Tally()


async def test_a_stop_that_no_lookup_answers_emits_every_byte(
    executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    flows = [make_flow(port) for port in range(1, 8)]
    for seconds, folded in ((10.0, 0), (0.0, 7)):
        monkeypatch.setattr(attributor, "_RECALL_SECONDS", seconds)
        stage = Stage(executor)
        stage.resolver.recalled = {flow: exact(CURL) for flow in flows[:3]}
        stage.resolver.gate.clear()
        stage.ingest(*flows, size=3)
        await stage.attributor.resolve_pending(0.01)
        stage.resolver.gate.set()
        emitted = stage.drain()
        counts = stage.attributor.drain_stats()
        assert (sum(size for _flow, size, _owner in emitted), counts.pending_flows) == (21, 0)
        assert counts.overflowed.packets == folded
        owned = [flow for flow, _size, owner in emitted if owner == exact(CURL)]
        assert owned == ([] if folded else flows[:3])


async def test_flows_whose_hold_time_is_over_make_room_for_others(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor, hold=2.0, max_pending=2)
    stage.resolver.gate.clear()
    async with asyncio.timeout(10):
        run = asyncio.create_task(stage.attributor.run())
        stage.ingest(make_flow(1), make_flow(2))
        await stage.resolver.calls.get()
        stage.clock.now = 2.5
        stage.ingest(make_flow(3))
        await stage.wait_for_emitted(3)
        stage.ingest(make_flow(4))
        run.cancel()
        stage.resolver.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert [flow for flow, _size, _owner in stage.drain()] == [
        fold_key(make_flow(3)), make_flow(1), make_flow(2),
    ]  # fmt: skip
    assert stage.attributor.drain_stats().pending_flows == 1


async def test_the_end_of_a_window_emits_some_expired_flows_and_a_run_the_others(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor, hold=1.0)
    stage.ingest(*(make_flow(port) for port in range(1, 601)))
    stage.clock.now = 1.0
    stage.attributor.emit_expired(max_seconds=0.0)
    assert len(stage.drain()) == 0
    stage.resolver.gate.clear()
    async with asyncio.timeout(10):
        run = asyncio.create_task(stage.attributor.run())
        await stage.wait_for_emitted(600)
        run.cancel()
        stage.resolver.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert len(stage.drain()) == 600


async def test_packets_behind_a_syn_that_is_on_its_way_are_those_of_the_new_connection(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    stage.resolver.answers[FLOW] = exact(NGINX)
    stage.ingest(FLOW, size=10)
    syn = stage.count({FLOW: make_delta((60, 1), opened=True)})
    await stage.next_lookup()
    assert stage.drain() == [(FLOW, 10, exact(NGINX))]
    behind = stage.count({FLOW: make_delta((500, 1))})
    assert stage.drain() == []
    stage.resolver.answers[FLOW] = exact(CURL)
    for held in (syn, behind):
        stage.ingest_held(held)
    await stage.next_lookup()
    assert stage.drain() == [(FLOW, 560, exact(CURL))]


async def test_no_packet_is_counted_for_the_owner_before_a_syn_while_that_is_judged(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    stage.resolver.answers[FLOW] = UNATTRIBUTED
    stage.ingest(FLOW, size=10)
    await stage.next_lookup()
    opened = list[bool]()

    def take_lock() -> bool:
        is_free = stage.table.lock.acquire(blocking=False)
        if is_free:
            stage.table.lock.release()
        return is_free

    def count_meanwhile() -> None:  # first while the lane is open for the owner before
        opened.append(executor.submit(take_lock).result())

    held = stage.count({FLOW: make_delta((60, 1), opened=True)})
    stage.table.on_add = count_meanwhile
    stage.ingest_held(held)
    assert opened[0] is False
    stage.count({FLOW: make_delta((500, 1))})
    assert stage.drain() == [(FLOW, 10, UNATTRIBUTED)]


async def test_in_a_replay_a_process_that_is_younger_than_its_packets_is_not_their_owner(
    executor: ThreadPoolExecutor,
) -> None:
    created = NGINX.created_ns or 0
    stage = Stage(executor, is_replay=True)
    stage.resolver.answers[FLOW] = exact(NGINX)
    for second in (-3, -2, -1, 0, 1):
        stage.clock.now = created / 1e9 + second
        stage.ingest(FLOW)
        await stage.attributor.resolve_pending()
    assert stage.drain() == [(FLOW, 1, UNATTRIBUTED)] * 3 + [(FLOW, 1, exact(NGINX))] * 2
    assert stage.resolver.asked == [[FLOW]]


async def test_many_clients_of_one_socket_are_rechecked_by_one_question(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    clients = [make_flow(53, protocol=17, remote_port=port) for port in range(1, 9)]
    own = clients[0]
    stage.resolver.answers = dict.fromkeys(clients, BY_LISTENER)
    stage.ingest(*clients)
    await stage.next_lookup()
    stage.resolver.asked.clear()
    for first_answer in (exact(NGINX), BY_OTHER_LISTENER):
        stage.clock.now += 10.0
        stage.resolver.answers = dict.fromkeys(clients, first_answer)
        stage.ingest(*clients)
        await stage.next_lookup()
    stage.drain()
    stage.ingest(*clients)
    owners = {flow: owner for flow, _size, owner in stage.drain()}
    assert owners == dict.fromkeys(clients, BY_OTHER_LISTENER)
    assert stage.resolver.asked == [[own], [clients[1], own]]


async def test_a_flow_that_was_rechecked_in_vain_is_rechecked_again_after_the_interval(
    executor: ThreadPoolExecutor,
) -> None:
    stage = Stage(executor)
    stage.resolver.answers[FLOW] = exact(NGINX)
    stage.ingest(FLOW)
    await stage.next_lookup()
    stage.resolver.error = OSError("no")
    for second in (10, 11, 20):
        stage.clock.now = second
        stage.ingest(FLOW)
        await stage.look_up()
    assert stage.drain() == [(FLOW, 1, exact(NGINX))] * 4
    assert stage.resolver.asked == [[FLOW]] * 3


async def test_flows_that_may_not_be_compared_by_the_budget_are_rechecked_in_turn(
    executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rechecks, "_SHARE", 0.001)
    stage = Stage(executor, exits=ScriptedExits())
    flows = [make_flow(port) for port in range(1, 301)]
    stage.resolver.answers = dict.fromkeys(flows, exact(NGINX))
    stage.ingest(*flows)
    await stage.next_lookup()
    stage.drain()
    stage.resolver.answers = dict.fromkeys(flows, exact(CURL))
    stage.clock.now += 1.0
    stage.ingest(*flows)
    compared = len(flows) - len(stage.drain())
    assert 0 < compared < len(flows)
    await stage.look_up()
    while stage.attributor._known.queued_flows:
        stage.clock.now += 5.0
        await stage.look_up()
    stage.drain()
    stage.ingest(*flows)
    assert {owner for _flow, _size, owner in stage.drain()} == {exact(CURL)}


async def test_packets_that_were_judged_one_by_one_end_a_pause_like_others(
    executor: ThreadPoolExecutor,
) -> None:
    stage, flow = Stage(executor, exits=ScriptedExits()), make_flow(7, protocol=17)
    stage.resolver.answers[flow] = exact(NGINX)
    stage.pass_packets(flow, first=0.0, last=0.0)
    await stage.look_up()
    for seconds in (0.4, 0.8, 0.9):  # the first time, its owner is not watched yet
        stage.pass_packets(flow, first=seconds, last=seconds)
    assert stage.drain() == [(flow, 1, exact(NGINX))] * 4


async def test_flows_that_are_evicted_while_they_wait_for_a_recheck_take_no_memory(
    executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rechecks, "_SHARE", 0.0)  # lookups have no time for rechecks
    monkeypatch.setattr(known_flows, "_MIN_DROPPED", 10)
    stage = Stage(executor, exits=ScriptedExits())
    for generation in range(5):
        flows = [make_flow(port, remote_port=generation) for port in range(1, 101)]
        stage.resolver.answers |= dict.fromkeys(flows, exact(NGINX))
        stage.ingest(*flows)
        await stage.next_lookup()
        stage.clock.now += 5.0
        stage.ingest(*flows)
        assert stage.attributor._known.queued_flows <= 200
        stage.drain()
        stage.table.evict(stage.clock.now + 60.0, idle=1.0, idle_unowned=1.0)

"""What the flow cache keeps, evicts and invalidates, and which flows are rechecked."""

import math

from hypothesis import given
from hypothesis import strategies as st
from support.traffic import NGINX, exact, make_flow

from hogpipe.attribution.stage.flow_cache import CachedFlow, FlowCache, RecheckQueue
from hogpipe.model import TRANSLATED, UNATTRIBUTED, Attribution, Quality

CACHED = CachedFlow(exact(NGINX), 0.0)


def test_a_flow_is_cached_until_it_has_been_idle_for_long() -> None:
    cache = FlowCache(10, idle=60.0, now=0.0)
    cache.put(make_flow(1), CACHED)
    cache.put(make_flow(2), CACHED)
    cache.evict_idle(60.0)
    assert cache.get(make_flow(1)) is CACHED
    cache.evict_idle(119.0)
    assert cache.evicted == 0
    cache.evict_idle(120.0)
    assert cache.get(make_flow(1)) is CACHED
    assert cache.get(make_flow(2)) is None
    assert cache.evicted == 1


def test_a_crowd_of_idle_flows_is_evicted_sooner_to_the_last_one() -> None:
    cache = FlowCache(1 << 14, idle=60.0, now=0.0)
    for port in range(3000):
        cache.put(make_flow(port), CACHED)
    cache.evict_idle(15.0)
    cache.put(make_flow(5000), CACHED)  # in a generation that is not crowded itself
    for now in (30.0, 45.0, 60.0):
        cache.evict_idle(now)
    assert len(cache) == 0
    cache.put(make_flow(1), CACHED)
    cache.evict_idle(119.0)
    assert len(cache) == 1


def test_a_discarded_flow_is_not_counted_as_evicted() -> None:
    cache = FlowCache(10, idle=60.0, now=0.0)
    cache.put(make_flow(1), CACHED)
    cache.evict_idle(60.0)
    cache.put(make_flow(2), CACHED)
    cache.discard(make_flow(1))
    cache.discard(make_flow(2))
    assert (len(cache), cache.evicted) == (0, 0)


def test_evictions_are_drained_once() -> None:
    cache = FlowCache(2, idle=60.0, now=0.0)
    for port in (1, 2, 3):
        cache.put(make_flow(port), CACHED)
    assert [cache.drain_evicted(), cache.drain_evicted()] == [1, 0]


def test_an_invalidated_flow_is_not_cached_until_the_next_epoch() -> None:
    cache = FlowCache(10, idle=60.0, now=0.0)
    one, other = make_flow(1), make_flow(2)
    cache.put(one, CACHED)
    cache.invalidate([one])
    cache.put(one, CACHED)
    cache.put(other, CACHED)
    assert [cache.get(flow) for flow in (one, other)] == [None, CACHED]
    assert [cache.is_invalidated(flow) for flow in (one, other)] == [True, False]
    cache.start_epoch()
    cache.put(one, CACHED)
    assert cache.get(one) is CACHED
    assert cache.evicted == 0


def test_a_translated_connection_stays_translated_when_conntrack_has_dropped_it() -> None:
    cache = FlowCache(10, idle=60.0, now=0.0)
    flow = make_flow(1)
    cache.put(flow, CachedFlow(Attribution(Quality.LISTENER, NGINX), 0.0))
    for found in (TRANSLATED, UNATTRIBUTED, Attribution(Quality.LISTENER, NGINX)):
        cache.refresh(flow, found)
        cached = cache.get(flow)
        assert cached is not None
        assert cached.attribution is TRANSLATED


def test_all_flows_may_be_invalidated() -> None:
    cache = FlowCache(10, idle=60.0, now=0.0)
    cache.put(make_flow(1), CACHED)
    cache.invalidate_all()
    cache.put(make_flow(2), CACHED)
    assert len(cache) == 0
    cache.start_epoch()
    cache.put(make_flow(2), CACHED)
    assert len(cache) == 1


def test_rechecks_alone_are_due_once_in_an_interval_after_the_last_lookup() -> None:
    rechecks = RecheckQueue(5.0)
    assert rechecks.next_due() == math.inf
    assert rechecks.take(10, now=4.0) == []
    for port in (1, 2, 1):
        rechecks.add(make_flow(port))
    assert rechecks.next_due() == 9.0
    assert rechecks.take(1, now=9.0) == [make_flow(1)]
    assert rechecks.next_due() == 9.0  # the rest is due at once
    assert rechecks.take(1, now=9.5) == [make_flow(2)]
    assert (len(rechecks), rechecks.next_due()) == (0, math.inf)


@given(
    st.integers(2, 9),
    st.lists(st.tuples(st.sampled_from(["get", "put", "discard"]), st.integers(1, 12))),
)
def test_the_cache_is_bounded_and_keeps_the_half_that_was_used_last(
    max_flows: int, uses: list[tuple[str, int]]
) -> None:
    cache = FlowCache(max_flows, idle=60.0, now=0.0)
    recent: list[int] = []
    discarded: set[int] = set()
    puts = discards = 0
    for use, port in uses:
        flow = make_flow(port)
        kept = len(cache)
        if use == "put":
            puts += cache.get(flow) is None
            cache.put(flow, CACHED)
            discarded.discard(port)
        elif use == "discard":
            cache.discard(flow)
            discards += kept - len(cache)
            discarded.add(port)
        if cache.get(flow) is not None:
            recent = [other for other in recent if other != port] + [port]
        assert len(cache) <= max_flows
    assert puts - discards - cache.evicted == len(cache)
    latest = [port for port in recent[-(max_flows // 2) :] if port not in discarded]
    assert all(cache.get(make_flow(port)) is not None for port in reversed(latest))


def test_flows_without_an_owner_take_only_a_part_of_the_cache() -> None:
    cache = FlowCache(1 << 15, idle=60.0, now=0.0)
    owned = [make_flow(port) for port in range(1, 1001)]
    flood = [make_flow(port) for port in range(10_000, 20_000)]
    for flow in owned:
        cache.put(flow, CACHED)
    for flow in flood:
        cache.put(flow, CachedFlow(UNATTRIBUTED, 0.0))
    kept = sum(cache.get(flow) is not None for flow in flood)
    assert (kept, len(cache)) == (2048, 3048)
    assert all(cache.get(flow) for flow in owned)
    assert cache.drain_evicted() == 10_000 - 2048


def test_a_flow_without_an_owner_that_is_cached_again_counts_once() -> None:
    cache = FlowCache(16, idle=60.0, now=0.0)
    for _ in range(5000):
        cache.discard(make_flow(1))
        cache.put(make_flow(1), CachedFlow(UNATTRIBUTED, 0.0))
    assert cache.get(make_flow(1)) is not None


def test_a_flood_without_owners_is_evicted_half_a_minute_after_its_end() -> None:
    cache = FlowCache(1 << 15, idle=60.0, now=0.0)
    for port in range(1, 5000):
        cache.put(make_flow(port), CachedFlow(UNATTRIBUTED, 0.0))
    for now in (1.0, 15.5, 31.0):
        cache.evict_idle(now)
    assert len(cache) == 0

"""What the flow cache keeps and invalidates, and which lanes are open for it."""

import math
from collections.abc import Iterable

import pytest
from support.flow_rows import list_sums, rows_of
from support.traffic import NGINX, exact, make_delta, make_flow

from hogpipe.attribution.resolver import Resolution
from hogpipe.attribution.stage.flow_cache import CachedFlow, FlowCache, cannot_change
from hogpipe.flows.flow_table import FlowTable
from hogpipe.model import TRANSLATED, UNATTRIBUTED, Attribution, FlowKey, Quality, owner_at

ONE, OTHER = make_flow(1), make_flow(2)
LISTENER = Attribution(Quality.LISTENER, NGINX)
CREATED = (NGINX.created_ns or 0) / 1e9


def make_cached() -> CachedFlow:
    return CachedFlow(exact(NGINX), math.inf)


def make_cache(max_flows: int = 10, *flows: FlowKey) -> tuple[FlowCache, FlowTable]:
    """Return a cache, and its table with `flows` in it."""
    table = FlowTable(max_flows, max_flows)
    cache = FlowCache(table)
    use(table, *flows)
    return cache, table


def use(table: FlowTable, *flows: FlowKey, now: float = 0.0) -> set[FlowKey]:
    """Return the flows of which the table does not count a packet."""
    held = table.count(rows_of(table, dict.fromkeys(flows, make_delta((1, 1))), now), now)
    table.receive(held, now)
    return set(held)


def owners_of(table: FlowTable) -> list[Attribution]:
    return [owner for _flow, _traffic, owner in list_sums(table.drain())]


def cached(cache: FlowCache, flows: Iterable[FlowKey]) -> list[FlowKey]:
    return [flow for flow in flows if cache.get(flow) is not None]


def test_a_flow_is_cached_and_has_a_lane_until_its_slot_is_evicted() -> None:
    cache, table = make_cache(10, ONE, OTHER)
    for flow in (ONE, OTHER):
        cache.put([(flow, make_cached(), 0)], 0.0)
    assert not use(table, ONE, now=50.0)
    table.drain()
    table.evict(61.0, idle=60, idle_unowned=15)
    assert cached(cache, [ONE, OTHER]) == [ONE]
    assert [cache.drain_evicted(), cache.drain_evicted()] == [1, 0]


def test_a_flow_without_a_slot_is_not_cached_and_counts_as_evicted() -> None:
    cache, _table = make_cache(1, ONE)
    for flow in (ONE, OTHER):
        cache.put([(flow, make_cached(), 0)], 0.0)
    assert cached(cache, [ONE, OTHER]) == [ONE]
    assert cache.drain_evicted() == 1


def test_a_discarded_flow_has_no_lane_and_is_not_counted_as_evicted() -> None:
    cache, table = make_cache(10, ONE)
    cache.put([(ONE, make_cached(), 0)], 0.0)
    cache.discard([ONE])
    table.evict(100.0, idle=60, idle_unowned=15)
    assert (len(cache), cache.drain_evicted()) == (0, 0)
    cache, table = make_cache(10, ONE)
    cache.put([(ONE, make_cached(), 0)], 0.0)
    cache.discard([ONE])
    assert use(table, ONE) == {ONE}


def test_an_invalidated_flow_is_not_cached_until_the_next_epoch() -> None:
    cache, table = make_cache(10, ONE, OTHER)
    cache.put([(ONE, make_cached(), 0)], 0.0)
    cache.invalidate([ONE])
    assert use(table, ONE) == {ONE}
    for flow in (ONE, OTHER):
        cache.put([(flow, make_cached(), 0)], 0.0)
    assert cached(cache, [ONE, OTHER]) == [OTHER]
    assert use(table, ONE, OTHER) == {ONE}
    assert [cache.is_invalidated(flow) for flow in (ONE, OTHER)] == [True, False]
    cache.start_epoch()
    cache.put([(ONE, make_cached(), 0)], 0.0)
    assert not use(table, ONE)
    assert cache.drain_evicted() == 0


def test_all_flows_may_be_invalidated() -> None:
    cache, table = make_cache(10, ONE, OTHER)
    cache.put([(ONE, make_cached(), 0)], 0.0)
    cache.invalidate_all()
    cache.put([(OTHER, make_cached(), 0)], 0.0)
    assert len(cache) == 0
    assert use(table, ONE, OTHER) == {ONE, OTHER}
    cache.start_epoch()
    cache.put([(OTHER, make_cached(), 0)], 0.0)
    assert not use(table, OTHER)


def test_a_translated_connection_stays_translated_when_conntrack_has_dropped_it() -> None:
    cache, table = make_cache(10, ONE)
    cache.put([(ONE, CachedFlow(LISTENER, math.inf), 0)], 0.0)
    for found in (TRANSLATED, UNATTRIBUTED, LISTENER):
        cache.refresh([(ONE, Resolution(found))], 0.0)
        use(table, ONE)
        assert owners_of(table) == [TRANSLATED]


def test_what_a_flow_moved_before_its_owner_was_found_to_be_another_stays_with_the_former() -> None:
    cache, table = make_cache(10, ONE)
    cache.put([(ONE, CachedFlow(LISTENER, math.inf), 0)], 0.0)
    use(table, ONE)
    cache.refresh([(ONE, Resolution(exact(NGINX)))], 0.0)
    use(table, ONE)
    assert sorted(owner.quality for owner in owners_of(table)) == ["exact", "listener"]


UDP = make_flow(1, protocol=17)
INFERRED = Attribution(Quality.INFERRED, NGINX)


@pytest.mark.parametrize(
    ("flow", "attribution", "expected"),
    [
        (ONE, TRANSLATED, True),
        (UDP, TRANSLATED, True),
        (ONE, INFERRED, True),
        (UDP, INFERRED, False),
        (ONE, exact(NGINX), False),
        (ONE, UNATTRIBUTED, False),
    ],
)
def test_what_cannot_change_is_never_due(
    flow: FlowKey, attribution: Attribution, *, expected: bool
) -> None:
    assert cannot_change(flow, attribution) is expected
    cache, table = make_cache(10, flow)
    cache.put([(flow, CachedFlow(attribution, 5.0), 0)], 0.0)
    assert (not use(table, flow, now=6.0)) is expected


def test_in_a_replay_a_flow_is_that_of_a_process_from_its_creation_on() -> None:
    table = FlowTable(10, 10)
    cache = FlowCache(table, follows_pauses=False, is_replay=True)
    use(table, ONE, now=CREATED - 9)
    one = CachedFlow(exact(NGINX), math.inf)
    cache.put([(ONE, one, 0)], CREATED - 9)
    assert not use(table, ONE, now=CREATED - 1)
    assert use(table, ONE, now=CREATED) == {ONE}
    assert owners_of(table) == [UNATTRIBUTED]
    cache.go_on([(ONE, one)], CREATED)
    assert not use(table, ONE, now=CREATED)
    assert owners_of(table) == [exact(NGINX)]


def test_a_process_whose_creation_is_unknown_is_the_owner_of_all_its_packets() -> None:
    assert owner_at(UNATTRIBUTED, 0.0) == (UNATTRIBUTED, math.inf)
    assert owner_at(exact(NGINX), CREATED) == (exact(NGINX), math.inf)
    assert owner_at(exact(NGINX), CREATED - 1) == (UNATTRIBUTED, CREATED)

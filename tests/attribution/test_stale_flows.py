"""Stale flows between a producer and one consumer."""

import threading

from support.traffic import make_flow

from hogpipe.attribution.stale_flows import EVERY_FLOW, StaleFlows


def test_each_flow_is_drained_once() -> None:
    stale = StaleFlows()
    stale.add_all([make_flow(1), make_flow(2)])
    stale.add(make_flow(1))
    assert stale.drain() == [make_flow(1), make_flow(2)]
    assert stale.drain() == []


def test_a_drain_includes_what_the_producer_ingests_at_its_beginning() -> None:
    stale = StaleFlows()
    stale.ingest_before_drain(lambda: stale.add(make_flow(1)))
    assert stale.drain() == [make_flow(1)]


def test_a_drain_without_ingestion_returns_what_was_ingested_before() -> None:
    stale = StaleFlows()
    stale.ingest_before_drain(lambda: stale.add(make_flow(1)))
    stale.add(make_flow(2))
    assert stale.drain(ingest=False) == [make_flow(2)]


def test_beyond_the_bound_every_flow_is_stale_until_the_next_drain() -> None:
    stale = StaleFlows(max_flows=2)
    stale.add_all(make_flow(port) for port in range(3))
    stale.add(make_flow(9))
    assert stale.drain() is EVERY_FLOW
    stale.add(make_flow(9))
    assert stale.drain() == [make_flow(9)]


def test_nothing_is_lost_between_two_threads() -> None:
    stale = StaleFlows()
    flows = [make_flow(port) for port in range(5000)]
    adding = threading.Thread(target=lambda: [stale.add(flow) for flow in flows])
    drained = []
    adding.start()
    while adding.is_alive():
        found = stale.drain()
        assert found is not EVERY_FLOW
        drained += found
    found = stale.drain()
    assert found is not EVERY_FLOW
    assert [*drained, *found] == flows

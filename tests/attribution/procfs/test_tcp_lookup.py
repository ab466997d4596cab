"""TCP sockets by tuple or by dump: what costs less, and what is left open between two dumps."""

import socket
from collections.abc import Callable
from typing import TypeVar

import pytest
from msgspec.structs import replace
from support.namespaces import namespace, require
from support.sockets import (
    TCP,
    all_kinds_of_sockets,
    connections,
    make_flow,
    make_time_wait,
    turned,
)

from hogpipe.attribution.procfs import tcp_lookup
from hogpipe.attribution.procfs.matching import TableIndex, port_pairs_for
from hogpipe.attribution.procfs.tcp_lookup import ReadCounts, TcpLookup, TcpReading
from hogpipe.linux import sock_diag_messages
from hogpipe.linux.sock_diag import Dump, read_dump
from hogpipe.model import FlowKey, Quality

T = TypeVar("T")

NOBODYS = make_flow(TCP, ("127.0.0.1", 1), ("127.0.0.1", 2))

# The pause after a dump is this at the least, and grows with what the dump cost.
PAUSE = tcp_lookup._DUMP_PAUSE
BEFORE_THE_NEXT_DUMP, AFTER_THE_PAUSE = 0.8 * PAUSE, 1000.0


class Asked:
    """A TcpDiag that has made its first dump, at the time zero; then tuples cost it nothing."""

    def __init__(self) -> None:
        self.counts = ReadCounts()
        self.diag = TcpLookup(self.counts)
        self.diag.read([NOBODYS], 0.0)
        assert (self.counts.sock_diag, self.counts.lookups) == (1, 0)
        self.counts.sock_diag = 0

    def read(self, flows: list[FlowKey], now: float = BEFORE_THE_NEXT_DUMP) -> TcpReading:
        """Read as where asking for each tuple costs less than a dump."""
        self.diag._lookup_cost = 0.0
        return self.diag.read(flows, now)


def match(reading: TcpReading, flows: list[FlowKey]) -> dict[FlowKey, tuple[Quality, set[int]]]:
    index = TableIndex({"tcp": reading.rows})
    matches = {flow: index.match(flow) for flow in flows}
    return {flow: (one.quality, {row.inode for row in one.rows}) for flow, one in matches.items()}


def dump_all(flows: list[FlowKey]) -> TcpReading:
    pairs = {pair for flow in flows for pair in port_pairs_for(flow)}
    return TcpReading(read_dump("tcp", pairs).rows)


def call_in_namespace(work: Callable[[], T]) -> T:
    require("ip")
    with namespace() as room:
        return room.call(work)


def test_a_dump_comes_first_and_then_the_cheaper_way() -> None:
    counts = ReadCounts()
    diag = TcpLookup(counts)
    with connections(3) as flows:
        expected = match(dump_all(flows), flows)
        for lookup_cost, dumps, lookups in ((0.0, 0, 3), (1e9, 1, 3), (0.0, 1, 6)):
            diag._lookup_cost = lookup_cost
            diag._dump_cost = 1.0
            assert match(diag.read(flows, AFTER_THE_PAUSE), flows) == expected
            assert (counts.sock_diag, counts.lookups) == (dumps, lookups)
    assert {quality for quality, _ in expected.values()} == {Quality.EXACT}


def test_many_flows_are_dumped_and_few_are_looked_up() -> None:
    counts = ReadCounts()
    diag = TcpLookup(counts)
    with connections(20) as flows:
        diag._lookup_cost, diag._dump_cost = 1.0, 19.5
        diag.read(flows, 0.0)
        assert (counts.sock_diag, counts.lookups) == (1, 0)
        diag._lookup_cost, diag._dump_cost = 1.0, 19.5
        diag.read(flows[1:], 0.0)
        assert (counts.sock_diag, counts.lookups) == (1, 19)


def test_measured_costs_decide_the_next_read() -> None:
    counts = ReadCounts()
    diag = TcpLookup(counts)
    with connections(1) as flows:
        diag.read(flows, 0.0)
        assert 0 < diag._dump_cost < 1.0
        diag._lookup_cost, diag._dump_cost = 0.5, 1.0
        diag.read(flows, 0.0)
        assert 0.25 < diag._lookup_cost < 0.5  # half of what it was, and half of what it took now


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this host has no IPv6")
def test_lookups_match_like_a_dump_and_the_rest_is_resolved_later() -> None:
    def compare() -> tuple[list[FlowKey], TcpReading, TcpReading, TcpReading]:
        asked = Asked()
        with all_kinds_of_sockets() as opened:
            flows = [flow for flow in opened if flow.protocol == TCP]
            flows.append(NOBODYS)
            first = asked.read(flows)
            assert asked.counts.lookups == len(flows)
            later = asked.read(list(first.inconclusive), AFTER_THE_PAUSE)
            return flows, first, later, dump_all(flows)

    flows, first, later, dumped = call_in_namespace(compare)
    expected = match(dumped, flows)
    sure = [flow for flow in flows if flow not in first.inconclusive]
    assert match(first, sure) == {flow: expected[flow] for flow in sure}
    assert {quality for quality, _ in match(first, sure).values()} == set(Quality) - {
        Quality.INFERRED
    }
    assert NOBODYS in first.inconclusive
    assert later.inconclusive == set()
    assert (
        match(later, flows).items() >= {flow: expected[flow] for flow in first.inconclusive}.items()
    )


def test_a_connection_bound_to_another_device_is_inconclusive_until_a_dump() -> None:
    def read() -> tuple[FlowKey, TcpReading, TcpReading, ReadCounts]:
        asked = Asked()
        with connections(1, device="lo") as (flow,):
            seen = replace(flow, interface="")
            between = asked.read([seen])
            return seen, between, asked.read([seen], AFTER_THE_PAUSE), asked.counts

    flow, between, later, counts = call_in_namespace(read)
    assert between == TcpReading([], {flow})
    assert match(later, [flow])[flow][0] is Quality.EXACT
    assert later.inconclusive == set()
    assert (counts.lookups, counts.sock_diag) == (2, 3)  # the sockets that listen, twice, and all


def test_sockets_bound_to_the_interface_of_the_flow_are_exact_at_once() -> None:
    def read() -> tuple[dict[FlowKey, tuple[Quality, set[int]]], ...]:
        asked = Asked()
        with connections(1, device="lo") as (flow,):
            flows = [flow, turned(flow)]
            return match(asked.read(flows), flows), match(dump_all(flows), flows)

    found, dumped = call_in_namespace(read)
    assert found == dumped
    assert {quality for quality, _ in found.values()} == {Quality.EXACT}


def test_time_wait_is_conclusive() -> None:
    def read() -> tuple[TcpReading, ReadCounts]:
        asked = Asked()
        return asked.read([*make_time_wait(70), NOBODYS]), asked.counts

    reading, counts = call_in_namespace(read)
    assert reading == TcpReading([], {NOBODYS})
    assert counts.lookups == 71


def test_a_flow_to_a_listening_port_matches_the_listener_without_a_dump() -> None:
    asked = Asked()
    with socket.create_server(("127.0.0.1", 0)) as server:
        flow = make_flow(TCP, server.getsockname(), ("127.0.0.1", 9))
        reading = asked.read([flow], AFTER_THE_PAUSE)
        assert match(reading, [flow]) == match(dump_all([flow]), [flow])
    assert match(reading, [flow])[flow][0] is Quality.LISTENER
    assert reading.inconclusive == set()
    assert asked.counts.sock_diag == 1  # of the sockets that listen


def test_flows_that_lookups_find_cost_no_dump() -> None:
    asked = Asked()
    with connections(3) as flows:
        reading = asked.read(flows, AFTER_THE_PAUSE)
    assert len(reading.rows) == 3
    assert (asked.counts.lookups, asked.counts.sock_diag) == (3, 0)


def test_dumps_for_flows_that_were_not_found_are_paced() -> None:
    asked = Asked()
    dumped = []
    for step in range(1, 401):
        reading = asked.read([NOBODYS], step / 100)
        if not reading.inconclusive:
            dumped.append(step / 100)
    assert dumped
    # The one at the time zero counts.
    assert all(
        later - earlier >= 0.99 * PAUSE
        for earlier, later in zip([0.0, *dumped], dumped, strict=False)
    )
    assert asked.counts.lookups == 400


def test_an_expensive_dump_is_made_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked()
    monkeypatch.setattr(tcp_lookup, "_cpu_since", lambda _before: 3.0)
    asked.read([NOBODYS], 10.0)
    pause = 3.0 / tcp_lookup._DUMP_SHARE
    assert asked.read([NOBODYS], 10.0 + 0.99 * pause).inconclusive == {NOBODYS}
    assert asked.read([NOBODYS], 10.0 + 1.01 * pause).inconclusive == set()


def test_an_interrupted_dump_is_counted() -> None:
    counts = ReadCounts()
    assert counts.add_dump(Dump(skipped=2, interrupted=True)) == []
    counts.add_dump(Dump(skipped=1))
    assert counts == ReadCounts(sock_diag=2, interrupted=1, rows_skipped=3)


@pytest.mark.parametrize("by_tuple", [False, True])
def test_what_the_kernel_refuses_is_an_error(
    monkeypatch: pytest.MonkeyPatch, by_tuple: bool
) -> None:
    asked = Asked()
    monkeypatch.setattr(sock_diag_messages, "_TCPDIAG_GETSOCK", 4711)
    with pytest.raises(OSError, match="sock_diag tcp"):
        asked.read([NOBODYS]) if by_tuple else TcpLookup(ReadCounts()).read([NOBODYS], 0.0)

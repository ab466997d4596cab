"""TCP sockets by lookup or by dump, and inconclusive flows between two dumps."""

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
    reversed_flow,
)

from hogpipe.attribution.procfs import tcp_lookup
from hogpipe.attribution.procfs.matching import TableIndex, port_pairs_for
from hogpipe.attribution.procfs.tcp_lookup import ReadCounts, TcpLookup, TcpReading
from hogpipe.linux import sock_diag_messages
from hogpipe.linux.sock_diag import Dump, read_dump
from hogpipe.model import FlowKey, Quality

T = TypeVar("T")

NO_SOCKET = make_flow(TCP, ("127.0.0.1", 1), ("127.0.0.1", 2))

# The minimum pause after a dump; it grows with the cost of the dump.
PAUSE = tcp_lookup._DUMP_PAUSE
BEFORE_THE_NEXT_DUMP, AFTER_THE_PAUSE = 0.8 * PAUSE, 1000.0


class LookupReader:
    """A TcpLookup after its first dump, at time zero; its lookups cost nothing."""

    def __init__(self) -> None:
        self.counts = ReadCounts()
        self.lookup = TcpLookup(self.counts)
        self.lookup.read([NO_SOCKET], 0.0)
        assert (self.counts.sock_diag, self.counts.lookups) == (1, 0)
        self.counts.sock_diag = 0

    def read(self, flows: list[FlowKey], now: float = BEFORE_THE_NEXT_DUMP) -> TcpReading:
        """Read with lookups that cost less than a dump."""
        self.lookup._lookup_cost = 0.0
        return self.lookup.read(flows, now)


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
    lookup = TcpLookup(counts)
    with connections(3) as flows:
        expected = match(dump_all(flows), flows)
        for lookup_cost, dumps, lookups in ((0.0, 0, 3), (1e9, 1, 3), (0.0, 1, 6)):
            lookup._lookup_cost = lookup_cost
            lookup._dump_cost = 1.0
            assert match(lookup.read(flows, AFTER_THE_PAUSE), flows) == expected
            assert (counts.sock_diag, counts.lookups) == (dumps, lookups)
    assert {quality for quality, _ in expected.values()} == {Quality.EXACT}


def test_many_flows_are_dumped_and_few_are_looked_up() -> None:
    counts = ReadCounts()
    lookup = TcpLookup(counts)
    with connections(20) as flows:
        lookup._lookup_cost, lookup._dump_cost = 1.0, 19.5
        lookup.read(flows, 0.0)
        assert (counts.sock_diag, counts.lookups) == (1, 0)
        lookup._lookup_cost, lookup._dump_cost = 1.0, 19.5
        lookup.read(flows[1:], 0.0)
        assert (counts.sock_diag, counts.lookups) == (1, 19)


def test_measured_costs_decide_the_next_read() -> None:
    counts = ReadCounts()
    lookup = TcpLookup(counts)
    with connections(1) as flows:
        lookup.read(flows, 0.0)
        assert 0 < lookup._dump_cost < 1.0
        lookup._lookup_cost, lookup._dump_cost = 0.5, 1.0
        lookup.read(flows, 0.0)
        assert 0.25 < lookup._lookup_cost < 0.5  # the average of the old and the measured cost


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this host has no IPv6")
def test_lookups_match_like_a_dump_and_the_rest_is_resolved_later() -> None:
    def compare() -> tuple[list[FlowKey], TcpReading, TcpReading, TcpReading]:
        reader = LookupReader()
        with all_kinds_of_sockets() as opened:
            flows = [flow for flow in opened if flow.protocol == TCP]
            flows.append(NO_SOCKET)
            first = reader.read(flows)
            assert reader.counts.lookups == len(flows)
            later = reader.read(list(first.inconclusive), AFTER_THE_PAUSE)
            return flows, first, later, dump_all(flows)

    flows, first, later, dumped = call_in_namespace(compare)
    expected = match(dumped, flows)
    conclusive = [flow for flow in flows if flow not in first.inconclusive]
    assert match(first, conclusive) == {flow: expected[flow] for flow in conclusive}
    assert {quality for quality, _ in match(first, conclusive).values()} == set(Quality) - {
        Quality.INFERRED
    }
    assert NO_SOCKET in first.inconclusive
    assert later.inconclusive == set()
    assert (
        match(later, flows).items() >= {flow: expected[flow] for flow in first.inconclusive}.items()
    )


def test_a_connection_bound_to_another_device_is_inconclusive_until_a_dump() -> None:
    def read() -> tuple[FlowKey, TcpReading, TcpReading, ReadCounts]:
        reader = LookupReader()
        with connections(1, device="lo") as (flow,):
            seen = replace(flow, interface="")
            between = reader.read([seen])
            return seen, between, reader.read([seen], AFTER_THE_PAUSE), reader.counts

    flow, between, later, counts = call_in_namespace(read)
    assert between == TcpReading([], {flow})
    assert match(later, [flow])[flow][0] is Quality.EXACT
    assert later.inconclusive == set()
    assert (counts.lookups, counts.sock_diag) == (
        2,
        3,
    )  # twice the listening sockets, once the whole table


def test_sockets_bound_to_the_interface_of_the_flow_are_exact_at_once() -> None:
    def read() -> tuple[dict[FlowKey, tuple[Quality, set[int]]], ...]:
        reader = LookupReader()
        with connections(1, device="lo") as (flow,):
            flows = [flow, reversed_flow(flow)]
            return match(reader.read(flows), flows), match(dump_all(flows), flows)

    found, dumped = call_in_namespace(read)
    assert found == dumped
    assert {quality for quality, _ in found.values()} == {Quality.EXACT}


def test_time_wait_is_conclusive() -> None:
    def read() -> tuple[TcpReading, ReadCounts]:
        reader = LookupReader()
        return reader.read([*make_time_wait(70), NO_SOCKET]), reader.counts

    reading, counts = call_in_namespace(read)
    assert reading == TcpReading([], {NO_SOCKET})
    assert counts.lookups == 71


def test_a_flow_to_a_listening_port_matches_the_listener_without_a_dump() -> None:
    reader = LookupReader()
    with socket.create_server(("127.0.0.1", 0)) as server:
        flow = make_flow(TCP, server.getsockname(), ("127.0.0.1", 9))
        reading = reader.read([flow], AFTER_THE_PAUSE)
        assert match(reading, [flow]) == match(dump_all([flow]), [flow])
    assert match(reading, [flow])[flow][0] is Quality.LISTENER
    assert reading.inconclusive == set()
    assert reader.counts.sock_diag == 1  # of the listening sockets


def test_flows_that_lookups_find_cost_no_dump() -> None:
    reader = LookupReader()
    with connections(3) as flows:
        reading = reader.read(flows, AFTER_THE_PAUSE)
    assert len(reading.rows) == 3
    assert (reader.counts.lookups, reader.counts.sock_diag) == (3, 0)


def test_dumps_for_flows_that_were_not_found_are_paced() -> None:
    reader = LookupReader()
    dumped = []
    for step in range(1, 401):
        reading = reader.read([NO_SOCKET], step / 100)
        if not reading.inconclusive:
            dumped.append(step / 100)
    assert dumped
    # The dump at time zero counts.
    assert all(
        later - earlier >= 0.99 * PAUSE
        for earlier, later in zip([0.0, *dumped], dumped, strict=False)
    )
    assert reader.counts.lookups == 400


def test_an_expensive_dump_is_made_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = LookupReader()
    monkeypatch.setattr(tcp_lookup, "_cpu_since", lambda _before: 3.0)
    reader.read([NO_SOCKET], 10.0)
    pause = 3.0 / tcp_lookup._DUMP_SHARE
    assert reader.read([NO_SOCKET], 10.0 + 0.99 * pause).inconclusive == {NO_SOCKET}
    assert reader.read([NO_SOCKET], 10.0 + 1.01 * pause).inconclusive == set()


def test_an_interrupted_dump_is_counted() -> None:
    counts = ReadCounts()
    assert counts.add_dump(Dump(skipped=2, interrupted=True)) == []
    counts.add_dump(Dump(skipped=1))
    assert counts == ReadCounts(sock_diag=2, interrupted=1, rows_skipped=3)


@pytest.mark.parametrize("by_tuple", [False, True])
def test_what_the_kernel_refuses_is_an_error(
    monkeypatch: pytest.MonkeyPatch, by_tuple: bool
) -> None:
    reader = LookupReader()
    monkeypatch.setattr(sock_diag_messages, "_TCPDIAG_GETSOCK", 4711)
    with pytest.raises(OSError, match="sock_diag tcp"):
        reader.read([NO_SOCKET]) if by_tuple else TcpLookup(ReadCounts()).read([NO_SOCKET], 0.0)

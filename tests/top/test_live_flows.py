"""Flows of a pipeline: conserved as the aggregator's, and described as the aggregator describes."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.flow_sums import Moved, SumsMaker, sum_flows
from support.sinks import stats
from support.traffic import attributions, deltas, flows

from hogpipe.aggregation.aggregator import Aggregator
from hogpipe.aggregation.dimensions import Grouping
from hogpipe.aggregation.selectors import parse_selector
from hogpipe.flows.packet_rows import FlowNaming
from hogpipe.model import (
    BUILT_IN_NETWORKS,
    Attribution,
    FlowDelta,
    FlowKey,
    Process,
    Quality,
    ServicePorts,
    Span,
    TrafficCounts,
)
from hogpipe.model.peer_names import NameQuality, PeerName
from hogpipe.records.schema import parse_io
from hogpipe.top.described_flows import Owner, Path, describe_owner, describe_path
from hogpipe.top.live_flows import DrainedFlows, LiveFlows
from hogpipe.top.live_windows import LiveWindows
from hogpipe.top.row_groups import Query, RowGroups
from hogpipe.top.traffic_table import TRAFFIC, TrafficTable

FLOW = FlowKey(6, b"\x0a\0\0\1", 40000, b"\x0a\0\0\2", 443, "eth0")
NGINX = Process(10, 1, command="nginx", executable="/usr/sbin/nginx", user_id=0, user_name="root")
DELTA = FlowDelta(transmit_bytes=100, transmit_packets=1, receive_bytes=10, receive_packets=2)


class Bench:
    """Live flows, and the table that their windows go to."""

    def __init__(
        self,
        only: tuple[str, ...] = (),
        max_flows: int = 100,
        recall: Callable[[Process], Process] = lambda process: process,
    ) -> None:
        selectors = [parse_selector(text) for text in only]
        self.drained: list[DrainedFlows] = []
        self.flows = LiveFlows(selectors, max_flows, recall, self.drained.append, BUILT_IN_NETWORKS)
        self.table = TrafficTable()
        self.windows = LiveWindows(self.table)
        self.groups = RowGroups(self.table)
        self.maker = SumsMaker()

    def move(self, flow: FlowKey, traffic: TrafficCounts, attribution: Attribution) -> None:
        """Ingest what a flow moved."""
        self.flows.ingest(self.maker.make([(flow, traffic, attribution)]))

    def move_named(self, *moved: tuple[FlowKey, str | None]) -> None:
        """Ingest what flows of nginx to peers with these names moved."""
        sums = self.maker.make([(flow, DELTA, exact(NGINX)) for flow, _ in moved])
        names = [None if one is None else PeerName(one, NameQuality.HOST) for _, one in moved]
        naming = FlowNaming(np.arange(1, len(names) + 1), [None, *names])
        self.flows.ingest(replace(sums, naming=naming))

    def close(self) -> None:
        """End a window and show it."""
        number = self.table.passed
        assert list(self.flows.drain()) == []
        drained = self.drained.pop()
        span = Span(number * 10**9, (number + 1) * 10**9)
        self.table.append(self.windows.build(drained, span, stats()))
        self.table.advance()

    def programs(self) -> dict[str, int]:
        """Return the transmitted bytes of each program."""
        rows = self.groups.query(Query(dimension="program")).slice(0, 100)
        return {row.texts[0]: row.transmit_bytes for row in rows}

    def domains(self) -> dict[str, int]:
        """Return the transmitted bytes of each name of peers."""
        rows = self.groups.query(Query(dimension="domain")).slice(0, 100)
        return {row.texts[0]: row.transmit_bytes for row in rows}


def exact(process: Process) -> Attribution:
    return Attribution(Quality.EXACT, process)


parts = st.lists(st.tuples(flows, deltas, attributions), max_size=8)


@given(st.lists(st.lists(parts, max_size=3), max_size=4))
def test_windows_have_the_sums_of_the_aggregator(windows: list[list[list[Moved]]]) -> None:
    bench, aggregator = Bench(max_flows=3), Aggregator(["process"], [], 100)
    for window in windows:
        for part in window:
            sums = bench.maker.make(part)
            bench.flows.ingest(sums)
            aggregator.ingest(sums)
        bodies = list(aggregator.drain())
        bench.close()
        current = bench.table.current
        assert current is not None
        sums = [parse_io(body["network"]["io"]) for body in bodies]
        expected = [sum(getattr(one, name) for one in sums) for name in TRAFFIC]
        assert current.traffic.sum(axis=1).tolist() == expected
        assert bench.flows.bytes_by_quality == aggregator.bytes_by_quality


def test_a_flow_keeps_its_connection_from_window_to_window() -> None:
    bench = Bench()
    for _ in range(12):
        bench.move(FLOW, DELTA, exact(NGINX))
        bench.close()
    assert len(bench.table) == 1
    assert bench.programs() == {"nginx": 1200}


def test_an_equal_attribution_is_the_same_one() -> None:
    bench = Bench()
    bench.move(FLOW, DELTA, exact(NGINX))
    bench.move(FLOW, DELTA, exact(msgspec.structs.replace(NGINX)))
    bench.close()
    assert bench.table.current is not None
    assert bench.table.current.flows.tolist() == [1]


def test_a_new_owner_gets_only_what_follows() -> None:
    bench = Bench()
    bench.move(FLOW, DELTA, exact(NGINX))
    bench.move(FLOW, DELTA, exact(Process(11, 2, command="curl")))
    bench.close()
    assert bench.programs() == {"nginx": 100, "curl": 100}


def test_after_exec_bytes_have_the_new_name() -> None:
    latest = {NGINX.pid: NGINX}
    bench = Bench(recall=lambda process: latest[process.pid])
    bench.move(FLOW, DELTA, exact(NGINX))
    latest[NGINX.pid] = msgspec.structs.replace(NGINX, executable="/usr/bin/worker")
    bench.flows.invalidate_routes()
    bench.move(FLOW, DELTA, exact(NGINX))
    bench.move(FLOW, DELTA, exact(NGINX))
    bench.close()
    assert bench.programs() == {"nginx": 100, "worker": 200}
    assert latest[NGINX.pid] in bench.flows.processes


def test_flows_beyond_the_bound_have_their_owner_and_no_path() -> None:
    bench = Bench(max_flows=2)
    for port in range(10):
        flow = msgspec.structs.replace(FLOW, local_port=port + 1)
        bench.move(flow, DELTA, exact(NGINX))
    bench.close()
    assert bench.programs() == {"nginx": 1000}
    assert len(bench.table) == 3
    assert bench.table.figures.folded >= 8


def test_what_is_not_selected_is_the_remainder() -> None:
    bench = Bench(only=("pid:10",))
    bench.move(FLOW, DELTA, exact(NGINX))
    other = msgspec.structs.replace(FLOW, local_port=1)
    bench.move(other, DELTA, exact(Process(11, 2, command="curl")))
    bench.close()
    assert bench.programs() == {"nginx": 100, "(all others)": 100}


def test_sums_of_flows_count_as_many_flows() -> None:
    bench = Bench()
    bench.flows.ingest(sum_flows(FLOW, DELTA, exact(NGINX), 3))
    bench.flows.ingest(sum_flows(FLOW, DELTA, exact(NGINX), 1))
    bench.close()
    (row,) = bench.groups.query(Query()).slice(0, 9)
    assert (row.flows, row.transmit_bytes) == (4, 200)


def test_slots_are_found_again_after_the_table_was_renumbered() -> None:
    bench = Bench()
    bench.move(FLOW, DELTA, exact(NGINX))
    bench.close()
    bench.table.clear()
    bench.move(FLOW, DELTA, exact(NGINX))
    bench.close()
    assert bench.programs() == {"nginx": 100}


@given(st.lists(st.lists(parts, max_size=2), max_size=4), st.lists(st.booleans(), max_size=4))
def test_connections_have_what_their_flows_moved(
    windows: list[list[list[Moved]]], renumbered: list[bool]
) -> None:
    """By owner and path, whatever is evicted from the flow table or renumbered meanwhile."""
    bench, expected = Bench(), Counter[tuple[Owner, Path]]()
    for number, window in enumerate(windows):
        for part in window:
            bench.flows.ingest(bench.maker.make(part))
            for flow, delta, attribution in part:
                transport = Grouping(["transport"]).describe_path(flow).get("transport", "")
                network = BUILT_IN_NETWORKS.find(flow.remote_address)
                path = describe_path(flow, transport, ServicePorts().find(flow), network, "")
                expected[describe_owner(attribution), path] += delta.total_bytes
        bench.close()
        if number < len(renumbered) and renumbered[number]:
            bench.maker.evict_all()
            bench.table.epoch += 1  # what was found before is found again
    table = bench.table
    found = {
        (table.owner(slot), table.paths[slot]): sum(table.traffic[:2, slot].tolist())
        for slot in range(len(table))
    }
    assert +Counter(found) == +expected


def test_the_rows_of_a_window_are_bounded_and_conserved() -> None:
    bench = Bench(max_flows=5)
    for port in range(1, 101):
        bench.move(msgspec.structs.replace(FLOW, local_port=port), DELTA, exact(NGINX))
    bench.close()
    current = bench.table.current
    assert current is not None
    assert current.slots.size <= 6
    assert bench.programs() == {"nginx": 10_000}
    assert current.flows.sum() == 100


def test_processes_are_described_as_when_they_were_named() -> None:
    latest = {NGINX.pid: NGINX}
    bench = Bench(recall=lambda process: latest[process.pid])
    bench.flows.recall_processes([exact(NGINX)])
    latest[NGINX.pid] = msgspec.structs.replace(NGINX, executable="/usr/bin/worker")
    bench.move(FLOW, DELTA, exact(NGINX))
    bench.close()
    assert bench.programs() == {"nginx": 100}


A, B, C = (msgspec.structs.replace(FLOW, local_port=port) for port in (1, 2, 3))


def test_connections_have_the_names_of_their_peers() -> None:
    bench = Bench()
    for _ in range(2):
        bench.move_named((A, "a.test"), (B, "b.test"), (C, None))
        bench.close()
    assert bench.domains() == {"a.test": 200, "b.test": 200, "-": 200}
    assert len(bench.table) == 3
    bench.move_named((C, "a.test"))  # its name is known from now on
    bench.close()
    assert bench.domains() == {"a.test": 300, "b.test": 200, "-": 200}


def test_flows_that_are_folded_have_no_name() -> None:
    bench = Bench(max_flows=1)
    bench.move_named((A, "a.test"), (B, "b.test"), (C, "c.test"))
    bench.close()
    assert bench.domains() == {"a.test": 100, "-": 200}


def test_names_of_peers_are_selected() -> None:
    bench = Bench(only=("domain:a.test",))
    bench.move_named((A, "a.test"), (B, "b.test"), (C, None))
    bench.close()
    assert bench.domains() == {"a.test": 100, "-": 200}

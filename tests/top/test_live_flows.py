"""Flows of a pipeline: conserved as the aggregator's, and described as the aggregator describes."""

from collections.abc import Callable

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from support.sinks import stats
from support.traffic import attributions, deltas, flows

from hogpipe.aggregation.aggregator import Aggregator
from hogpipe.aggregation.selectors import parse_selector
from hogpipe.model import Attribution, FlowDelta, FlowKey, Process, Quality, Span
from hogpipe.records.schema import parse_io
from hogpipe.top.live_flows import DrainedFlows, LiveFlows, build_live_window
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
        self.flows = LiveFlows(selectors, max_flows, recall, self.drained.append)
        self.table = TrafficTable()
        self.groups = RowGroups(self.table)

    def close(self) -> None:
        """End a window and show it."""
        number = self.table.passed
        assert list(self.flows.drain()) == []
        drained = self.drained.pop()
        span = Span(number * 10**9, (number + 1) * 10**9)
        self.table.append(build_live_window(self.table, drained, span, stats()))
        self.table.advance()

    def programs(self) -> dict[str, int]:
        """Return the transmitted bytes of each program."""
        rows = self.groups.query(Query(dimension="program")).slice(0, 100)
        return {row.texts[0]: row.transmit_bytes for row in rows}


def exact(process: Process) -> Attribution:
    return Attribution(Quality.EXACT, process)


@given(st.lists(st.lists(st.tuples(flows, deltas, attributions), max_size=8), max_size=4))
def test_windows_have_the_sums_of_the_aggregator(
    windows: list[list[tuple[FlowKey, FlowDelta, Attribution]]],
) -> None:
    bench, aggregator = Bench(max_flows=3), Aggregator(["process"], [], 100)
    for window in windows:
        for item in window:
            bench.flows.ingest(*item)
            aggregator.ingest(*item)
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
        bench.flows.ingest(FLOW, DELTA, exact(NGINX))
        bench.close()
    assert len(bench.table) == 1
    assert bench.programs() == {"nginx": 1200}


def test_an_equal_attribution_is_the_same_one() -> None:
    bench = Bench()
    bench.flows.ingest(FLOW, DELTA, exact(NGINX))
    bench.flows.ingest(FLOW, DELTA, exact(msgspec.structs.replace(NGINX)))
    bench.close()
    assert bench.table.current is not None
    assert bench.table.current.flows.tolist() == [1]


def test_a_new_owner_gets_only_what_follows() -> None:
    bench = Bench()
    bench.flows.ingest(FLOW, DELTA, exact(NGINX))
    bench.flows.ingest(FLOW, DELTA, exact(Process(11, 2, command="curl")))
    bench.close()
    assert bench.programs() == {"nginx": 100, "curl": 100}


def test_after_exec_bytes_have_the_new_name() -> None:
    latest = {NGINX.pid: NGINX}
    bench = Bench(recall=lambda process: latest[process.pid])
    bench.flows.ingest(FLOW, DELTA, exact(NGINX))
    latest[NGINX.pid] = msgspec.structs.replace(NGINX, executable="/usr/bin/worker")
    bench.flows.invalidate_routes()
    bench.flows.ingest(FLOW, DELTA, exact(NGINX))
    bench.flows.ingest(FLOW, DELTA, exact(NGINX))
    bench.close()
    assert bench.programs() == {"nginx": 100, "worker": 200}
    assert latest[NGINX.pid] in bench.flows.processes


def test_flows_beyond_the_bound_have_their_owner_and_no_path() -> None:
    bench = Bench(max_flows=2)
    for port in range(10):
        flow = msgspec.structs.replace(FLOW, local_port=port + 1)
        bench.flows.ingest(flow, DELTA, exact(NGINX))
    bench.close()
    assert bench.programs() == {"nginx": 1000}
    assert len(bench.table) == 3
    assert bench.table.figures.folded >= 8


def test_what_is_not_selected_is_the_remainder() -> None:
    bench = Bench(only=("pid:10",))
    bench.flows.ingest(FLOW, DELTA, exact(NGINX))
    other = msgspec.structs.replace(FLOW, local_port=1)
    bench.flows.ingest(other, DELTA, exact(Process(11, 2, command="curl")))
    bench.close()
    assert bench.programs() == {"nginx": 100, "(all others)": 100}


def test_sums_of_flows_count_as_many_flows() -> None:
    bench = Bench()
    bench.flows.ingest_sum(FLOW, DELTA, exact(NGINX), 3)
    bench.flows.ingest_sum(FLOW, DELTA, exact(NGINX), 1)
    bench.close()
    (row,) = bench.groups.query(Query()).slice(0, 9)
    assert (row.flows, row.transmit_bytes) == (4, 200)


def test_slots_are_found_again_after_the_table_was_renumbered() -> None:
    bench = Bench()
    bench.flows.ingest(FLOW, DELTA, exact(NGINX))
    bench.close()
    bench.table.clear()
    bench.flows.ingest(FLOW, DELTA, exact(NGINX))
    bench.close()
    assert bench.programs() == {"nginx": 100}

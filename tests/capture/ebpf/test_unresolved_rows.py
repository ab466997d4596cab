"""Rows that are looked up are packets of the flow table, and known ones pass on its fast lane."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.lanes import open_lane

from hogpipe.capture.ebpf.row_flows import RowFlows, make_row_flows
from hogpipe.capture.ebpf.unresolved_rows import UnresolvedRows
from hogpipe.flows.flow_table import FlowTable
from hogpipe.flows.flow_words import FlowPacker
from hogpipe.flows.packet_rows import PacketRows
from hogpipe.linux.bpf.shapes import TRAFFIC_ROW
from hogpipe.linux.bpf.traffic_rows import Rows, decode_endpoints, encode_endpoints
from hogpipe.model import OWN_NAMESPACE, UNKNOWN_FLOW, Attribution, FlowKey, Process, Quality, Tally

NGINX = Attribution(Quality.EXACT, Process(7, 1, command="nginx"))


def make_rows(*endpoints: bytes) -> Rows:
    rows = np.zeros(len(endpoints), TRAFFIC_ROW)
    rows["endpoints"] = np.frombuffer(b"".join(endpoints), np.uint64).reshape(len(rows), -1)
    rows["counts"] = 100, 1, 200, 2
    return rows


def tcp(port: int) -> bytes:
    return encode_endpoints(b"\x0a\0\0\1", port, b"\x0a\0\0\2", 80, 6)


def flows_of(rows: Rows) -> RowFlows:
    return make_row_flows(rows, np.zeros(len(rows), np.intp), [OWN_NAMESPACE])


class Bench:
    def __init__(self, max_flows: int = 100) -> None:
        self.now = 0.0
        self.table = FlowTable(max_flows, max_flows)
        self.unresolved = UnresolvedRows(self.table, lambda: self.now)
        self.overflowed = Tally()

    def locate(
        self, rows: Rows, *, opened: Sequence[bool] | None = None, excess: Sequence[bool] = ()
    ) -> PacketRows:
        packets, health = self.unresolved.locate(
            rows,
            flows_of(rows),
            np.array(opened or [False] * len(rows)),
            np.array(excess or [False] * len(rows)),
            self.overflowed,
        )
        assert health is None
        return packets


addresses = st.sampled_from([4, 16]).flatmap(
    lambda size: st.tuples(*[st.binary(min_size=size, max_size=size)] * 2)
)


@given(
    st.lists(
        st.tuples(
            addresses, st.integers(0, 65535), st.integers(0, 65535), st.integers(1, 255),
            st.sampled_from([OWN_NAMESPACE, 7, None]), st.booleans(),
        ),
        min_size=1, max_size=8,
    )
)  # fmt: skip
def test_the_flows_of_rows_are_those_of_their_endpoints(
    made: list[tuple[tuple[bytes, bytes], int, int, int, int | None, bool]],
) -> None:
    """Rows without a known flow are of UNKNOWN_FLOW, in whichever namespace they are."""
    rows = make_rows(
        *(
            encode_endpoints(here, local, there, remote, protocol)
            if is_known
            else encode_endpoints(b"", 0, b"", 0, 0)
            for (here, there), local, remote, protocol, _namespace, is_known in made
        )
    )
    namespaces = [one[4] for one in made]
    packer = FlowPacker()
    words = make_row_flows(rows, np.arange(len(rows)), namespaces).pack(packer)
    expected = [
        FlowKey(
            one.protocol, one.local_address, one.local_port, one.remote_address, one.remote_port,
            "", namespace,
        )
        if one.protocol
        else UNKNOWN_FLOW
        for one, namespace in zip(decode_endpoints(rows), namespaces, strict=True)
    ]  # fmt: skip
    assert [packer.unpack(row) for row in words] == expected
    assert (words == packer.pack(expected)).all()


def test_rows_of_known_flows_are_counted_in_the_table() -> None:
    bench, rows = Bench(), make_rows(tcp(1), tcp(2))
    deltas = bench.table.count(bench.locate(rows), 0.0)
    assert [(flow.local_port, delta.total_bytes) for flow, delta in deltas.items()] == [
        (1, 300),
        (2, 300),
    ]
    bench.table.receive(deltas, 0.0)
    known, _new = deltas
    open_lane(bench.table, known, NGINX, due_at=10.0)
    deltas = bench.table.count(bench.locate(rows), 1.0)
    assert [flow.local_port for flow in deltas] == [2]
    sums = bench.table.drain()
    assert sums.counters.tolist() == [[100, 1, 200, 2]]
    assert sums.attributions == [NGINX]


def test_a_flow_that_is_another_sockets_now_is_judged_again() -> None:
    bench, rows = Bench(), make_rows(tcp(1))
    deltas = bench.table.count(bench.locate(rows), 0.0)
    bench.table.receive(deltas, 0.0)
    (flow,) = deltas
    open_lane(bench.table, flow, NGINX, due_at=10.0)
    (delta,) = bench.table.count(bench.locate(rows, opened=[True]), 1.0).values()
    assert delta.opened


def test_a_row_has_packets_in_the_directions_in_which_something_moved() -> None:
    bench, rows = Bench(), make_rows(tcp(1), tcp(2), tcp(3))
    rows["counts"][1, :2] = rows["counts"][2] = 0
    located = bench.locate(rows)
    assert located.direction.tolist() == [0, 2, 2]
    assert located.bytes.tolist() == [100, 200, 200]
    assert located.packets.tolist() == [1, 2, 2]


@pytest.mark.parametrize(("max_flows", "excess"), [(100, [False, True, True]), (2, [False] * 3)])
def test_rows_that_are_too_many_are_sums_and_overflowed(max_flows: int, excess: list[bool]) -> None:
    bench = Bench(max_flows)
    rows = make_rows(tcp(1), tcp(2), encode_endpoints(bytes(16), 3, bytes(16), 4, 6))
    folded = 2 if max_flows == 100 else 1
    deltas = bench.table.count(bench.locate(rows, excess=excess), 0.0)
    assert len(deltas) == 3 - folded
    assert bench.overflowed == Tally(packets=3 * folded, bytes=300 * folded)
    sums = bench.table.drain()
    assert sums.counters.sum(axis=0).tolist() == [100 * folded, folded, 200 * folded, 2 * folded]
    assert {len(sums.packer.unpack(words).remote_address) for words in sums.words} == {0}


def test_idle_flows_are_evicted_and_a_crowded_table_is_cleared_sooner() -> None:
    for max_flows, evicted_after in ((100, 16.0), (3, 3.0)):
        bench = Bench(max_flows)
        bench.unresolved.evict()
        rows = make_rows(*(tcp(port) for port in range(1, 5)))
        bench.table.count(bench.locate(rows), 0.0)
        full = len(bench.table)
        bench.now = 1.5
        bench.unresolved.evict()
        assert len(bench.table) == full
        bench.now = evicted_after
        bench.unresolved.evict()
        assert len(bench.table) < full


def test_a_table_shrinks_after_a_flood_though_its_last_flows_go_on() -> None:
    bench = Bench(20_000)
    rows = make_rows(*map(tcp, range(1, 10_001)))
    bench.table.count(bench.locate(rows), 0.0)
    for bench.now in (1.0, 17.0, 33.0):
        bench.unresolved.evict()
        deltas = bench.table.count(bench.locate(rows[-3:]), bench.now)
    assert bench.table.capacity < 100
    assert {flow.local_port for flow in deltas} == {9998, 9999, 10_000}


def test_flows_with_a_known_owner_are_evicted_after_a_minute() -> None:
    freed: list[FlowKey] = []
    bench, rows = Bench(), make_rows(tcp(1), tcp(2))
    bench.table.on_free = freed.extend
    deltas = bench.table.count(bench.locate(rows), 0.0)
    bench.table.receive(deltas, 0.0)
    known, new = deltas
    open_lane(bench.table, known, NGINX, due_at=10.0)
    for bench.now in (20.0, 40.0, 61.0):
        bench.unresolved.evict()
        assert freed == [new] if bench.now < 60 else [new, known]

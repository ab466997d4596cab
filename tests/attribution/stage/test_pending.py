"""Which pending flows are due, and when."""

import math

from hypothesis import given
from hypothesis import strategies as st
from support.traffic import make_flow

from hogpipe.attribution.stage.pending import PendingFlows
from hogpipe.attribution.stage.pending_resolution import PendingResolution
from hogpipe.model import FlowDelta


def make_table(max_flows: int = 100, hold: float = 2.0) -> PendingFlows:
    return PendingFlows(max_flows, hold)


def start(table: PendingFlows, port: int, now: float = 0.0) -> PendingResolution:
    return table.start(make_flow(port), FlowDelta(transmit_bytes=1, transmit_packets=1), now)


def test_a_new_flow_is_due_at_once_and_only_once() -> None:
    table = make_table()
    assert table.next_due() == math.inf
    one = start(table, 1)
    assert table.next_due() == -math.inf
    assert table.take_due(0.0, 10) == [one]
    assert table.take_due(99.0, 10) == []
    assert len(table) == 1


def test_new_flows_come_before_deferred_ones() -> None:
    table = make_table()
    old = start(table, 1)
    table.take_due(0.0, 10)
    table.defer(old, 5.0)
    new, newest = start(table, 2), start(table, 3)
    assert table.take_due(6.0, 2) == [new, newest]
    assert table.next_due() == 5.0
    assert table.take_due(6.0, 2) == [old]


def test_a_flow_that_is_no_longer_pending_is_not_due() -> None:
    table = make_table()
    settled = start(table, 1)
    table.take_due(0.0, 10)
    table.defer(settled, 5.0)
    table.pop(make_flow(1))
    again = start(table, 1)
    assert table.take_due(6.0, 10) == [again]
    assert table.take_due(6.0, 10) == []


def test_flows_without_a_socket_are_due_at_their_deadline() -> None:
    table = make_table(hold=2.0)
    flows = [start(table, port, now=float(port)) for port in (1, 2, 3)]
    table.take_due(3.0, 10)
    for flow in flows[:2]:
        flow.has_no_socket = True
    for flow in flows:
        table.defer(flow, 9.0)
    assert table.next_due() == 3.0
    assert table.take_due(2.9, 10) == []
    assert table.take_due(3.5, 10) == flows[:1]
    table.pop(make_flow(1))
    table.pop(make_flow(2))
    assert table.take_due(4.0, 10) == []
    assert table.next_due() == 9.0


def test_the_end_of_a_window_forgets_when_flows_that_were_settled_would_be_due() -> None:
    table = make_table(hold=2.0)
    for port in (1, 2):
        flow = start(table, port)
        flow.has_no_socket = port == 1
        table.take_due(0.0, 10)
        table.defer(flow, 1.0)
        table.pop(flow.flow)
    assert table.next_due() == 1.0
    table.compact()
    assert table.next_due() == math.inf


def test_flows_expire_after_the_hold_time_in_the_order_of_arrival() -> None:
    table = make_table(hold=2.0)
    flows = [start(table, port, now=float(port)) for port in (1, 2, 3)]
    assert table.expired(2.9, 10) == []
    assert table.expired(4.0, 10) == flows[:2]
    assert table.expired(4.0, 1) == table.oldest(1) == flows[:1]


def test_the_table_is_bounded() -> None:
    table = make_table(max_flows=1)
    assert table.room > 0
    start(table, 1)
    assert table.room == 0


def test_a_pending_delta_is_a_copy() -> None:
    delta = FlowDelta(transmit_bytes=1, transmit_packets=1)
    one = make_table().start(make_flow(1), delta, 0.0)
    one.add(FlowDelta(transmit_bytes=2, transmit_packets=1))
    assert (delta.transmit_bytes, one.total.transmit_bytes) == (1, 3)


@given(st.lists(st.tuples(st.integers(1, 5), st.floats(0, 10)), max_size=30))
def test_deferred_flows_come_in_the_order_of_their_times(steps: list[tuple[int, float]]) -> None:
    table = make_table()
    flows = {}
    for port, _due in steps:
        if table.get(make_flow(port)) is None:
            flows[port] = start(table, port)
    table.take_due(0.0, 100)
    for port, due in steps:
        table.defer(flows[port], due)
    dues = []
    while (due := table.next_due()) < math.inf:
        dues.append(due)
        assert table.take_due(due, 1)
    assert dues == sorted(due for _port, due in steps)

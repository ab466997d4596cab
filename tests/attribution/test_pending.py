import math

from hypothesis import given
from hypothesis import strategies as st
from support.traffic import make_flow

from hogpipe.attribution.pending import PendingFlows, Waiting
from hogpipe.model import FlowDelta


def waiting() -> Waiting:
    return Waiting(FlowDelta(1, 1), since=0.0)


def test_a_new_flow_is_due_at_once_and_only_once() -> None:
    pending = PendingFlows()
    assert pending.next_due() == math.inf
    pending.add(make_flow(1), waiting())
    assert pending.next_due() == -math.inf
    assert list(pending.take_due(0.0, 10)) == [make_flow(1)]
    assert pending.take_due(99.0, 10) == {}
    assert len(pending) == 1


def test_flows_that_were_never_looked_for_go_before_those_that_were() -> None:
    pending = PendingFlows()
    old = waiting()
    pending.add(make_flow(1), old)
    pending.take_due(0.0, 10)
    pending.put_off(make_flow(1), old, 5.0)
    pending.add(make_flow(2), waiting())
    pending.add(make_flow(3), waiting())
    assert list(pending.take_due(6.0, 2)) == [make_flow(2), make_flow(3)]
    assert pending.next_due() == 5.0
    assert list(pending.take_due(6.0, 2)) == [make_flow(1)]


def test_a_flow_that_waits_no_longer_is_not_due() -> None:
    pending = PendingFlows()
    gone = waiting()
    pending.add(make_flow(1), gone)
    pending.take_due(0.0, 10)
    pending.put_off(make_flow(1), gone, 5.0)
    pending.pop(make_flow(1))
    again = waiting()
    pending.add(make_flow(1), again)
    assert pending.take_due(6.0, 10) == {make_flow(1): again}
    assert pending.take_due(6.0, 10) == {}


@given(st.lists(st.tuples(st.integers(1, 5), st.floats(0, 10)), max_size=30))
def test_retries_come_in_the_order_of_their_times(steps: list[tuple[int, float]]) -> None:
    pending = PendingFlows()
    flows = {}
    for port, _due in steps:
        if pending.get(make_flow(port)) is None:
            flows[port] = waiting()
            pending.add(make_flow(port), flows[port])
    pending.take_due(0.0, 100)
    for port, due in steps:
        pending.put_off(make_flow(port), flows[port], due)
    dues = []
    while (due := pending.next_due()) < math.inf:
        dues.append(due)
        assert pending.take_due(due, 1)
    assert dues == sorted(due for _port, due in steps)

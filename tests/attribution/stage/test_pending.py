import math

from hypothesis import given, settings
from hypothesis import strategies as st
from support.traffic import make_delta, make_flow

from hogpipe.attribution.stage.pending import PendingFlows, Waiting
from hogpipe.model import Span


def waiting() -> Waiting:
    return Waiting(make_delta((1, 1)), since=0.0)


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
@settings(deadline=None)
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


def test_what_comes_while_a_flow_waits_is_kept_in_pieces_until_they_are_many() -> None:
    one = Waiting(make_delta((1, 1), at_ns=(5, 6)), since=0.0)
    assert [*one.ask()] == [Span(5, 7)]
    for at in range(10, 30):
        one.add(make_delta((1, 1), at_ns=(at, at)))
    assert one.delta == make_delta((21, 21), at_ns=(5, 29))
    before, since = one.split()
    assert [piece.span for piece in before] == [Span(5, 7)]
    assert [piece.transmit_bytes for piece in since] == [1] * 7 + [13]
    assert one.ask()[-1] == Span(17, 30)
    assert len(one.split()[0]) == 9


def test_a_flow_is_asked_for_as_of_now_where_the_time_of_a_piece_is_not_known() -> None:
    one = Waiting(make_delta((1, 1), at_ns=(5, 6)), since=0.0)
    one.add(make_delta((1, 1)))
    assert one.ask() == ()
    assert len(one.split()[0]) == 2

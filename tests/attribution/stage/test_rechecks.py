"""Which flows are looked up again, together with which others, and at what cost."""

import math

import pytest
from support.traffic import NGINX, exact, make_flow

from hogpipe.attribution.stage import rechecks
from hogpipe.attribution.stage.rechecks import RecheckQueue, question_of
from hogpipe.model import TRANSLATED, UNATTRIBUTED, Attribution, Quality

LISTENER = Attribution(Quality.LISTENER, NGINX)
INFERRED = Attribution(Quality.INFERRED, NGINX)


def test_rechecks_alone_are_due_once_in_an_interval_after_the_last_lookup() -> None:
    queue = RecheckQueue(5.0, now=0.0)
    assert queue.next_due() == math.inf
    assert queue.take(10, now=4.0) == []
    for port in (1, 2):
        queue.add(make_flow(port), exact(NGINX))
    assert queue.next_due() == 9.0
    assert queue.take(1, now=9.0) == [[make_flow(1)]]
    assert queue.next_due() == 9.0  # the rest is due at once
    assert queue.take(1, now=9.5) == [[make_flow(2)]]
    assert (len(queue), queue.next_due()) == (0, math.inf)


@pytest.mark.parametrize("attribution", [LISTENER, UNATTRIBUTED])
def test_flows_of_an_unconnected_endpoint_share_a_question(attribution: Attribution) -> None:
    queue = RecheckQueue(5.0, now=0.0)
    clients = [make_flow(53, protocol=17, remote_port=port) for port in (1, 2, 3)]
    for client in clients:
        queue.add(client, attribution)
    queue.add(make_flow(54, protocol=17), attribution)
    assert queue.take(10, now=5.0) == [clients, [make_flow(54, protocol=17)]]


@pytest.mark.parametrize(
    ("protocol", "attribution"),
    [(6, LISTENER), (17, exact(NGINX)), (17, INFERRED), (17, TRANSLATED), (1, LISTENER)],
)
def test_a_flow_with_a_socket_or_a_rule_of_its_own_is_asked_about_alone(
    protocol: int, attribution: Attribution
) -> None:
    flow = make_flow(53, protocol=protocol)
    assert question_of(flow, attribution) == flow


def test_however_many_flows_are_due_lookups_take_a_share_of_a_core() -> None:
    queue = RecheckQueue(5.0, now=0.0)
    flows = [make_flow(port) for port in range(50_000)]
    for flow in flows:
        queue.add(flow, exact(NGINX))
    cost, spent, asked = 0.0002, 0.0, []
    for second in range(60):
        while questions := queue.take(100, float(second)):
            spent += cost * len(questions)
            asked += [flow for flow, *_ in questions]
            queue.answered(questions, cost * len(questions), float(second))
        assert second < queue.next_due()
    assert asked == flows[: len(asked)]  # the oldest ones first
    burst = rechecks._SHARE * 5
    assert 0.5 * rechecks._SHARE * 60 < spent < rechecks._SHARE * 60 + 2 * burst


def test_flows_that_are_not_known_any_more_are_dropped() -> None:
    queue = RecheckQueue(5.0, now=0.0)
    clients = [make_flow(53, protocol=17, remote_port=port) for port in (1, 2, 3)]
    for client in [*clients, clients[1]]:
        queue.add(client, LISTENER)
    queue.add(make_flow(1), exact(NGINX))
    assert (len(queue), queue.flows) == (2, 5)
    queue.drop_unknown(clients[1:].__contains__)
    assert (len(queue), queue.flows) == (1, 2)
    queue.drop_unknown(clients[2:].__contains__)
    assert queue.take(10, now=5.0) == [clients[2:]]
    assert queue.flows == 0
    queue.add(make_flow(1), exact(NGINX))
    queue.drop_unknown(clients.__contains__)
    assert (len(queue), queue.next_due()) == (0, math.inf)


def test_a_few_questions_at_a_time_are_looked_at_for_flows_to_drop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rechecks, "_DROPPED", 2)
    queue = RecheckQueue(5.0, now=0.0)
    flows = [make_flow(port) for port in range(1, 7)]
    for flow in flows:
        queue.add(flow, exact(NGINX))
    for left in (5, 4, 3):
        queue.drop_unknown(flows[::2].__contains__)
        assert queue.flows == left


def test_comparisons_are_paid_for_by_the_same_budget() -> None:
    queue = RecheckQueue(5.0, now=0.0)
    permitted = sum(queue.permits_comparison(0.0) for _ in range(10_000))
    assert 0 < permitted < 10_000
    queue.add(make_flow(1), exact(NGINX))
    assert queue.take(1, now=0.0) == []
    assert queue.next_due() == 5.0
    assert queue.permits_comparison(5.0)
    assert queue.take(1, now=5.0) == [[make_flow(1)]]


def test_a_lookup_that_took_no_measurable_time_divides_by_nothing() -> None:
    queue = RecheckQueue(5.0, now=0.0)
    for second in range(100):
        queue.add(make_flow(1), exact(NGINX))
        questions = queue.take(10, float(second))
        assert questions == [[make_flow(1)]]
        queue.answered(questions, 0.0, float(second))

"""What follows for one pending flow from what lookups find out."""

import math

import pytest
from msgspec.structs import replace
from support.traffic import NGINX, exact, make_flow

from hogpipe.attribution.resolver import FlowsInSpans, Resolution
from hogpipe.attribution.stage.pending_resolution import Deferred, PendingResolution, Settled
from hogpipe.model import (
    TRANSLATED,
    UNATTRIBUTED,
    Attribution,
    FlowDelta,
    FlowKey,
    Quality,
    ResolverCounts,
    Span,
    User,
)

CURL = replace(NGINX, pid=77, command="curl")
INFERRED = Attribution(Quality.INFERRED, CURL)
ONLY_USER = Attribution(Quality.NONE, None, User(33, "www-data"))
FLOW = make_flow(1)
DEADLINE = 2.0


class MemoryResolver:
    """Infers an owner."""

    def prepare(self) -> None:
        raise NotImplementedError

    def describe(self) -> str:
        raise NotImplementedError

    def describe_reading(self) -> str:
        return "/proc/1/stat"

    def resolve(self, flows: object) -> dict[FlowKey, Resolution]:
        raise NotImplementedError

    def recall(self, flows: FlowsInSpans) -> list[Resolution | None]:
        raise NotImplementedError

    @property
    def has_history(self) -> bool:
        return False

    def infer(self, _flow: FlowKey) -> Attribution:
        return INFERRED

    def infer_sender(self, _flow: FlowKey, _moved: FlowDelta) -> Attribution:
        return UNATTRIBUTED

    def counts(self) -> ResolverCounts:
        raise NotImplementedError

    def close(self) -> None: ...


def moved(size: int, at: int = 0) -> FlowDelta:
    return FlowDelta(transmit_bytes=size, transmit_packets=1, first_ns=at, last_ns=at)


def pending(*deltas: FlowDelta) -> PendingResolution:
    one = PendingResolution(FLOW, deltas[0], since=0.0, hold=DEADLINE)
    for delta in deltas[1:]:
        one.add(delta)
    return one


def conclude(
    one: PendingResolution,
    resolution: Resolution | None,
    now: float = 0.0,
    *,
    is_last: bool = False,
    is_invalidated: bool = False,
) -> Settled | Deferred:
    return one.conclude(
        resolution,
        MemoryResolver(),
        now=now,
        is_last=is_last,
        is_invalidated=is_invalidated,
    )


def sizes(outcome: Settled | Deferred) -> list[tuple[int, Attribution]]:
    assert isinstance(outcome, Settled)
    return [(delta.transmit_bytes, owner) for delta, owner in outcome.attributed]


def test_traffic_is_kept_in_pieces_until_they_are_many() -> None:
    one = pending(FlowDelta(transmit_bytes=1, transmit_packets=1, first_ns=5, last_ns=6))
    assert [*one.ask()] == [Span(5, 7)]
    for at in range(10, 30):
        one.add(moved(1, at))
    assert one.total == FlowDelta(transmit_bytes=21, transmit_packets=21, first_ns=5, last_ns=29)
    outcome = conclude(one, Resolution(UNATTRIBUTED, owners_by_span=(exact(NGINX),)))
    assert isinstance(outcome, Settled)
    assert [piece.span for piece, _owner in outcome.attributed] == [Span(5, 7)]
    assert [piece.transmit_bytes for piece in outcome.not_looked_up] == [1] * 7 + [13]
    assert one.ask()[-1] == Span(17, 30)
    assert len(one.ask()) == 9


def test_a_flow_is_looked_up_as_of_now_where_the_time_of_a_piece_is_unknown() -> None:
    one = pending(moved(1, 5), FlowDelta(transmit_bytes=1, transmit_packets=1))
    assert one.ask() == ()
    by_span = Resolution(UNATTRIBUTED, owners_by_span=())
    assert sizes(conclude(one, by_span)) == [(2, UNATTRIBUTED)]


def test_an_owner_settles_the_flow_with_all_that_came_in_meanwhile() -> None:
    one = pending(moved(1, 5))
    one.ask()
    one.add(moved(10, 6))
    outcome = conclude(one, Resolution(exact(NGINX)), now=0.5)
    assert sizes(outcome) == [(11, exact(NGINX))]
    assert isinstance(outcome, Settled)
    assert (outcome.known, outcome.checked_at) == (exact(NGINX), 0.5)
    assert not outcome.not_looked_up


def test_an_owner_of_an_invalidated_flow_is_for_the_pieces_before_the_lookup_alone() -> None:
    one = pending(moved(1, 5), moved(10, 6))
    one.ask()
    one.add(moved(100, 7))
    outcome = conclude(one, Resolution(exact(NGINX)), is_invalidated=True)
    assert sizes(outcome) == [(11, exact(NGINX))]
    assert isinstance(outcome, Settled)
    assert (outcome.known, [piece.transmit_bytes for piece in outcome.not_looked_up]) == (
        None,
        [100],
    )


def test_a_contested_flow_is_settled_span_by_span_and_not_known_afterwards() -> None:
    one = pending(*(moved(10**at, at) for at in range(4)))
    one.ask()
    owners = (exact(NGINX), exact(NGINX), exact(CURL))
    outcome = conclude(one, Resolution(UNATTRIBUTED, owners_by_span=owners))
    assert sizes(outcome) == [(11, exact(NGINX)), (100, exact(CURL)), (1000, UNATTRIBUTED)]
    assert isinstance(outcome, Settled)
    assert outcome.known is None


@pytest.mark.parametrize("resolution", [None, Resolution(ONLY_USER)])
def test_a_flow_whose_socket_may_exist_is_retried_with_backoff_until_the_deadline(
    resolution: Resolution | None,
) -> None:
    one, now, dues = pending(moved(1)), 0.0, []
    while isinstance(outcome := conclude(one, resolution, now), Deferred):
        now = outcome.due
        dues.append(now)
    assert dues == pytest.approx([0.05, 0.15, 0.35, 0.75, 1.55, 2.0])
    assert sizes(outcome) == [(1, UNATTRIBUTED if resolution is None else ONLY_USER)]


def test_a_flow_without_a_socket_is_deferred_to_the_deadline_and_then_inferred() -> None:
    one = pending(moved(1))
    assert conclude(one, Resolution(UNATTRIBUTED)) == Deferred(2.0)
    assert one.has_no_socket
    outcome = one.give_up([], MemoryResolver(), 2.0)
    assert sizes(outcome) == [(1, INFERRED)]
    assert (outcome.known, outcome.checked_at) == (INFERRED, 2.0)


@pytest.mark.parametrize(("is_final", "is_last"), [(True, False), (False, True)])
def test_a_final_or_last_resolution_is_not_retried(is_final: bool, is_last: bool) -> None:
    resolution = Resolution(UNATTRIBUTED, is_final=is_final)
    outcome = conclude(pending(moved(1)), resolution, is_last=is_last)
    assert sizes(outcome) == [(1, UNATTRIBUTED)]


def test_a_translated_flow_is_settled_whatever_the_endpoint_heuristic_knows() -> None:
    one = pending(moved(1))
    conclude(one, Resolution(UNATTRIBUTED))
    outcome = conclude(one, Resolution(TRANSLATED, is_final=True))
    assert sizes(outcome) == [(1, TRANSLATED)]
    assert isinstance(outcome, Settled)
    assert outcome.known is TRANSLATED


def test_a_flow_that_no_lookup_reached_is_recalled_piece_by_piece() -> None:
    one = pending(moved(1, 5), moved(10, 6), moved(100, 7))
    one.fallback = ONLY_USER
    assert one.spans_to_recall() == [Span(5, 6), Span(6, 7), Span(7, 8)]
    recorded = Resolution(exact(CURL))
    outcome = one.give_up([recorded, recorded, None], MemoryResolver(), 1.0)
    assert sizes(outcome) == [(11, exact(CURL)), (100, ONLY_USER)]
    assert (outcome.known, outcome.checked_at) == (ONLY_USER, -math.inf)


def test_only_syns_are_an_opening() -> None:
    one = PendingResolution(FLOW, replace(moved(60), opened=True), since=0.0, hold=DEADLINE)
    assert one.is_opening
    one.add(FlowDelta(receive_bytes=60, receive_packets=1))
    assert not one.is_opening


BY_LISTENER = Attribution(Quality.LISTENER, NGINX)
PROVISIONAL = Resolution(BY_LISTENER, may_be_refined=True)


def test_a_provisional_owner_is_retried_with_backoff_and_counts_at_the_deadline() -> None:
    one = pending(moved(1))
    dues, now = [], 0.0
    while isinstance(outcome := conclude(one, PROVISIONAL, now), Deferred):
        dues.append(outcome.due)
        now = outcome.due
    assert dues == pytest.approx([0.05, 0.15, 0.35, 0.75, 1.55, DEADLINE])
    assert [owner for _delta, owner in outcome.attributed] == [BY_LISTENER]


def test_a_provisional_owner_counts_at_the_last_lookup() -> None:
    outcome = conclude(pending(moved(1)), PROVISIONAL, is_last=True)
    assert isinstance(outcome, Settled)
    assert outcome.known == BY_LISTENER


def test_the_holder_that_a_retry_finds_replaces_a_provisional_owner() -> None:
    one = pending(moved(1))
    assert isinstance(conclude(one, PROVISIONAL), Deferred)
    outcome = conclude(one, Resolution(exact(CURL)), 0.05)
    assert isinstance(outcome, Settled)
    assert outcome.known == exact(CURL)


def test_a_provisional_owner_counts_where_no_lookup_finds_more() -> None:
    one = pending(moved(1))
    assert isinstance(conclude(one, PROVISIONAL), Deferred)
    settled = one.give_up([None], MemoryResolver(), DEADLINE)
    assert [owner for _delta, owner in settled.attributed] == [BY_LISTENER]

"""How long flows are gathered, by what the look-ups before found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hogpipe.attribution.stage import batching as module
from hogpipe.attribution.stage.batching import AdaptiveInterval, LookupVerdict

COST = 0.001
FACTOR, BOUND, GROWTH = module._SHORTEST, module._SHORT_BOUND, module._GROWTH
IN_VAIN, LONG, LONGEST = module._IN_VAIN, module._LONG, module._LONGEST
OFTEN = module._OFTEN
EARLY, LATE, LATEST = module._EARLY, module._LATE, module._LATEST

look_ups = st.lists(
    st.tuples(st.floats(0, 10), st.integers(0, 10_000), st.floats(0, 1)).map(
        lambda one: (one[0], one[1], int(one[1] * one[2]))
    ),
    max_size=60,
)


def next_pause(
    pace: AdaptiveInterval, cost: float, flows: int, gone: int = 0, **more: int
) -> float:
    return pace.next_pause(cost, LookupVerdict(flows, gone, **more))


def grown(times: int) -> AdaptiveInterval:
    pace = AdaptiveInterval()
    for _ in range(times):
        next_pause(pace, COST, 10, 0)
    return pace


def test_the_pause_grows_while_all_sockets_are_found_up_to_a_bound() -> None:
    pace = AdaptiveInterval()
    pauses = [next_pause(pace, COST, 10, 0) for _ in range(30)]
    assert pauses[:3] == pytest.approx([FACTOR * COST * GROWTH**turn for turn in (1, 2, 3)])
    assert pauses[-1] == LONG
    assert pauses == sorted(pauses)
    assert pace.patience == LATE


def test_when_sockets_are_gone_it_shrinks_to_a_few_times_the_cost_of_a_look_up() -> None:
    pace = grown(30)
    assert next_pause(pace, COST, 10, 1) == pytest.approx(FACTOR * COST)
    assert pace.patience == EARLY
    assert next_pause(pace, 0.0, 10, 5) == 0.0


def test_after_a_dear_look_up_it_shrinks_to_a_bound_all_the_same() -> None:
    assert next_pause(grown(30), 1.0, 10, 5) == BOUND


def test_it_grows_again_to_less_than_where_sockets_were_gone_and_slowly_beyond() -> None:
    pace = grown(30)
    next_pause(pace, COST, 10, 1)
    pauses = [next_pause(pace, COST, 10, 0) for _ in range(100)]
    assert pauses == sorted(pauses)
    assert pauses[9] < 0.9 * LONG
    assert pauses[-1] == LONG


def test_packets_are_needed_early_until_the_pause_is_long_again() -> None:
    pace = grown(30)
    next_pause(pace, COST, 10, 1)
    for _ in range(100):
        long = next_pause(pace, COST, 10, 0) == LONG
        assert long or pace.patience == EARLY
    assert pace.patience == LATE


def test_where_nearly_all_are_gone_nothing_is_gained_by_being_early() -> None:
    pace = grown(30)
    next_pause(pace, COST, 10, 1)
    assert next_pause(pace, COST, 100, 98) == IN_VAIN
    assert pace.patience == LATE


def test_what_was_tried_in_vain_often_enough_is_tried_seldom() -> None:
    pace = AdaptiveInterval()
    assert [next_pause(pace, COST, 100, 99) for _ in range(OFTEN)] == [IN_VAIN] * OFTEN
    assert next_pause(pace, COST, 100, 99) == LONGEST
    assert pace.patience == LATEST
    next_pause(pace, COST, 100, 50)
    assert next_pause(pace, COST, 100, 99) == IN_VAIN


def test_where_later_answers_would_be_the_same_flows_gather_for_long() -> None:
    pace = grown(30)
    pauses = [next_pause(pace, COST, 100, 99, lasting=98) for _ in range(10)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST
    assert pace.patience == LATEST
    assert next_pause(pace, COST, 100, 50, lasting=97) < LONG
    assert pace.patience == EARLY


def test_where_many_ports_pass_on_little_is_gathered_and_else_as_much_as_ever() -> None:
    pace = grown(30)
    assert next_pause(pace, COST, 100, 0, passing=17) == pytest.approx(FACTOR * COST)
    assert pace.patience == EARLY
    assert next_pause(pace, COST, 1000, 0, lasting=1000, passing=17) < LONG
    assert next_pause(pace, COST, 100, 0, passing=16) == pytest.approx(FACTOR * COST * GROWTH)
    assert pace.patience == LATE


def test_where_a_flow_was_several_owners_in_turn_little_is_gathered() -> None:
    pace = grown(30)
    assert next_pause(pace, COST, 100, 0, lasting=100, mixed=1) == pytest.approx(FACTOR * COST)
    assert pace.patience == EARLY


def test_one_late_look_up_does_not_make_the_next_ones_later() -> None:
    pace = grown(5)
    before = next_pause(pace, COST, 10, 1)
    assert next_pause(pace, COST, 10, 10, lasting=10) <= before * GROWTH
    assert pace.patience == LATE


def test_one_socket_in_fifty_may_be_gone() -> None:
    assert next_pause(grown(30), COST, 100, 2) == LONG
    assert next_pause(grown(30), COST, 100, 3) < LONG


def test_a_look_up_for_no_new_flow_changes_nothing() -> None:
    assert next_pause(AdaptiveInterval(), COST, 0, 0) == 0.0
    assert next_pause(grown(30), 1.0, 0, 0) == LONG
    pace = grown(1)
    assert next_pause(pace, 1.0, 0, 0) == pytest.approx(FACTOR * COST * GROWTH)


@given(look_ups)
def test_the_pause_stays_within_its_bounds(script: list[tuple[float, int, int]]) -> None:
    pace = AdaptiveInterval()
    for seconds, flows, gone in script:
        assert 0 <= next_pause(pace, seconds, flows, gone) <= LONGEST


@given(look_ups, st.floats(0, 10), st.integers(100, 10_000))
def test_it_is_short_whenever_some_are_gone(
    script: list[tuple[float, int, int]], seconds: float, flows: int
) -> None:
    pace = AdaptiveInterval()
    for step in script:
        next_pause(pace, *step)
    assert next_pause(pace, seconds, flows, flows // 2) == min(FACTOR * seconds, BOUND)
    assert pace.patience == EARLY

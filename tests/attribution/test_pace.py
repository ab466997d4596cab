"""How long flows are gathered, by what the look-ups before found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hogpipe.attribution import pace as module
from hogpipe.attribution.pace import Pace

COST = 0.001
FACTOR, BOUND, GROWTH = module._SHORTEST, module._SHORT_BOUND, module._GROWTH
LONGEST = module._LONGEST

look_ups = st.lists(
    st.tuples(st.floats(0, 10), st.integers(0, 10_000), st.floats(0, 1)).map(
        lambda one: (one[0], one[1], int(one[1] * one[2]))
    ),
    max_size=60,
)


def grown(times: int) -> Pace:
    pace = Pace()
    for _ in range(times):
        pace.next_pause(COST, 10, 0)
    return pace


def test_the_pause_grows_while_all_sockets_are_found_up_to_a_bound() -> None:
    pace = Pace()
    pauses = [pace.next_pause(COST, 10, 0) for _ in range(30)]
    assert pauses[:3] == pytest.approx([FACTOR * COST * GROWTH**turn for turn in (1, 2, 3)])
    assert pauses[-1] == LONGEST
    assert pauses == sorted(pauses)


def test_the_pause_shrinks_to_a_few_times_the_cost_of_a_look_up_when_sockets_are_gone() -> None:
    pace = grown(30)
    assert pace.next_pause(COST, 10, 1) == pytest.approx(FACTOR * COST)
    assert pace.next_pause(0.0, 10, 10) == 0.0


def test_after_a_dear_look_up_it_shrinks_to_a_bound_all_the_same() -> None:
    assert grown(30).next_pause(1.0, 10, 10) == BOUND


def test_one_socket_in_fifty_may_be_gone() -> None:
    assert grown(30).next_pause(COST, 100, 2) == LONGEST
    assert grown(30).next_pause(COST, 100, 3) < LONGEST


def test_a_look_up_for_no_new_flow_changes_nothing() -> None:
    assert Pace().next_pause(COST, 0, 0) == 0.0
    assert grown(30).next_pause(1.0, 0, 0) == LONGEST
    pace = grown(1)
    assert pace.next_pause(1.0, 0, 0) == pytest.approx(FACTOR * COST * GROWTH)


@given(look_ups)
def test_the_pause_stays_within_its_bounds(script: list[tuple[float, int, int]]) -> None:
    pace = Pace()
    for seconds, flows, gone in script:
        assert 0 <= pace.next_pause(seconds, flows, gone) <= LONGEST


@given(look_ups, st.floats(0, 10), st.integers(1, 10_000))
def test_it_never_shrinks_while_sockets_are_found_nor_grows_while_some_are_gone(
    script: list[tuple[float, int, int]], seconds: float, flows: int
) -> None:
    pace = Pace()
    before = 0.0
    for step in script:
        before = pace.next_pause(*step)
    longer = pace.next_pause(seconds, flows, 0)
    assert longer >= before
    shortest = min(FACTOR * seconds, BOUND)
    assert pace.next_pause(seconds, flows, flows) == shortest

"""Owners and local endpoints as columns."""

from collections.abc import Hashable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support.traffic import NGINX, exact

from hogpipe.flows.lanes import PAUSE_NS, UNOWNED, Endpoints, LaneOwners
from hogpipe.model import UNATTRIBUTED, Attribution, Quality, User

LATE = PAUSE_NS + 1


def number_of(
    endpoints: Endpoints, name: Hashable, last_ns: int, max_pause_ns: int = PAUSE_NS
) -> int:
    return endpoints.number_one(name, last_ns, max_pause_ns)


def test_what_has_no_process_needs_no_watch() -> None:
    owners = LaneOwners()
    of_user = owners.number(Attribution(Quality.NONE, None, User(33)))
    of_process = owners.number(exact(NGINX))
    assert owners.is_watched[[UNOWNED, of_user, of_process]].tolist() == [True, True, False]


def test_a_number_that_is_used_again_is_not_watched_because_its_former_owner_was() -> None:
    owners = LaneOwners()
    number = owners.number(exact(NGINX))
    owners.is_watched[number] = True
    owners.keep(np.array([], np.int64))
    assert owners.number(Attribution(Quality.LISTENER, NGINX)) == number
    assert not owners.is_watched[number]
    assert owners.attribution(UNOWNED) == UNATTRIBUTED


@given(st.lists(st.integers(0, 3), max_size=9))
def test_the_different_numbers_of_a_column_are_found_with_their_places(chosen: list[int]) -> None:
    owners = LaneOwners()
    numbers = np.array([owners.number(exact(replace(NGINX, pid=pid))) for pid in chosen], np.int64)
    distinct, places = owners.find_distinct(numbers)
    assert distinct.tolist() == sorted(set(numbers.tolist()))
    assert distinct[places].tolist() == numbers.tolist()


def test_an_endpoint_that_is_dropped_starts_afresh() -> None:
    endpoints = Endpoints()
    number_of(endpoints, "port 53", 10)
    endpoints.keep(np.array([-1], np.int64))
    assert endpoints.last_ns[number_of(endpoints, "port 80", 5)] == 5


def test_an_endpoint_may_pause_for_as_long_as_each_flow_since_it_was_retired() -> None:
    endpoints = Endpoints()
    for max_pause_ns in (4 * PAUSE_NS, 2 * PAUSE_NS, 3 * PAUSE_NS):
        number = number_of(endpoints, "port 53", 0, max_pause_ns)
    times = np.array([2 * PAUSE_NS, 2 * PAUSE_NS + 1])
    paused = [endpoints.find_paused(np.array([number]), times[[at]])[0] for at in (0, 1)]
    assert paused == [False, True]
    endpoints.retire(number)
    after = number_of(endpoints, "port 53", 0, 4 * PAUSE_NS)
    assert not endpoints.find_paused(np.array([after]), np.array([4 * PAUSE_NS]))[0]


def test_an_endpoint_that_is_retired_has_another_number_from_then_on() -> None:
    endpoints = Endpoints()
    before = number_of(endpoints, "port 53", 10)
    endpoints.retire(before)
    endpoints.retire(before)
    after = number_of(endpoints, "port 53", 20)
    assert endpoints.last_ns[[before, after]].tolist() == [10, 20]
    endpoints.keep(np.array([before, after], np.int64))
    assert number_of(endpoints, "port 53", 30) == after
    endpoints.keep(np.array([after], np.int64))
    assert number_of(endpoints, "port 80", 0) == before


times = st.sampled_from([0, 1, PAUSE_NS, LATE, LATE + 1])


@given(st.lists(st.tuples(st.integers(0, 2), times), max_size=8))
def test_endpoints_pause_as_they_do_one_after_the_other(packets: list[tuple[int, int]]) -> None:
    endpoints = Endpoints()
    numbers = [number_of(endpoints, name, 0) for name in range(3)]
    taken = np.array([numbers[name] for name, _ in packets], np.int64)
    paused = endpoints.find_paused(taken, np.array([at for _, at in packets], np.int64))
    for name in range(3):
        own = [at for other, at in packets if other == name]
        is_paused = min(own, default=0) > PAUSE_NS
        assert paused[taken == numbers[name]].tolist() == [is_paused] * len(own)


numbered = st.tuples(st.integers(0, 3), times, st.sampled_from([PAUSE_NS, 2 * PAUSE_NS]))


@given(st.lists(st.lists(numbered, max_size=5), max_size=5))
def test_endpoints_are_numbered_in_a_column_as_one_by_one(
    columns: list[list[tuple[int, int, int]]],
) -> None:
    in_columns, one_by_one = Endpoints(), Endpoints()
    for column in columns:
        names = [name for name, _, _ in column]
        last_ns = [last for _, last, _ in column]
        max_pause_ns = [most for _, _, most in column]
        numbers = in_columns.number(
            names, np.array(last_ns, np.int64), np.array(max_pause_ns, np.int64)
        )
        assert numbers.tolist() == [number_of(one_by_one, *one) for one in column]
        assert in_columns.last_ns.tolist() == one_by_one.last_ns.tolist()
        at = np.repeat(numbers, 3)
        first_ns = np.tile(np.array([PAUSE_NS, LATE, 2 * LATE]), len(numbers))
        assert (in_columns.find_paused(at, first_ns) == one_by_one.find_paused(at, first_ns)).all()


judged = st.tuples(st.integers(0, 2), times, st.booleans())


@given(st.lists(judged, max_size=8))
def test_packets_of_endpoints_are_judged_together_as_one_after_the_other(
    packets: list[tuple[int, int, bool]],
) -> None:
    together, one_by_one = Endpoints(), Endpoints()
    columns = [
        np.array([number_of(each, name, 0) for name, _, _ in packets], np.int64)
        for each in (together, one_by_one)
    ]
    at_ns = np.array([at for _, at, _ in packets], np.int64)
    is_recorded = np.array([one for _, _, one in packets], np.bool_)
    paused = together.judge(columns[0], at_ns, at_ns + 1, is_recorded)
    for place in range(len(packets)):
        row = slice(place, place + 1)
        alone = one_by_one.judge(columns[1][row], at_ns[row], at_ns[row] + 1, is_recorded[row])
        assert alone == paused[row]
    assert together.last_ns.tolist() == one_by_one.last_ns.tolist()
    after = [[number_of(each, name, 0) for name in range(3)] for each in (together, one_by_one)]
    assert after[0] == after[1]

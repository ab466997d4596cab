import pytest
from hypothesis import given
from hypothesis import strategies as st

from hogpipe.capture.live.ring_budget import RingBudget


def test_an_interface_has_the_whole_and_one_of_many_veths_to_containers_a_quarter() -> None:
    rings = RingBudget(16)
    assert rings.take(1, elsewhere=False, sharers=1) == 16
    assert [rings.take(index, elsewhere=True, sharers=24) for index in range(2, 26)] == [4] * 24


def test_a_veth_to_a_container_has_at_least_one_mebibyte() -> None:
    assert RingBudget(1).take(1, elsewhere=True, sharers=2) == 1


def test_the_only_veth_to_another_namespace_has_the_whole() -> None:
    assert RingBudget(16).take(1, elsewhere=True, sharers=1) == 16


@pytest.mark.parametrize("elsewhere", [False, True])
def test_many_that_are_there_at_once_share_what_there_is(elsewhere: bool) -> None:
    rings = RingBudget(16)
    sizes = [rings.take(index, elsewhere=elsewhere, sharers=128) for index in range(128)]
    assert sizes == [2] + [1] * 127


def test_veths_that_come_one_by_one_get_less_before_nothing_is_left() -> None:
    rings = RingBudget(16)
    sizes = [rings.take(index, elsewhere=True, sharers=index) for index in range(1, 200)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[:24] == [16] + [4] * 23
    assert sum(size > 0 for size in sizes) > 100
    assert sum(sizes) == 256


def test_what_is_given_back_is_there_for_another() -> None:
    rings = RingBudget(1)
    for index in range(16):
        rings.take(index, elsewhere=False, sharers=1)
    assert rings.take(16, elsewhere=False, sharers=1) == 0
    rings.give_back(16)
    rings.give_back(3)
    assert rings.take(16, elsewhere=False, sharers=1) == 1


@given(
    st.integers(1, 64),
    st.lists(st.tuples(st.integers(0, 40), st.booleans(), st.booleans()), max_size=300),
)
def test_all_together_never_have_more_than_sixteen_times_one(
    each: int, steps: list[tuple[int, bool, bool]]
) -> None:
    rings, held = RingBudget(each), {}
    for index, elsewhere, comes in steps:
        if comes and index not in held:
            held[index] = rings.take(index, elsewhere=elsewhere, sharers=len(held) + 1)
            assert held[index] <= rings.most(elsewhere=elsewhere, sharers=len(held))
        elif not comes:
            rings.give_back(index)
            held.pop(index, None)
        assert sum(held.values()) <= 16 * each

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hogpipe.capture.live.ring_budget import RingBudget


def test_an_interface_has_a_full_ring_and_one_of_many_container_veths_a_quarter() -> None:
    rings = RingBudget(16)
    assert rings.allocate(1, container_veth=False, sharers=1) == 16
    assert [rings.allocate(index, container_veth=True, sharers=24) for index in range(2, 26)] == [
        4
    ] * 24


def test_a_container_veth_has_at_least_one_mebibyte() -> None:
    assert RingBudget(1).allocate(1, container_veth=True, sharers=2) == 1


def test_the_only_container_veth_has_a_full_ring() -> None:
    assert RingBudget(16).allocate(1, container_veth=True, sharers=1) == 16


@pytest.mark.parametrize("container_veth", [False, True])
def test_interfaces_opened_together_share_the_budget(container_veth: bool) -> None:
    rings = RingBudget(16)
    sizes = [
        rings.allocate(index, container_veth=container_veth, sharers=128) for index in range(128)
    ]
    assert sizes == [2] + [1] * 127


def test_container_veths_that_come_one_by_one_get_less_before_the_budget_is_spent() -> None:
    rings = RingBudget(16)
    sizes = [rings.allocate(index, container_veth=True, sharers=index) for index in range(1, 200)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[:24] == [16] + [4] * 23
    assert sum(size > 0 for size in sizes) > 100
    assert sum(sizes) == 256


def test_a_released_ring_is_available_to_another_interface() -> None:
    rings = RingBudget(1)
    for index in range(16):
        rings.allocate(index, container_veth=False, sharers=1)
    assert rings.allocate(16, container_veth=False, sharers=1) == 0
    rings.release(16)
    rings.release(3)
    assert rings.allocate(16, container_veth=False, sharers=1) == 1


@given(
    st.integers(1, 64),
    st.lists(st.tuples(st.integers(0, 40), st.booleans(), st.booleans()), max_size=300),
)
def test_all_rings_together_never_exceed_sixteen_full_ones(
    each: int, steps: list[tuple[int, bool, bool]]
) -> None:
    rings, held = RingBudget(each), {}
    for index, container_veth, comes in steps:
        if comes and index not in held:
            held[index] = rings.allocate(
                index, container_veth=container_veth, sharers=len(held) + 1
            )
            assert held[index] <= rings.full_size(container_veth=container_veth, sharers=len(held))
        elif not comes:
            rings.release(index)
            held.pop(index, None)
        assert sum(held.values()) <= 16 * each

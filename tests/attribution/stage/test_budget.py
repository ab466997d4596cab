import pytest
from hypothesis import given
from hypothesis import strategies as st

from hogpipe.attribution.stage.budget import CpuBudget


def test_what_was_not_spent_may_be_spent_at_once() -> None:
    budget = CpuBudget(0.2, now=100.0)
    assert budget.ready_at() <= 100.0
    budget.spend(0.15, 100.0)
    assert budget.ready_at() <= 100.0


def test_who_spends_more_than_there_is_waits_until_it_is_earned() -> None:
    budget = CpuBudget(0.2, now=0.0)
    budget.spend(0.3, 0.0)
    assert budget.ready_at() == pytest.approx(0.5)
    budget.spend(0.1, 0.5)
    assert budget.ready_at() == pytest.approx(1.0)


def test_idle_hours_earn_no_more_than_a_burst() -> None:
    budget = CpuBudget(0.2, now=0.0, burst=1.0)
    budget.spend(0.0, 3600.0)
    budget.spend(0.4, 3600.0)
    assert budget.ready_at() == pytest.approx(3601.0)


@given(
    st.floats(0.01, 1.0),
    st.lists(st.tuples(st.floats(0, 2), st.floats(0, 1)), min_size=1, max_size=50),
)
def test_who_waits_until_ready_never_spends_more_than_the_share_and_one_look(
    share: float, looks: list[tuple[float, float]]
) -> None:
    now = 0.0
    budget = CpuBudget(share, now)
    spent = 0.0
    for idle, cost in looks:
        now = max(now + idle, budget.ready_at())
        assert spent <= share * (now + 1.0) + 1e-6
        budget.spend(cost, now)
        spent += cost

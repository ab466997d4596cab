"""The token bucket of CPU time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hogpipe.attribution.budget import CpuBudget


def test_unspent_credit_may_be_spent_at_once() -> None:
    budget = CpuBudget(0.2, now=100.0)
    assert budget.ready_at() <= 100.0
    budget.spend(0.15, 100.0)
    assert budget.ready_at() <= 100.0


def test_overspending_delays_until_the_credit_is_earned() -> None:
    budget = CpuBudget(0.2, now=0.0)
    budget.spend(0.3, 0.0)
    assert budget.ready_at() == pytest.approx(0.5)
    budget.spend(0.1, 0.5)
    assert budget.ready_at() == pytest.approx(1.0)


def test_an_idle_hour_earns_no_more_than_a_burst() -> None:
    budget = CpuBudget(0.2, now=0.0, burst=1.0)
    budget.spend(0.0, 3600.0)
    budget.spend(0.4, 3600.0)
    assert budget.ready_at() == pytest.approx(3601.0)


@given(
    st.floats(0.01, 1.0),
    st.lists(st.tuples(st.floats(0, 2), st.floats(0, 1)), min_size=1, max_size=50),
)
def test_lookups_that_wait_until_ready_spend_the_share_and_one_lookup_at_the_most(
    share: float, lookups: list[tuple[float, float]]
) -> None:
    now = 0.0
    budget = CpuBudget(share, now)
    spent = 0.0
    for idle, cost in lookups:
        now = max(now + idle, budget.ready_at())
        assert spent <= share * (now + 1.0) + 1e-6
        budget.spend(cost, now)
        spent += cost

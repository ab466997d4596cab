"""How the intervals follow from what lookups found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.traffic import NGINX, exact

from hogpipe.attribution.resolver import Resolution
from hogpipe.attribution.stage import batching as module
from hogpipe.attribution.stage.batching import AdaptiveInterval, LookupPacer, LookupVerdict, judge
from hogpipe.model import UNATTRIBUTED, Attribution, Quality

COST = 0.001
FACTOR, MAX_SHORTEST, GROWTH = module._COST_FACTOR, module._MAX_SHORTEST, module._GROWTH
FREQUENT, MAX_FREQUENT = module._FREQUENT, module._MAX_FREQUENT
LONG, LONGEST, LATE = module._MAX_INTERVAL, module._MAX_FINAL_INTERVAL, module._MAX_LATE_INTERVAL
SHORT_BATCH, BATCH = module._SHORT_BATCH, module._BATCH
FINAL_BATCH, LATE_BATCH = module._FINAL_BATCH, module._LATE_BATCH
SHORTEST = FACTOR * COST

lookups = st.lists(
    st.tuples(st.floats(0, 10), st.integers(0, 10_000), st.floats(0, 1)).map(
        lambda one: (one[0], one[1], int(one[1] * one[2]))
    ),
    max_size=60,
)


def after(interval: AdaptiveInterval, cost: float, flows: int, gone: int = 0, **more: int) -> float:
    return interval.next_interval(cost, LookupVerdict(flows, gone, **more))


def grown(times: int) -> AdaptiveInterval:
    interval = AdaptiveInterval()
    for _ in range(times):
        after(interval, COST, 10)
    return interval


def test_the_interval_grows_up_to_a_bound_while_lookups_are_in_time() -> None:
    interval = AdaptiveInterval()
    found = [after(interval, COST, 10) for _ in range(30)]
    assert found[:3] == pytest.approx([SHORTEST * GROWTH**number for number in (1, 2, 3)])
    assert found[-1] == LONG
    assert found == sorted(found)
    assert interval.batch_interval == BATCH


def test_a_late_lookup_shortens_the_interval_to_a_few_times_its_cost() -> None:
    interval = grown(30)
    assert after(interval, COST, 10, 1) == pytest.approx(SHORTEST)
    assert interval.batch_interval == SHORT_BATCH
    assert after(interval, 0.0, 10, 5) == 0.0


def test_the_shortest_interval_is_bounded_after_an_expensive_lookup() -> None:
    assert after(grown(30), 1.0, 10, 5) == MAX_SHORTEST


def test_the_interval_grows_again_to_less_than_where_sockets_were_gone_and_slowly_beyond() -> None:
    interval = grown(30)
    after(interval, COST, 10, 1)
    found = [after(interval, COST, 10) for _ in range(100)]
    assert found == sorted(found)
    assert found[9] < 0.9 * LONG
    assert found[-1] == LONG


def test_batches_stay_short_until_the_interval_is_long_again() -> None:
    interval = grown(30)
    after(interval, COST, 10, 1)
    for _ in range(100):
        is_long = after(interval, COST, 10) == LONG
        assert is_long or interval.batch_interval == SHORT_BATCH
    assert interval.batch_interval == BATCH


def test_where_nearly_all_sockets_are_gone_haste_gains_nothing() -> None:
    interval = grown(30)
    after(interval, COST, 10, 1)
    assert after(interval, COST, 100, 98) == FREQUENT
    assert interval.batch_interval == BATCH


def test_lookups_become_rare_after_many_that_were_too_late() -> None:
    interval = AdaptiveInterval()
    found = [after(interval, COST, 100, 99) for _ in range(MAX_FREQUENT)]
    assert found == [FREQUENT] * MAX_FREQUENT
    assert after(interval, COST, 100, 99) == LATE
    assert interval.batch_interval == LATE_BATCH
    after(interval, COST, 100, 50)
    assert after(interval, COST, 100, 99) == FREQUENT


def test_where_resolutions_are_final_the_interval_grows_to_the_longest() -> None:
    interval = grown(30)
    found = [after(interval, COST, 100, 99, final=98) for _ in range(12)]
    assert found == sorted(found)
    assert found[-1] == LONGEST
    assert interval.batch_interval == FINAL_BATCH
    assert after(interval, COST, 100, 50, final=97) < LONG
    assert interval.batch_interval == SHORT_BATCH


@pytest.mark.parametrize("final", [3, 50, 97])
def test_where_the_flows_that_are_not_final_are_gone_lookups_stay_frequent_but_not_hasty(
    final: int,
) -> None:
    interval = grown(30)
    for _ in range(MAX_FREQUENT + 2):
        assert after(interval, COST, 100, 100 - final, final_with_socket=final) == FREQUENT
        assert interval.batch_interval == BATCH


def test_haste_gains_something_where_some_flows_that_are_not_final_have_sockets() -> None:
    interval = grown(30)
    assert after(interval, COST, 100, 48, final_with_socket=50) == pytest.approx(SHORTEST)
    assert interval.batch_interval == SHORT_BATCH


def test_a_lookup_is_judged_by_the_sockets_that_it_found_and_by_what_is_final() -> None:
    inferred, listener = (
        Attribution(quality, NGINX) for quality in (Quality.INFERRED, Quality.LISTENER)
    )
    assert judge(
        [
            Resolution(UNATTRIBUTED),
            Resolution(inferred, is_final=True),
            Resolution(listener, is_final=True, may_be_reused=True),
            Resolution(exact(NGINX)),
            Resolution(UNATTRIBUTED, is_final=True, owners_by_span=(exact(NGINX),)),
        ]
    ) == LookupVerdict(flows=5, gone=3, final=3, final_with_socket=1, reusable=1, contested=1)


def test_many_reusable_five_tuples_keep_the_intervals_short() -> None:
    interval = grown(30)
    assert after(interval, COST, 100, reusable=17) == pytest.approx(SHORTEST)
    assert interval.batch_interval == SHORT_BATCH
    assert after(interval, COST, 1000, final=1000, reusable=17) < LONG
    assert after(interval, COST, 100, reusable=16) == pytest.approx(SHORTEST * GROWTH)
    assert interval.batch_interval == BATCH


def test_one_contested_flow_keeps_the_intervals_short() -> None:
    interval = grown(30)
    assert after(interval, COST, 100, final=100, contested=1) == pytest.approx(SHORTEST)
    assert interval.batch_interval == SHORT_BATCH


def test_one_lookup_with_final_resolutions_lengthens_the_interval_by_one_step() -> None:
    interval = grown(5)
    before = after(interval, COST, 10, 1)
    assert after(interval, COST, 10, 10, final=10) <= before * GROWTH
    assert interval.batch_interval == BATCH


def test_one_socket_in_fifty_may_be_gone() -> None:
    assert after(grown(30), COST, 100, 2) == LONG
    assert after(grown(30), COST, 100, 3) < LONG


def test_a_lookup_without_a_new_flow_changes_nothing() -> None:
    assert after(AdaptiveInterval(), COST, 0) == 0.0
    assert after(grown(30), 1.0, 0) == LONG
    interval = grown(1)
    assert after(interval, 1.0, 0) == pytest.approx(SHORTEST * GROWTH)


@given(lookups)
def test_the_interval_stays_within_its_bounds(script: list[tuple[float, int, int]]) -> None:
    interval = AdaptiveInterval()
    for seconds, flows, gone in script:
        assert 0 <= after(interval, seconds, flows, gone) <= LONGEST


@given(lookups, st.floats(0, 10), st.integers(100, 10_000))
def test_the_intervals_are_short_whenever_some_sockets_are_gone(
    script: list[tuple[float, int, int]], seconds: float, flows: int
) -> None:
    interval = AdaptiveInterval()
    for step in script:
        after(interval, *step)
    shortest = min(FACTOR * seconds, MAX_SHORTEST)
    assert after(interval, seconds, flows, flows // 2) == shortest
    assert interval.batch_interval == SHORT_BATCH


def test_the_pacer_waits_for_the_interval_and_for_the_budget() -> None:
    reported: list[float] = []
    pacer = LookupPacer(0.5, 10.0, reported.append)
    assert pacer.ready_at() <= 10.0
    pacer.lookup_ended(COST, LookupVerdict(10), 11.0)
    assert pacer.ready_at() == pytest.approx(11.0 + SHORTEST * GROWTH)
    assert reported == [BATCH]
    pacer.lookup_ended(2.0, LookupVerdict(10, gone=5), 11.1)
    assert pacer.ready_at() == pytest.approx(11.1 + (2.0 - 0.5) / 0.5)
    assert reported == [BATCH, SHORT_BATCH]
    pacer.lookup_ended(COST, LookupVerdict(0), 12.0)
    assert reported == [BATCH, SHORT_BATCH]

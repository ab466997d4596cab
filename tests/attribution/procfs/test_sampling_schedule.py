"""When endpoints are looked at whose flows go unseen."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hogpipe.attribution.procfs import endpoint_heuristic as module
from hogpipe.attribution.procfs.endpoint_heuristic import Endpoint, SamplingSchedule

PAUSE, LONG_PAUSE = module._SHORT_INTERVAL, module._LONG_INTERVAL
OFTEN, SHARE = module._SHORT_INTERVALS, module._CPU_SHARE
MOST_AT_ONCE, MEMORY = module._MAX_SAMPLED_AT_ONCE, module._MISS_MAX_AGE
ROUNDED = 0.0011  # `looks` goes by steps of a millisecond


def endpoint(port: int) -> Endpoint:
    return 6, b"\x0a\0\0\x02", port


ONE, OTHER = endpoint(443), endpoint(80)


def nothing_is_settled(_endpoint: Endpoint) -> bool:
    return False


def note(sampling: SamplingSchedule, *endpoints: Endpoint, now: float, flows: int = 2) -> None:
    for one in endpoints:
        for _ in range(flows):
            sampling.record_miss(one, now)


def looks(
    sampling: SamplingSchedule,
    *,
    until: float,
    start: float = 0.0,
    is_conclusive: Callable[[Endpoint], bool] = nothing_is_settled,
) -> list[float]:
    """Let two flows to one endpoint go unseen each millisecond; return when it is looked at."""
    times = []
    for step in range(round((until - start) * 1000)):
        now = start + step / 1000
        note(sampling, ONE, now=now)
        if sampling.take_due(now, is_conclusive):
            times.append(now)
    return times


def test_two_misses_make_an_endpoint_due() -> None:
    sampling = SamplingSchedule()
    sampling.record_miss(ONE, 0.0)
    sampling.record_miss(OTHER, 0.0)
    assert list(sampling.take_due(0.0, nothing_is_settled)) == []
    sampling.record_miss(ONE, 0.1)
    assert list(sampling.take_due(0.1, nothing_is_settled)) == [ONE]


def test_an_endpoint_without_misses_since_its_last_sample_is_not_due() -> None:
    sampling = SamplingSchedule()
    note(sampling, ONE, now=0.0)
    assert list(sampling.take_due(0.0, nothing_is_settled)) == [ONE]
    assert list(sampling.take_due(0.1, nothing_is_settled)) == []
    sampling.record_miss(ONE, 0.2)
    assert list(sampling.take_due(0.2, nothing_is_settled)) == []  # one flow has no siblings
    sampling.record_miss(ONE, 0.3)
    assert list(sampling.take_due(0.3, nothing_is_settled)) == [ONE]


def test_intervals_are_short_for_a_while_and_long_after_that() -> None:
    times = looks(SamplingSchedule(), until=OFTEN * (PAUSE + 0.001) + 6 * LONG_PAUSE)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses[: OFTEN - 1] == pytest.approx([PAUSE] * (OFTEN - 1), abs=ROUNDED)
    # The first of the seldom looks comes when all others do that are seldom, too.
    assert pauses[OFTEN - 1] + pauses[OFTEN] <= 2 * LONG_PAUSE
    seldom = pauses[OFTEN + 1 :]
    assert seldom == pytest.approx([LONG_PAUSE] * len(seldom), abs=ROUNDED)
    assert len(seldom) > 3


def test_intervals_are_long_if_the_evidence_is_conclusive() -> None:
    times = looks(SamplingSchedule(), until=5.5 * LONG_PAUSE, is_conclusive=lambda one: one == ONE)
    assert times == pytest.approx([turn * LONG_PAUSE for turn in range(6)], abs=6 * ROUNDED)


def test_endpoints_with_long_intervals_are_sampled_together() -> None:
    sampling = SamplingSchedule()
    taken: list[set[Endpoint]] = []
    for step in range(60):
        now = step * LONG_PAUSE / 20
        note(sampling, ONE, *([OTHER] if step > 7 else []), now=now)
        due = set(sampling.take_due(now, lambda _one: True))
        if due:
            taken.append(due)
    assert taken == [{ONE}, {OTHER}, {ONE, OTHER}, {ONE, OTHER}]


def test_intervals_are_short_again_when_the_evidence_is_no_longer_conclusive() -> None:
    sampling = SamplingSchedule()
    assert len(looks(sampling, until=2 * LONG_PAUSE, is_conclusive=lambda _one: True)) == 2
    turns = looks(sampling, start=2 * LONG_PAUSE, until=2 * LONG_PAUSE + 50 * (PAUSE + 0.001))
    assert len(turns) >= 50


def test_an_endpoint_with_conclusive_evidence_does_not_delay_others() -> None:
    sampling = SamplingSchedule()
    taken: list[Endpoint] = []
    for step in range(20):
        now = step * PAUSE * 1.01
        note(sampling, ONE, OTHER, now=now)
        taken += sampling.take_due(now, lambda one: one == ONE)
    assert taken.count(ONE) == 1
    assert taken.count(OTHER) == 20


def test_an_expensive_sample_delays_the_next_one() -> None:
    sampling = SamplingSchedule()
    note(sampling, ONE, OTHER, now=1.0)
    assert sampling.take_due(1.0, nothing_is_settled)
    sampling.record_cost(0.1 * SHARE, 1.0)
    note(sampling, ONE, OTHER, now=1.099)
    assert list(sampling.take_due(1.099, nothing_is_settled)) == []
    assert set(sampling.take_due(1.101, nothing_is_settled)) == {ONE, OTHER}
    sampling.record_cost(0.0, 1.101)
    note(sampling, endpoint(1), now=1.101)
    assert list(sampling.take_due(1.101 + 0.9 * PAUSE, nothing_is_settled)) == []
    assert list(sampling.take_due(1.101 + 1.1 * PAUSE, nothing_is_settled)) == [endpoint(1)]


def test_endpoints_in_one_sample_are_bounded_and_the_latest_misses_come_first() -> None:
    sampling = SamplingSchedule()
    many = [endpoint(port) for port in range(1, MOST_AT_ONCE + 37)]
    note(sampling, *many, now=0.0)
    assert list(sampling.take_due(0.0, nothing_is_settled)) == many[: -MOST_AT_ONCE - 1 : -1]
    assert list(sampling.take_due(0.5 * PAUSE, nothing_is_settled)) == many[35::-1]


def test_an_endpoint_without_a_recent_miss_is_not_due() -> None:
    sampling = SamplingSchedule()
    note(sampling, ONE, now=0.0)
    note(sampling, OTHER, now=0.6 * LONG_PAUSE)
    assert list(sampling.take_due(1.2 * LONG_PAUSE, nothing_is_settled)) == [OTHER]


def test_an_endpoint_without_misses_expires() -> None:
    sampling = SamplingSchedule()
    end = OFTEN * (PAUSE + 0.001) + LONG_PAUSE
    looks(sampling, until=end)  # so many that it is looked at now and then
    sampling.take_due(end + MEMORY, nothing_is_settled)
    later = looks(sampling, start=end + MEMORY, until=end + MEMORY + 20 * (PAUSE + 0.001))
    assert len(later) >= 20


def test_the_number_of_targets_is_bounded_and_the_oldest_miss_is_evicted() -> None:
    sampling = SamplingSchedule(max_endpoints=2)
    note(sampling, ONE, now=0.0)
    note(sampling, endpoint(1), ONE, endpoint(2), now=0.0)
    assert set(sampling.take_due(0.0, nothing_is_settled)) == {ONE, endpoint(2)}


def test_a_new_miss_makes_an_old_endpoint_due() -> None:
    sampling = SamplingSchedule()
    note(sampling, ONE, OTHER, now=0.0)
    note(sampling, ONE, now=2 * LONG_PAUSE)
    assert list(sampling.take_due(2 * LONG_PAUSE, nothing_is_settled)) == [ONE]


steps = st.lists(
    st.tuples(
        st.floats(0, 0.2),  # seconds that pass
        st.lists(st.integers(1, 80), max_size=30),  # ports that flows go unseen to
        st.floats(0, 0.05),  # what a sample costs
        st.sets(st.integers(1, 80)),  # ports that are settled
    ),
    max_size=60,
)


@settings(deadline=None)
@given(steps)
def test_samples_never_exceed_their_share_of_cpu(
    script: list[tuple[float, list[int], float, set[int]]],
) -> None:
    sampling = SamplingSchedule()
    now = 0.0
    samples: list[tuple[float, float]] = []
    for seconds, ports, cost, settled in script:
        now += seconds
        for port in ports:
            sampling.record_miss(endpoint(port), now)
        due = sampling.take_due(now, lambda one, settled=settled: one[2] in settled)
        assert len(due) == len(set(due)) <= MOST_AT_ONCE
        if due:
            samples.append((now, cost))
            sampling.record_cost(cost, now)
    for (earlier, cost), (later, _cost) in pairwise(samples):
        assert later - earlier >= PAUSE - 1e-9
        assert cost <= SHARE * (later - earlier) + 1e-9


@settings(deadline=None)
@given(steps)
def test_each_sample_of_an_endpoint_follows_two_misses_and_an_interval(
    script: list[tuple[float, list[int], float, set[int]]],
) -> None:
    sampling = SamplingSchedule()
    now = 0.0
    unseen = dict.fromkeys(range(1, 81), 0)
    rested = dict.fromkeys(range(1, 81), 0.0)
    for seconds, ports, _cost, settled in script:
        now += seconds
        for port in ports:
            sampling.record_miss(endpoint(port), now)
            unseen[port] += 1
        for _protocol, _address, port in sampling.take_due(
            now, lambda one, settled=settled: one[2] in settled
        ):
            assert unseen[port] >= 2
            assert now >= rested[port]
            unseen[port] = 0
            next_of_all = (now // LONG_PAUSE + 1) * LONG_PAUSE
            rested[port] = next_of_all - 1e-9 if port in settled else now + PAUSE

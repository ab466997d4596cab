"""When endpoints of flows without a socket are sampled."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hogpipe.attribution.procfs import endpoint_heuristic as module
from hogpipe.attribution.procfs.endpoint_heuristic import Endpoint, SamplingSchedule

PAUSE, LONG_PAUSE = module._SHORT_INTERVAL, module._LONG_INTERVAL
SHORT_INTERVALS, SHARE = module._SHORT_INTERVALS, module._CPU_SHARE
MAX_AT_ONCE, MISS_MAX_AGE = module._MAX_SAMPLED_AT_ONCE, module._MISS_MAX_AGE
ROUNDED = 0.0011  # `sample_times` has steps of a millisecond


def endpoint(port: int) -> Endpoint:
    return 6, b"\x0a\0\0\x02", port


ONE, OTHER = endpoint(443), endpoint(80)


def nothing_is_conclusive(_endpoint: Endpoint) -> bool:
    return False


def record_misses(
    sampling: SamplingSchedule, *endpoints: Endpoint, now: float, flows: int = 2
) -> None:
    for one in endpoints:
        for _ in range(flows):
            sampling.record_miss(one, now)


def sample_times(
    sampling: SamplingSchedule,
    *,
    until: float,
    start: float = 0.0,
    is_conclusive: Callable[[Endpoint], bool] = nothing_is_conclusive,
) -> list[float]:
    """Record two misses of one endpoint each millisecond; return the times of its samples."""
    times = []
    for step in range(round((until - start) * 1000)):
        now = start + step / 1000
        record_misses(sampling, ONE, now=now)
        if sampling.take_due(now, is_conclusive):
            times.append(now)
    return times


def test_two_misses_make_an_endpoint_due() -> None:
    sampling = SamplingSchedule()
    sampling.record_miss(ONE, 0.0)
    sampling.record_miss(OTHER, 0.0)
    assert list(sampling.take_due(0.0, nothing_is_conclusive)) == []
    sampling.record_miss(ONE, 0.1)
    assert list(sampling.take_due(0.1, nothing_is_conclusive)) == [ONE]


def test_two_misses_that_are_far_apart_do_not() -> None:
    sampling = SamplingSchedule()
    sampling.record_miss(ONE, 0.0)
    sampling.record_miss(ONE, MISS_MAX_AGE + 1.0)
    assert list(sampling.take_due(MISS_MAX_AGE + 1.0, nothing_is_conclusive)) == []
    sampling.record_miss(ONE, MISS_MAX_AGE + 1.1)
    assert list(sampling.take_due(MISS_MAX_AGE + 1.1, nothing_is_conclusive)) == [ONE]


def test_a_flood_of_endpoints_with_one_miss_each_displaces_no_target() -> None:
    sampling = SamplingSchedule(max_endpoints=64)
    record_misses(sampling, ONE, now=0.0)
    for port in range(1000, 3000):
        sampling.record_miss(endpoint(port), 0.0)
    assert list(sampling.take_due(0.0, nothing_is_conclusive)) == [ONE]
    assert sampling.candidates(0.1) == [ONE]


def test_an_endpoint_without_misses_since_its_last_sample_is_not_due() -> None:
    sampling = SamplingSchedule()
    record_misses(sampling, ONE, now=0.0)
    assert list(sampling.take_due(0.0, nothing_is_conclusive)) == [ONE]
    assert list(sampling.take_due(0.1, nothing_is_conclusive)) == []
    sampling.record_miss(ONE, 0.2)
    assert list(sampling.take_due(0.2, nothing_is_conclusive)) == []  # a single flow is not enough
    sampling.record_miss(ONE, 0.3)
    assert list(sampling.take_due(0.3, nothing_is_conclusive)) == [ONE]


def test_intervals_are_short_for_a_while_and_long_after_that() -> None:
    times = sample_times(
        SamplingSchedule(), until=SHORT_INTERVALS * (PAUSE + 0.001) + 6 * LONG_PAUSE
    )
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses[: SHORT_INTERVALS - 1] == pytest.approx(
        [PAUSE] * (SHORT_INTERVALS - 1), abs=ROUNDED
    )
    # The first long interval ends together with those of other endpoints.
    assert pauses[SHORT_INTERVALS - 1] + pauses[SHORT_INTERVALS] <= 2 * LONG_PAUSE
    long_pauses = pauses[SHORT_INTERVALS + 1 :]
    assert long_pauses == pytest.approx([LONG_PAUSE] * len(long_pauses), abs=ROUNDED)
    assert len(long_pauses) > 3


def test_intervals_are_long_if_the_evidence_is_conclusive() -> None:
    times = sample_times(
        SamplingSchedule(), until=5.5 * LONG_PAUSE, is_conclusive=lambda one: one == ONE
    )
    assert times == pytest.approx([turn * LONG_PAUSE for turn in range(6)], abs=6 * ROUNDED)


def test_endpoints_with_long_intervals_are_sampled_together() -> None:
    sampling = SamplingSchedule()
    taken: list[set[Endpoint]] = []
    for step in range(60):
        now = step * LONG_PAUSE / 20
        record_misses(sampling, ONE, *([OTHER] if step > 7 else []), now=now)
        due = set(sampling.take_due(now, lambda _one: True))
        if due:
            taken.append(due)
    assert taken == [{ONE}, {OTHER}, {ONE, OTHER}, {ONE, OTHER}]


def test_intervals_are_short_again_when_the_evidence_is_no_longer_conclusive() -> None:
    sampling = SamplingSchedule()
    assert len(sample_times(sampling, until=2 * LONG_PAUSE, is_conclusive=lambda _one: True)) == 2
    turns = sample_times(
        sampling, start=2 * LONG_PAUSE, until=2 * LONG_PAUSE + 50 * (PAUSE + 0.001)
    )
    assert len(turns) >= 50


def test_an_endpoint_with_conclusive_evidence_does_not_delay_others() -> None:
    sampling = SamplingSchedule()
    taken: list[Endpoint] = []
    for step in range(20):
        now = step * PAUSE * 1.01
        record_misses(sampling, ONE, OTHER, now=now)
        taken += sampling.take_due(now, lambda one: one == ONE)
    assert taken.count(ONE) == 1
    assert taken.count(OTHER) == 20


def test_an_expensive_sample_delays_the_next_one() -> None:
    sampling = SamplingSchedule()
    record_misses(sampling, ONE, OTHER, now=1.0)
    assert sampling.take_due(1.0, nothing_is_conclusive)
    sampling.record_cost(0.1 * SHARE, 1.0)
    record_misses(sampling, ONE, OTHER, now=1.099)
    assert list(sampling.take_due(1.099, nothing_is_conclusive)) == []
    assert set(sampling.take_due(1.101, nothing_is_conclusive)) == {ONE, OTHER}
    sampling.record_cost(0.0, 1.101)
    record_misses(sampling, endpoint(1), now=1.101)
    assert list(sampling.take_due(1.101 + 0.9 * PAUSE, nothing_is_conclusive)) == []
    assert list(sampling.take_due(1.101 + 1.1 * PAUSE, nothing_is_conclusive)) == [endpoint(1)]


def test_endpoints_in_one_sample_are_bounded_and_the_latest_misses_come_first() -> None:
    sampling = SamplingSchedule()
    many = [endpoint(port) for port in range(1, MAX_AT_ONCE + 37)]
    record_misses(sampling, *many, now=0.0)
    assert list(sampling.take_due(0.0, nothing_is_conclusive)) == many[: -MAX_AT_ONCE - 1 : -1]
    assert list(sampling.take_due(0.5 * PAUSE, nothing_is_conclusive)) == many[35::-1]


def test_an_endpoint_without_a_recent_miss_is_not_due() -> None:
    sampling = SamplingSchedule()
    record_misses(sampling, ONE, now=0.0)
    record_misses(sampling, OTHER, now=0.6 * LONG_PAUSE)
    assert list(sampling.take_due(1.2 * LONG_PAUSE, nothing_is_conclusive)) == [OTHER]


def test_an_endpoint_without_misses_expires() -> None:
    sampling = SamplingSchedule()
    end = SHORT_INTERVALS * (PAUSE + 0.001) + LONG_PAUSE
    sample_times(sampling, until=end)  # enough samples for long intervals
    sampling.take_due(end + MISS_MAX_AGE, nothing_is_conclusive)
    later = sample_times(
        sampling, start=end + MISS_MAX_AGE, until=end + MISS_MAX_AGE + 20 * (PAUSE + 0.001)
    )
    assert len(later) >= 20


def test_the_number_of_targets_is_bounded_and_the_oldest_miss_is_evicted() -> None:
    sampling = SamplingSchedule(max_endpoints=2)
    record_misses(sampling, ONE, now=0.0)
    record_misses(sampling, endpoint(1), ONE, endpoint(2), now=0.0)
    assert set(sampling.take_due(0.0, nothing_is_conclusive)) == {ONE, endpoint(2)}


def test_a_new_miss_makes_an_old_endpoint_due() -> None:
    sampling = SamplingSchedule()
    record_misses(sampling, ONE, OTHER, now=0.0)
    record_misses(sampling, ONE, now=2 * LONG_PAUSE)
    assert list(sampling.take_due(2 * LONG_PAUSE, nothing_is_conclusive)) == [ONE]


steps = st.lists(
    st.tuples(
        st.floats(0, 0.2),  # seconds since the last step
        st.lists(st.integers(1, 80), max_size=30),  # ports with misses
        st.floats(0, 0.05),  # cost of a sample
        st.sets(st.integers(1, 80)),  # ports with conclusive evidence
    ),
    max_size=60,
)


@given(steps)
def test_samples_never_exceed_their_share_of_cpu(
    script: list[tuple[float, list[int], float, set[int]]],
) -> None:
    sampling = SamplingSchedule()
    now = 0.0
    samples: list[tuple[float, float]] = []
    for seconds, ports, cost, conclusive in script:
        now += seconds
        for port in ports:
            sampling.record_miss(endpoint(port), now)
        due = sampling.take_due(now, lambda one, conclusive=conclusive: one[2] in conclusive)
        assert len(due) == len(set(due)) <= MAX_AT_ONCE
        if due:
            samples.append((now, cost))
            sampling.record_cost(cost, now)
    for (earlier, cost), (later, _cost) in pairwise(samples):
        assert later - earlier >= PAUSE - 1e-9
        assert cost <= SHARE * (later - earlier) + 1e-9


@given(steps)
def test_each_sample_of_an_endpoint_follows_two_misses_and_an_interval(
    script: list[tuple[float, list[int], float, set[int]]],
) -> None:
    sampling = SamplingSchedule()
    now = 0.0
    misses = dict.fromkeys(range(1, 81), 0)
    due_at = dict.fromkeys(range(1, 81), 0.0)
    for seconds, ports, _cost, conclusive in script:
        now += seconds
        for port in ports:
            sampling.record_miss(endpoint(port), now)
            misses[port] += 1
        for _protocol, _address, port in sampling.take_due(
            now, lambda one, conclusive=conclusive: one[2] in conclusive
        ):
            assert misses[port] >= 2
            assert now >= due_at[port]
            misses[port] = 0
            next_common_end = (now // LONG_PAUSE + 1) * LONG_PAUSE
            due_at[port] = next_common_end - 1e-9 if port in conclusive else now + PAUSE

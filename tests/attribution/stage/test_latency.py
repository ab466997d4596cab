"""The median and the longest of the times that flows are pending."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hogpipe.attribution.stage.latency import LatencyMeter
from hogpipe.model import Latency


def measure(*times: float) -> Latency | None:
    meter = LatencyMeter()
    for seconds in times:
        meter.add(seconds)
    return meter.drain()


def test_without_times_there_is_no_latency() -> None:
    assert measure() is None


def test_a_time_is_reported_once() -> None:
    meter = LatencyMeter()
    meter.add(5.0)
    meter.drain()
    meter.add(0.5)
    assert meter.drain() == Latency(0.5, 0.5)
    assert meter.drain() is None


def test_one_slow_lookup_moves_the_longest_and_not_the_median() -> None:
    found = measure(0.01, 0.01, 0.01, 9.0)
    assert found is not None
    assert found.median == pytest.approx(0.01, rel=0.1)
    assert found.longest == 9.0


def test_zero_is_a_time() -> None:
    assert measure(0.0) == Latency(0.0, 0.0)


@given(st.lists(st.floats(1e-6, 1e5), min_size=1))
def test_the_median_is_right_to_a_tenth(times: list[float]) -> None:
    found = measure(*times)
    assert found is not None
    middle = sorted(times)[(len(times) - 1) // 2]
    assert found.median == pytest.approx(middle, rel=0.1)
    assert found.median <= found.longest == max(times)


@given(st.lists(st.floats(0, 1e9), max_size=500))
def test_memory_does_not_grow_with_the_number_of_times(times: list[float]) -> None:
    meter = LatencyMeter()
    for seconds in times:
        meter.add(seconds)
    assert len(meter._classes) < 8 * 51

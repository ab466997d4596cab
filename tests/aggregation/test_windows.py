from hypothesis import given
from hypothesis import strategies as st

from hogpipe.aggregation.windows import ClockWindows, PacketWindows
from hogpipe.model import Span

SECOND = 1_000_000_000


def test_windows_of_the_clock_end_at_multiples_of_the_interval() -> None:
    windows = ClockWindows(SECOND, 100 * SECOND + 400)
    assert windows.delay(100 * SECOND + 400) == (SECOND - 400) / SECOND
    assert windows.close(101 * SECOND + 7) == Span(100 * SECOND + 400, 101 * SECOND)
    assert windows.close(102 * SECOND + 7) == Span(101 * SECOND, 102 * SECOND)


def test_a_timer_that_fires_early_gets_the_remaining_delay() -> None:
    windows = ClockWindows(SECOND, 100 * SECOND)
    assert windows.delay(101 * SECOND - 1_000_000) == 0.001
    assert windows.delay(101 * SECOND) == 0


def test_a_late_timer_makes_one_longer_window() -> None:
    windows = ClockWindows(SECOND, 100 * SECOND)
    assert windows.close(103 * SECOND + 5) == Span(100 * SECOND, 103 * SECOND)


def test_another_interval_holds_for_the_open_window_too() -> None:
    windows = ClockWindows(60 * SECOND, 100 * SECOND)
    assert windows.close(101 * SECOND + 5, last=True) == Span(100 * SECOND, 101 * SECOND + 5)
    windows.set_interval(2 * SECOND)
    assert windows.delay(101 * SECOND + 5) == (SECOND - 5) / SECOND
    assert windows.close(102 * SECOND + 7) == Span(101 * SECOND + 5, 102 * SECOND)


def test_the_last_window_ends_now() -> None:
    windows = ClockWindows(SECOND, 100 * SECOND)
    assert windows.close(100 * SECOND + 5, last=True) == Span(100 * SECOND, 100 * SECOND + 5)


def test_a_clock_that_is_set_back_gives_an_empty_window_and_then_goes_on() -> None:
    windows = ClockWindows(SECOND, 100 * SECOND)
    assert windows.delay(50 * SECOND + 3) == 0
    assert windows.close(50 * SECOND + 3) == Span(50 * SECOND + 3, 50 * SECOND + 3)
    assert windows.close(51 * SECOND) == Span(50 * SECOND + 3, 51 * SECOND)


def test_a_clock_that_is_set_back_within_a_window_keeps_its_boundaries() -> None:
    windows = ClockWindows(SECOND, 100 * SECOND + 500)
    assert windows.delay(100 * SECOND + 300) == 0
    assert windows.close(100 * SECOND + 300) == Span(100 * SECOND + 300, 100 * SECOND + 300)
    assert windows.delay(100 * SECOND + 300) == (SECOND - 300) / SECOND
    assert windows.close(101 * SECOND) == Span(100 * SECOND + 300, 101 * SECOND)


def test_a_clock_that_is_set_forward_ends_the_window_at_the_last_boundary() -> None:
    windows = ClockWindows(SECOND, 100 * SECOND)
    assert windows.delay(5000 * SECOND + 7) == 0
    assert windows.close(5000 * SECOND + 7) == Span(100 * SECOND, 5000 * SECOND)
    assert windows.delay(5000 * SECOND + 7) == (SECOND - 7) / SECOND


def test_a_first_window_may_be_short_and_the_next_ends_at_its_boundary() -> None:
    windows = ClockWindows(SECOND, 100 * SECOND, first_ns=SECOND // 10)
    assert windows.delay(100 * SECOND) == 0.1
    assert windows.close(100 * SECOND + SECOND // 10) == Span(
        100 * SECOND, 100 * SECOND + SECOND // 10
    )
    assert windows.delay(100 * SECOND + SECOND // 10) == 0.9
    assert windows.close(101 * SECOND + 5) == Span(100 * SECOND + SECOND // 10, 101 * SECOND)
    assert windows.delay(101 * SECOND + 5) == (SECOND - 5) / SECOND


def test_a_first_window_near_its_boundary_ends_there() -> None:
    start = 100 * SECOND + 4 * SECOND // 5
    windows = ClockWindows(SECOND, start, first_ns=SECOND // 10)
    assert windows.delay(start) == 0.2
    assert windows.close(101 * SECOND) == Span(start, 101 * SECOND)


def test_a_first_window_that_begins_just_before_a_boundary_passes_it() -> None:
    start = 101 * SECOND - SECOND // 100
    windows = ClockWindows(SECOND, start, first_ns=SECOND // 10)
    assert windows.delay(start) == 0.1
    end = start + SECOND // 10
    assert windows.close(end) == Span(start, end)
    assert windows.delay(end) == 0.91
    assert windows.close(102 * SECOND) == Span(end, 102 * SECOND)


@given(st.integers(0, SECOND - 1), st.integers(0, 3 * SECOND))
def test_a_first_window_is_not_tiny_and_later_ones_end_at_boundaries(start: int, late: int) -> None:
    first = SECOND // 10
    windows = ClockWindows(SECOND, start, first_ns=first)
    end = start + round(windows.delay(start) * SECOND)
    assert first <= end - start <= 2 * first
    span = windows.close(end + late)
    assert span.start_ns == start
    assert first <= span.end_ns - start <= 2 * first + late
    following = span.end_ns + round(windows.delay(span.end_ns) * SECOND)
    assert following % SECOND == 0
    assert windows.close(following) == Span(span.end_ns, following)


def test_a_first_window_whose_timer_is_late_ends_at_the_boundary() -> None:
    windows = ClockWindows(SECOND, 100 * SECOND, first_ns=SECOND // 10)
    assert windows.delay(101 * SECOND + 3) == 0
    assert windows.close(101 * SECOND + 3) == Span(100 * SECOND, 101 * SECOND)


def test_a_clock_set_back_in_a_first_window_ends_it() -> None:
    windows = ClockWindows(SECOND, 100 * SECOND, first_ns=SECOND // 10)
    assert windows.delay(50 * SECOND) == 0
    assert windows.close(50 * SECOND) == Span(50 * SECOND, 50 * SECOND)
    assert windows.delay(50 * SECOND) == 1


@given(st.lists(st.integers(0, 10**6), min_size=1), st.integers(1, 1000))
def test_windows_of_the_clock_never_end_before_they_start(times: list[int], interval: int) -> None:
    windows = ClockWindows(interval, times[0])
    for now in times:
        assert 0 <= windows.delay(now) * SECOND <= interval + 1
        span = windows.close(now)
        assert span.start_ns <= span.end_ns


def test_windows_of_packets_begin_at_multiples_and_skip_times_without_packets() -> None:
    windows = PacketWindows(10)
    assert windows.advance(23) is None
    assert windows.advance(29) is None
    assert windows.advance(95) == Span(20, 30)
    assert windows.close() == Span(90, 100)


def test_a_replay_without_packets_has_no_window() -> None:
    assert PacketWindows(10).close() is None


def test_a_packet_from_before_the_window_stays_in_it() -> None:
    windows = PacketWindows(10)
    windows.advance(25)
    assert windows.advance(11) is None
    assert windows.close() == Span(20, 30)

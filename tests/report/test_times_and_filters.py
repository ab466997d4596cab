"""Points in time, steps and selectors, as people write them."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hogpipe.report.filters import parse_filters
from hogpipe.report.times import choose_step, parse_time

NOW = datetime(2026, 11, 22, 15, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-11-20", "2026-11-20T00:00:00+00:00"),
        ("2026-11-20T15:00", "2026-11-20T15:00:00+00:00"),
        ("2026-11-20 15:00:01.5", "2026-11-20T15:00:01.500000+00:00"),
        ("2026-11-20T15:00+02:00", "2026-11-20T13:00:00+00:00"),
        ("2026-11-20T15:00Z", "2026-11-20T15:00:00+00:00"),
        ("15:00", "2026-11-22T15:00:00+00:00"),
        ("16:00", "2026-11-21T16:00:00+00:00"),
        ("3:00:30", "2026-11-22T03:00:30+00:00"),
        ("2h", "2026-11-22T13:30:00+00:00"),
        ("1h30m", "2026-11-22T14:00:00+00:00"),
        ("90", "2026-11-22T15:28:30+00:00"),
    ],
)
def test_a_time_is_a_date_a_time_of_day_or_how_long_ago(text: str, at: str) -> None:
    assert parse_time(text, NOW) == datetime.fromisoformat(at)


@given(st.text() | st.from_regex(r"[0-9:hmsd.-]{1,30}", fullmatch=True))
def test_any_text_is_a_time_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert parse_time(text, NOW).tzinfo is UTC


@given(st.floats(0.001, 1e10), st.integers(1, 500))
def test_a_step_is_round_and_fits(seconds: float, most: int) -> None:
    step = choose_step(seconds, most)
    assert seconds / step <= most
    assert step % 1 == 0
    assert step == 1 or choose_step(seconds, most) <= max(2.5 * seconds / most, 86_400)


def test_a_whole_day_is_the_next_step_after_twelve_hours() -> None:
    assert choose_step(timedelta(days=30).total_seconds(), 30) == 86_400


@given(st.text())
def test_no_text_makes_a_filter_that_fails_later(text: str) -> None:
    try:
        filters = parse_filters([text])
    except ValueError:
        return
    for value in (None, 5, "x", "10.0.0.1", ""):
        assert filters.select(dict.fromkeys(filters.columns, value)) in {True, False}

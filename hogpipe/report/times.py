"""PURE: points in time as people write them, and the steps of a series.

A point in time is a time of day or a date in UTC (`15:00`, `2026-11-22`, `2026-11-22T15:00`, with
seconds or an offset if wanted), or a duration that counts back from now (`2h`).
"""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta

from hogpipe.config.durations import parse_seconds

_TIME_OF_DAY = re.compile(r"\d{1,2}:\d{2}(:\d{2})?")
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200)
_DAY = 86_400
EXPECTED = (
    "expected a time (UTC) such as 2026-11-22T15:00, 2026-11-22 or 15:00, or how long ago: 30m, 2h"
)


def parse_time(text: str, now: datetime) -> datetime:
    """Return the point in time that `text` means. Raises ValueError."""
    text = text.strip()
    if _TIME_OF_DAY.fullmatch(text):
        at = _check(lambda: datetime.combine(now.date(), _parse_time_of_day(text), UTC))
        return at if at <= now else at - timedelta(days=1)
    try:
        return now - timedelta(seconds=parse_seconds(text))
    except (ValueError, OverflowError):  # no duration, or one that is longer than time
        return _check(lambda: _parse_date(text))


def choose_step(seconds: float, most: int) -> float:
    """Return a round step, in seconds, so that a span has at most `most` of them."""
    least = seconds / most
    for step in _STEPS:
        if step >= least:
            return step
    return float(-(-least // _DAY) * _DAY)


def format_time(unix: float) -> str:
    """Return a Unix time as text, in UTC to the second."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _parse_time_of_day(text: str) -> time:
    hour, minute, second = [*map(int, text.split(":")), 0][:3]
    return time(hour, minute, second)


def _parse_date(text: str) -> datetime:
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        return datetime.combine(date.fromisoformat(text), time(), UTC)
    at = datetime.fromisoformat(text)
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _check(make: Callable[[], datetime]) -> datetime:
    try:
        return make()
    except (ValueError, OverflowError) as error:
        raise ValueError(EXPECTED) from error

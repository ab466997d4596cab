from contextlib import suppress
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta
from support.configuration import EXPECTED_DURATION, load_text, problems_of

from hogpipe.config.durations import is_duration, parse_seconds
from hogpipe.sinks.contract import Seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2", 2.0),
        (" 0.5 ", 0.5),
        ("500ms", 0.5),
        ("30s", 30.0),
        ("1.5m", 90.0),
        ("1h30m", 5400.0),
        ("1d", 86400.0),
        ("1m500ms", 60.5),
    ],
)
def test_a_duration_is_a_number_with_units(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1 h", "1w", "1h30", "1e3", "inf", "1,5s", "٣s"])
def test_other_text_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="expected seconds"):
        parse_seconds(text)


@given(st.text())
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert parse_seconds(text) >= 0


def test_durations_are_recognized_with_bounds_and_where_they_are_optional() -> None:
    bounded = Annotated[Seconds, Meta(gt=0)]
    assert all(map(is_duration, (Seconds, bounded, Seconds | None, bounded | None)))
    assert not any(map(is_duration, (float, Annotated[float, Meta(gt=0)], str, float | None)))


def test_settings_take_durations_as_text(tmp_path: Path) -> None:
    text = """
[attribution]
hold = "1500ms"
[aggregation]
interval = "1m"
[[sinks]]
type = "jsonl"
path = "x.jsonl"
rotate_every = "1d"
retry_max = 5
"""
    settings = load_text(tmp_path, text)
    assert settings.attribution.hold == 1.5
    assert settings.aggregation.interval == 60
    (sink,) = settings.sinks
    assert getattr(sink.settings, "rotate_every", None) == 86400
    assert sink.settings.retry_max == 5


def test_the_bounds_of_a_duration_hold_for_text(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, '[aggregation]\ninterval = "2d"\n[attribution]\nhold = "long"')
    assert problems == [
        f'attribution.hold: {EXPECTED_DURATION}, not "long"',
        "aggregation.interval: must be at most 86400",
    ]


def test_a_number_that_is_no_duration_takes_no_units(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, '[attribution]\ncpu_budget = "1s"')
    assert problems == ["attribution.cpu_budget: expected float, got str"]


def test_a_duration_may_be_a_reference_to_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACE", "5m")
    settings = load_text(tmp_path, '[aggregation]\ninterval = {env = "PACE"}')
    assert settings.aggregation.interval == 300

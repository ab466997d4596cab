"""When a file is full, and the names of closed files."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.sinks import stats, traffic

from hogpipe.sinks.encoding import JsonEncoder, JsonSettings
from hogpipe.sinks.jsonl.rotation import (
    RotationRule,
    choose_closing,
    decode_start,
    find_start,
    format_closed,
    parse_closed,
)

BASE = "hogpipe.jsonl"
SEVEN = datetime(2026, 11, 22, 7, tzinfo=UTC)

moments = st.datetimes(datetime(1970, 1, 1), datetime(2999, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001 - the zone is given beside
    lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
)


def test_a_closed_file_is_named_for_the_start_of_the_next() -> None:
    assert format_closed(BASE, SEVEN) == "hogpipe.jsonl-20261122T070000.000Z"


@given(moments, st.sampled_from(["", ".gz", ".gz.tmp"]))
def test_a_name_is_parsed_to_its_time_and_suffix(moment: datetime, suffix: str) -> None:
    name = parse_closed(BASE, format_closed(BASE, moment) + suffix)
    assert name is not None
    assert (name.closed, name.suffix) == (moment, suffix)


@given(st.lists(moments, max_size=8, unique=True))
def test_names_sort_by_time(times: list[datetime]) -> None:
    names = [format_closed(BASE, moment) for moment in sorted(times)]
    assert names == sorted(names)


@pytest.mark.parametrize(
    "name",
    [
        "hogpipe.jsonl",
        "hogpipe.jsonl-20261122T070000.000Z.bak",
        "hogpipe.jsonl-20261122T070000.000Z.gz.tmp~",
        "hogpipe.jsonl-20261122T070000Z",
        "hogpipe.jsonl-20261322T070000.000Z",
        "hogpipe.jsonl-20261122T070000.000Z\n",
        "hogpipe.jsonl-\uff120261122T070000.000Z",
        "hogpipe_jsonl-20261122T070000.000Z",
        "my-hogpipe.jsonl-20261122T070000.000Z",
        "hogpipe.jsonl.1",
    ],
)
def test_other_names_are_not_parsed(name: str) -> None:
    assert parse_closed(BASE, name) is None


@given(moments, st.sets(moments, max_size=5))
def test_a_new_name_sorts_after_all_existing_ones(start: datetime, taken: set[datetime]) -> None:
    chosen = choose_closing(start, taken)
    assert all(format_closed(BASE, other) < format_closed(BASE, chosen) for other in taken)
    assert chosen == start or any(other >= start for other in taken)


@pytest.mark.parametrize(
    ("seconds", "full"), [(0, False), (3599.999, False), (3600, True), (-1, True), (7200, True)]
)
def test_a_file_spans_no_full_hour(seconds: float, full: bool) -> None:
    rule = RotationRule(every=3600.0)
    period = rule.find_period(SEVEN)
    assert rule.is_full(1, period, SEVEN + timedelta(seconds=seconds)) is full


def test_days_begin_at_midnight_utc() -> None:
    rule = RotationRule(every=86400.0)
    period = rule.find_period(SEVEN)
    midnight = SEVEN.replace(day=23, hour=0)
    assert not rule.is_full(1, period, midnight - timedelta(milliseconds=1))
    assert rule.is_full(1, period, midnight)


@pytest.mark.parametrize(("size", "full"), [(0, False), (99, False), (100, True), (101, True)])
def test_a_file_is_full_from_the_configured_size(size: int, full: bool) -> None:
    assert RotationRule(most_bytes=100).is_full(size, None, SEVEN) is full


def test_an_empty_file_is_never_full() -> None:
    rule = RotationRule(most_bytes=1, every=1.0)
    assert not rule.is_full(0, 5, SEVEN)


def test_a_file_of_an_unknown_period_is_not_full_by_time() -> None:
    assert not RotationRule(every=1.0).is_full(1, None, SEVEN)
    assert RotationRule(every=1.0).find_period(None) is None


@pytest.mark.parametrize("layout", ["nested", "flat"])
@pytest.mark.parametrize("schema", ["otel", "ecs"])
@pytest.mark.parametrize("record", [traffic(second=7), stats(second=7)], ids=["traffic", "stats"])
def test_the_start_of_a_line_is_found_in_each_layout_and_schema(layout, schema, record) -> None:  # noqa: ANN001
    encoder = JsonEncoder(JsonSettings(type="x", layout=layout, schema=schema))
    (line,) = encoder.documents([record])
    assert decode_start(line) == find_start(record) == SEVEN + timedelta(seconds=7)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b'"window"',
        b"{}",
        b'{"window":7}',
        b'{"window":{}}',
        b'{"window":{"start":"now"}}',
        b'{"window.start":null}',
        b"\xff",
    ],
)
def test_another_line_has_no_start(line: bytes) -> None:
    assert decode_start(line) is None

"""The stamp identifies each record of a run, and the window that the record covers."""

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
from support.flow_sums import FlowAggregator
from support.traffic import NGINX, exact, make_delta, make_flow

from hogpipe.model import AttributionCounts, CaptureCounts
from hogpipe.records import stats
from hogpipe.records.schema import TrafficBody
from hogpipe.records.stamp import RecordStamper, format_time, make_run_id, make_window

if TYPE_CHECKING:
    from hogpipe.records.schema import Record, StatsBody

RUN = make_run_id(1_795_330_800_000_000_000, bytes(10))
SECOND = 1_000_000_000

times = st.integers(0, 4_000_000_000 * SECOND)


def test_a_sequence_has_no_gaps_over_both_types() -> None:
    stamper = RecordStamper(RUN, "web1")
    aggregator = FlowAggregator([], [], 1)
    aggregator.ingest_flow(make_flow(), make_delta((1, 1)), exact(NGINX))
    (traffic,) = aggregator.drain()
    body: StatsBody = {
        "capture": stats.capture_info(CaptureCounts()),
        "attribution": stats.attribution_info(AttributionCounts(), {}, timed=False),
        "aggregation": stats.aggregation_info(records=1, folded_groups=0, uncounted_flows=0),
    }
    records: list[Record] = [
        stamper.traffic(traffic, 0, SECOND),
        stamper.stats(body, 0, SECOND),
        stamper.traffic(traffic, SECOND, 2 * SECOND),
    ]
    assert [record["sequence"] for record in records] == [1, 2, 3]
    assert {record["run"] for record in records} == {RUN}


@given(times)
def test_a_time_is_rounded_down_to_the_millisecond(time_ns: int) -> None:
    parsed = datetime.strptime(format_time(time_ns), "%Y-%m-%dT%H:%M:%S.%f%z")
    milliseconds = (parsed - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000
    assert round(milliseconds) == time_ns // 1_000_000


def test_a_time_is_rounded_down_and_padded() -> None:
    assert format_time(1_795_330_810_009_999_999) == "2026-11-22T07:00:10.009Z"
    assert format_time(0) == "1970-01-01T00:00:00.000Z"


@given(times, times)
def test_run_ids_are_ulids_that_sort_by_time(earlier: int, later: int) -> None:
    earlier, later = sorted((earlier // 1_000_000, later // 1_000_000))
    first = make_run_id(earlier * 1_000_000, b"\xff" * 10)
    second = make_run_id((later + 1) * 1_000_000, bytes(10))
    assert re.fullmatch("[0-7][0-9A-HJKMNP-TV-Z]{25}", first)
    assert first < second


def test_run_ids_of_one_moment_differ() -> None:
    assert make_run_id(0) != make_run_id(0)
    # The example of the specification: 1469922850259 ms.
    assert make_run_id(1_469_922_850_259_000_000, bytes(10)) == "01ARZ3NDEK" + "0" * 16


def empty_body() -> TrafficBody:
    return {
        "network": {
            "flows": 0,
            "io": {
                "transmit": {"bytes": 0, "packets": 0},
                "receive": {"bytes": 0, "packets": 0},
            },
        },
        "attribution": {},
    }


def test_a_body_may_be_stamped_twice_and_stays_as_it_was() -> None:
    body = empty_body()
    RecordStamper(RUN, "web1").traffic(body, 0, 1)
    assert list(body) == ["network", "attribution"]


def test_the_records_of_a_window_share_the_objects_of_their_stamp() -> None:
    stamper = RecordStamper(RUN, "web1")
    body = empty_body()
    first, second, later = (stamper.traffic(body, start, start + 1) for start in (0, 0, 1))
    assert first["window"] is second["window"]
    assert first["host"] is second["host"]
    assert later["window"] is not first["window"]


@given(times, times)
def test_a_window_has_the_same_times_as_text_and_as_numbers(start_ns: int, end_ns: int) -> None:
    window = make_window(start_ns, end_ns)
    for edge, time_ns in (("start", start_ns), ("end", end_ns)):
        text, number = window[edge], window[f"{edge}_unix"]
        assert text == format_time(time_ns)
        assert number == datetime.fromisoformat(text).timestamp()
        assert json.loads(json.dumps(number)) == number == time_ns // 1_000_000 / 1000

"""The sink and a real collector (Rotel): what the collector forwards."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hogpipe_otlp import hogpipe_sinks

from hogpipe import Sink
from hogpipe.testing import (
    RecordMaker,
    SinkCase,
    check_sink,
    deliver_through_outages,
    read_settings,
    total_bytes,
)

OpenSink = Callable[..., Awaitable[Sink]]
(SINK_TYPE,) = hogpipe_sinks()
DELTA, CUMULATIVE = 1, 2  # AggregationTemporality


async def test_a_collector_forwards_all_bytes_written(collector: Any, opened: OpenSink) -> None:
    sink = await opened(endpoint=collector.url)
    maker = RecordMaker()
    records = [record for _ in range(3) for record in maker.window(40)]
    for start in range(0, len(records), 40):
        await sink.write(records[start : start + 40])
    await collector.onward.wait_for(sum(map(total_bytes, records)))
    points = collector.onward.points
    assert {point.temporality for point in points} == {DELTA}
    for direction in ("transmit", "receive"):
        arrived = sum(
            point.value for point in points if point.attributes["network.io.direction"] == direction
        )
        traffic = [record for record in records if record["type"] == "traffic"]
        assert arrived == sum(one["network"]["io"][direction]["bytes"] for one in traffic)


async def test_the_last_cumulative_points_are_the_totals(collector: Any, opened: OpenSink) -> None:
    sink = await opened(endpoint=collector.url, temporality="cumulative")
    maker = RecordMaker()
    windows = [maker.window(9) for _ in range(4)]
    for window in windows:
        await sink.write(window)
    totals = sum(total_bytes(record) for window in windows for record in window)
    sums = [sum(total_bytes(record) for record in window) for window in windows]
    await collector.onward.wait_for(sum(sums[0] + sum(sums[1 : n + 1]) for n in range(4)))
    last = {}
    for point in collector.onward.points:
        assert point.temporality == CUMULATIVE
        series = (str(point.resource), str(point.attributes))
        if series in last:
            assert point.start_ns == last[series].start_ns
        if series not in last or point.end_ns > last[series].end_ns:
            last[series] = point
    assert sum(point.value for point in last.values()) == totals


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
async def test_repeated_outages_lose_no_byte(collector: Any, temporality: str) -> None:
    """Some requests get no answer, and are sent again."""
    keys = {
        "endpoint": collector.url,
        "temporality": temporality,
        "max_points": 100,
        "queue_windows": 4,
        "retry_initial": 0.01,
        "retry_max": 0.05,
    }
    settings = read_settings(SINK_TYPE, keys)
    report = await deliver_through_outages(
        SINK_TYPE.create(settings), settings, collector.line.outage, rounds=10, windows=6
    )
    sent = sum(map(total_bytes, report.records))
    assert report.counts["retries"] > 0
    assert report.counts["dropped"] == 0
    if temporality == "delta":
        async with asyncio.timeout(20):
            while collector.onward.total < sent:  # noqa: ASYNC110 - a repeat counts twice
                await asyncio.sleep(0.02)
        return
    async with asyncio.timeout(20):
        while sum(highest(collector.onward.points).values()) != sent:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def highest(points: Sequence[Any]) -> dict[tuple[str, str], int]:
    """Return the highest value of each series."""
    values: dict[tuple[str, str], int] = {}
    for point in points:
        series = (str(point.resource), str(point.attributes))
        values[series] = max(values.get(series, 0), point.value)
    return values


async def test_the_promises_of_sinks_are_kept(collector: Any) -> None:
    async def arrived() -> int:
        return int(collector.onward.total)

    case = SinkCase(
        sink_type=SINK_TYPE,
        keys={
            "endpoint": f"{collector.url}?key=sesame",
            "headers": {"authorization": "open sesame"},
        },
        secrets=["sesame"],
        total_bytes=arrived,
        largest_window=10_000,
        outage=collector.line.outage,
        stall=collector.line.stall,
        wrong_keys=[
            {"endpoint": "collector:4318"},
            {"endpoint": "http://user:secret@localhost/v1/metrics"},
            {"tls": {}},
            {"endpoint": "https://localhost:1/v1/metrics", "tls": {"ca": "/no/such/file"}},
            {"endpoint": "https://localhost:1/v1/metrics", "tls": {"key": "/no/such/file"}},
            {"headers": {"content-type": "text/plain"}},
            {"headers": {"no good": "x"}},
            {"headers": {"x": "line\nend"}},
            {"temporality": "running"},
            {"max_points": 15},
        ],
    )
    await check_sink(case)

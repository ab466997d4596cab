"""The sink and a real collector (Rotel), looked at behind the collector."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hogpipe_otlp import OtlpSink, hogpipe_sinks

from hogpipe.delivery.dispatch import Dispatcher
from hogpipe.testing import RecordMaker, SinkCase, check_sink, read_settings
from hogpipe.testing.records import total_bytes

OpenSink = Callable[..., Awaitable[OtlpSink]]
(SINK_TYPE,) = hogpipe_sinks()
DELTA, CUMULATIVE = 1, 2  # AggregationTemporality


async def test_a_collector_passes_on_what_was_written(collector: Any, opened: OpenSink) -> None:
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


async def test_cumulative_points_end_at_the_total(collector: Any, opened: OpenSink) -> None:
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
async def test_a_line_that_breaks_over_and_over_loses_nothing(
    collector: Any, temporality: str
) -> None:
    """Windows go through hogpipe's own dispatcher; some requests get no answer."""
    keys = {
        "endpoint": collector.url,
        "temporality": temporality,
        "max_points": 100,
        "queue_windows": 4,
        "retry_initial": 0.01,
        "retry_max": 0.05,
    }
    settings = read_settings(SINK_TYPE, keys)
    dispatcher = Dispatcher([(SINK_TYPE.create(settings), settings)], on_output_closed=list)
    await dispatcher.open()
    maker, rng, sent = RecordMaker(), random.Random(7), 0
    async with asyncio.TaskGroup() as group:
        running = group.create_task(dispatcher.run())
        for _ in range(10):
            for _ in range(6):
                window = maker.window(rng.randrange(1, 400))
                sent += sum(map(total_bytes, window))
                await dispatcher.publish(window)
                await asyncio.sleep(rng.random() * 0.02)
            async with collector.line.outage():
                await asyncio.sleep(rng.random() * 0.05)
        async with asyncio.timeout(60):
            await dispatcher.idle()
        assert await dispatcher.drain(1) == []
        await running
    (health,) = dispatcher.health()
    assert health["retries"] > 0
    assert health["dropped"] == 0
    if temporality == "delta":
        async with asyncio.timeout(20):
            while collector.onward.total < sent:  # noqa: ASYNC110 - what was sent twice counts twice
                await asyncio.sleep(0.02)
        return
    async with asyncio.timeout(20):
        while sum(highest(collector.onward.points).values()) != sent:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def highest(points: Sequence[Any]) -> dict[tuple[str, str], int]:
    """Return to what each series has risen."""
    values: dict[tuple[str, str], int] = {}
    for point in points:
        series = (str(point.resource), str(point.attributes))
        values[series] = max(values.get(series, 0), point.value)
    return values


async def test_it_keeps_what_sinks_promise(collector: Any) -> None:
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
            {"max_points": 1},
        ],
    )
    await check_sink(case)

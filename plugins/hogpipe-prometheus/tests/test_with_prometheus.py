"""The sink and a real Prometheus that scrapes it."""

from collections.abc import Awaitable, Callable
from typing import Any

from hogpipe import Sink
from hogpipe.testing import RecordMaker, total_bytes

OpenSink = Callable[..., Awaitable[Sink]]
SUM = "sum(hogpipe_network_io_bytes_total)"


async def test_sums_in_prometheus_are_those_of_records(prometheus: Any, opened: OpenSink) -> None:
    sink = await opened(max_series=10)
    maker = RecordMaker()
    windows = [maker.window(60) for _ in range(5)]
    for window in windows:
        await sink.write(window)
    records = [record for window in windows for record in window]
    moved = sum(map(total_bytes, records))
    await prometheus.wait_for(SUM, moved)
    traffic = [record for record in records if record["type"] == "traffic"]
    for direction in ("transmit", "receive"):
        for unit in ("bytes", "packets"):
            found = await prometheus.value(
                f'sum(hogpipe_network_io_{unit}_total{{direction="{direction}"}})'
            )
            assert found == sum(one["network"]["io"][direction][unit] for one in traffic)
    labelled = await prometheus.ask("hogpipe_network_io_bytes_total")
    assert len(labelled) == 2 * (10 + 1)
    assert await prometheus.value("hogpipe_prometheus_label_sets") == 10
    assert await prometheus.value(SUM.replace("total)", 'total{program="other"})')) > 0


async def test_the_counters_of_the_pipeline_are_in_prometheus(
    prometheus: Any, opened: OpenSink
) -> None:
    sink = await opened()
    maker = RecordMaker()
    windows = [maker.window(30) for _ in range(3)]
    for window in windows:
        await sink.write(window)
    moved = sum(total_bytes(record) for window in windows for record in window)
    await prometheus.wait_for("sum(hogpipe_attribution_bytes_total)", moved)
    await prometheus.wait_for("hogpipe_capture_bytes_total", moved)
    await prometheus.wait_for('hogpipe_sink_delivered_records_total{sink="jsonl"}', 30)
    await prometheus.wait_for('up{job="hogpipe"}', 1)


async def test_a_series_that_returns_causes_no_spike(prometheus: Any, opened: OpenSink) -> None:
    """Window times are the records' own, so an hour passes at once."""
    sink = await opened(labels=["unit"])
    maker = RecordMaker(interval=600)
    unit = 'sum(hogpipe_network_io_bytes_total{unit="worker-0.service"})'
    sent = 0

    async def window(records: int) -> int:
        made = maker.window(records)
        await sink.write(made)
        return sum(
            total_bytes(record)
            for record in made
            if record.get("systemd") == {"unit": "worker-0.service"}
        )

    for _ in range(3):
        sent += await window(8)
        await prometheus.wait_for(unit, sent)
    for _ in range(7):  # longer than stale_after, without traffic
        await window(1)
    await prometheus.wait_for(unit, None)
    assert await prometheus.value("hogpipe_prometheus_removed_label_sets_total") > 0
    returned = await window(8)
    await prometheus.wait_for(unit, returned)
    data = await prometheus.get(
        "/api/v1/query",
        query='sum(increase(hogpipe_network_io_bytes_total{unit="worker-0.service"}[5m]))',
    )
    (series,) = data["result"]
    # increase() extrapolates to the ends of its range, at most half an interval each way.
    assert float(series["value"][1]) < 1.5 * (sent + returned)

"""The health of TCP connections: metrics of each process, in requests of bounded size."""

from collections.abc import Awaitable, Callable
from typing import Any

from hogpipe_otlp.metrics import MOST, most_observations, observations_of
from hogpipe_otlp.points import Point
from hogpipe_otlp.reading import points_of
from hypothesis import given
from hypothesis import strategies as st

from hogpipe import Sink
from hogpipe.testing import RecordMaker

OpenSink = Callable[..., Awaitable[Sink]]
TCP = "process.network.tcp"
CAUSES = ("refused", "timed_out", "unreachable", "abandoned", "reset")
NAMES = ("opened", "accepted", "closed", *CAUSES, "opening_us", "lifetime_us")
HEALTH = {
    "retransmits": 3,
    "rtt": {"samples": 4, "sum_us": 2_000_000, "min_us": 250_000},
    "connections": {"opened": 2, "refused": 1, "reset": 5, "opening_us": 500_000},
}
ALL = {
    "retransmits": 1,
    "rtt": {"samples": 1, "sum_us": 2, "min_us": 2},
    "connections": dict.fromkeys(NAMES, 1),
}


def window_with(*tcp: dict[str, Any] | None) -> list[Any]:
    """Return a window in which process N has the health `tcp[N]`."""
    window = RecordMaker().window(len(tcp) + 1)
    for pid, (record, health) in enumerate(zip(window, tcp, strict=False), 1):
        record["process"] = {"pid": pid, "name": "x"}
        if health is not None:
            record["network"]["tcp"] = health
            record["network"]["io"]["transmit"]["payload_bytes"] = 100
            record["network"]["io"]["receive"]["payload_bytes"] = 200
    return window


def by_metric(points: list[Any], pid: int) -> dict[tuple[str, ...], tuple[Any, ...]]:
    """Return value, count and minimum of each series of a process, without those of IP bytes."""
    shown = ("network.io.direction", "error.type")
    return {
        (
            one.metric.removeprefix(f"{TCP}."),
            *(one.attributes[k] for k in shown if k in one.attributes),
        ): (
            one.value,
            one.count,
            one.least,
        )
        for one in points
        if one.resource.get("process.pid") == pid and one.metric.startswith(TCP)
    }


EXPECTED = {
    ("payload", "transmit"): (100, 0, None),
    ("payload", "receive"): (200, 0, None),
    ("retransmits",): (3, 0, None),
    ("rtt",): (2.0, 4, 0.25),
    ("connection.opened",): (2, 0, None),
    ("connection.failed", "refused"): (1, 0, None),
    ("connection.failed", "reset"): (5, 0, None),
    ("connection.opening",): (0.5, 2, None),
}


async def test_a_collector_forwards_the_health_of_each_process(
    collector: Any, opened: OpenSink
) -> None:
    sink = await opened(endpoint=collector.url)
    window = window_with(HEALTH, None, {"retransmits": 0})
    await sink.write(window)
    io = [one["network"]["io"] for one in window[:3]]
    await collector.onward.wait_for(
        sum(one["transmit"]["bytes"] + one["receive"]["bytes"] for one in io)
    )
    points = collector.onward.points
    assert by_metric(points, 1) == EXPECTED
    assert by_metric(points, 2) == {}
    assert set(by_metric(points, 3)) == {("payload", "transmit"), ("payload", "receive")}


async def test_cumulative_health_goes_on_from_the_window_before(
    receiver: Any, opened: OpenSink
) -> None:
    sink = await opened(endpoint=receiver.url, temporality="cumulative")
    await sink.write(window_with(HEALTH))
    lower = {**HEALTH, "rtt": {"samples": 1, "sum_us": 100_000, "min_us": 100_000}}
    await sink.write(window_with(lower))
    latest = by_metric(receiver.points, 1)
    assert latest["rtt",] == (2.1, 5, 0.1)
    assert latest["retransmits",] == (6, 0, None)
    assert latest["connection.failed", "reset"] == (10, 0, None)
    assert latest["connection.opening",] == (1.0, 4, None)


async def test_requests_with_health_have_the_same_bound(receiver: Any, opened: OpenSink) -> None:
    sink = await opened(endpoint=receiver.url, max_points=40)
    await sink.write(window_with(*[ALL, None, ALL, ALL] * 5))
    assert max(receiver.sizes) <= 40
    assert sum(receiver.sizes) == 15 * MOST + 5 * 2


@given(st.sets(st.sampled_from(NAMES)), st.booleans(), st.booleans())
def test_no_record_has_more_points_than_its_bound(
    events: set[str], with_rtt: bool, with_retransmits: bool
) -> None:
    tcp: dict[str, Any] = {"retransmits": int(with_retransmits)}
    if with_rtt:
        tcp["rtt"] = {"samples": 1, "sum_us": 0, "min_us": 0}
    if events:
        tcp["connections"] = dict.fromkeys(events, 1)
    for health in (None, tcp):
        record = window_with(health)[0]
        points = points_of([record])
        assert len(points) == len(list(observations_of(record))) <= most_observations(record)
        assert len({one.series for one in points}) == len(points)
    assert len(list(observations_of(window_with(ALL)[0]))) == MOST


def test_the_least_of_points_is_that_of_those_which_know_it() -> None:
    one = Point("rtt", b"", b"", 5, 0, 1, observed=1, least=0)
    known = one._replace(least=3)
    assert one.plus(known).least == known.plus(one).least == known.plus(known).least == 3
    assert known.plus(one._replace(least=2)).least == 2
    assert one.plus(one).least == 0

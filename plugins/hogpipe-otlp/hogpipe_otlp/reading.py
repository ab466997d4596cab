"""PURE: records -> data points of `process.network.io`."""

from collections.abc import Iterable, Iterator

from hogpipe import TrafficRecord
from hogpipe_otlp.attributes import flow_of, resource_of
from hogpipe_otlp.messages import encode_attributes, encode_resource
from hogpipe_otlp.points import Point, Series

_MILLISECOND = 1_000_000  # nanoseconds
_TRANSMIT, _RECEIVE = (
    encode_attributes([("network.io.direction", direction)])
    for direction in ("transmit", "receive")
)


def points_of(records: Iterable[TrafficRecord]) -> list[Point]:
    """Return the points of `records`, one for each series; a direction without bytes has none."""
    points: dict[Series, Point] = {}
    for record in records:
        for point in _read(record):
            before = points.get(point.series)
            points[point.series] = _join(before, point) if before else point
    return list(points.values())


def _read(record: TrafficRecord) -> Iterator[Point]:
    resource = encode_resource(resource_of(record))
    flow = encode_attributes(flow_of(record))
    window = record["window"]
    start, end = _nanoseconds(window["start_unix"]), _nanoseconds(window["end_unix"])
    io = record["network"]["io"]
    for direction, tally in ((_TRANSMIT, io["transmit"]), (_RECEIVE, io["receive"])):
        if tally["bytes"]:
            yield Point(resource, direction + flow, tally["bytes"], start, end)


def _join(one: Point, other: Point) -> Point:
    return one._replace(
        value=one.value + other.value,
        start_ns=min(one.start_ns, other.start_ns),
        end_ns=max(one.end_ns, other.end_ns),
    )


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1000) * _MILLISECOND

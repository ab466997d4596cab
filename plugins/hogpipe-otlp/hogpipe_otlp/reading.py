"""PURE: records -> data points."""

from collections.abc import Iterable, Iterator
from functools import cache

from hogpipe import TrafficRecord
from hogpipe_otlp.attributes import flow_of, resource_of
from hogpipe_otlp.messages import encode_attributes, encode_resource
from hogpipe_otlp.metrics import observations_of
from hogpipe_otlp.points import Point, Series

_MILLISECOND = 1_000_000  # nanoseconds


def points_of(records: Iterable[TrafficRecord]) -> list[Point]:
    """Return the points of `records`, one for each series; what did not grow has none."""
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
    for metric, attribute, value, observed, least in observations_of(record):
        attributes = _encode_own(attribute) + flow
        yield Point(metric, resource, attributes, value, start, end, observed, least)


@cache  # of the few attributes of metrics
def _encode_own(attribute: tuple[str, str] | None) -> bytes:
    return encode_attributes([attribute] if attribute else [])


def _join(one: Point, other: Point) -> Point:
    return one.plus(other)._replace(
        start_ns=min(one.start_ns, other.start_ns), end_ns=max(one.end_ns, other.end_ns)
    )


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1000) * _MILLISECOND

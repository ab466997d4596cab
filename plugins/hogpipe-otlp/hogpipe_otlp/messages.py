"""PURE: data points <-> the protobuf messages of OTLP 1.x.

The format is opentelemetry/proto/collector/metrics/v1/metrics_service.proto of
https://github.com/open-telemetry/opentelemetry-proto, in OpenTelemetry's own classes for it.
"""

import gzip
from collections.abc import Iterable
from typing import Literal, NamedTuple

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    Histogram,
    NumberDataPoint,
    ScopeMetrics,
    Sum,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from hogpipe import __version__
from hogpipe_otlp.attributes import Value
from hogpipe_otlp.metrics import METRICS
from hogpipe_otlp.points import Point

_LEVEL = 6  # of gzip, its usual one
_SECOND = 1_000_000  # microseconds

_TEMPORALITIES = {
    "delta": AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA,
    "cumulative": AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE,
}


class Verdict(NamedTuple):
    """The result of an accepted request: how many points were rejected, and why."""

    rejected: int = 0
    reason: str = ""


def encode_resource(attributes: Iterable[tuple[str, Value]]) -> bytes:
    """Return a Resource with `attributes`."""
    resource = Resource()
    _fill(resource, attributes)
    return resource.SerializeToString()


def encode_attributes(attributes: Iterable[tuple[str, Value]]) -> bytes:
    """Return a NumberDataPoint with `attributes` only.

    Two of them concatenated are one with the attributes of both, by the rules of protobuf.
    """
    point = NumberDataPoint()
    _fill(point, attributes)
    return point.SerializeToString()


def encode_request(points: Iterable[Point], temporality: Literal["delta", "cumulative"]) -> bytes:
    """Return a request with `points`, compressed by gzip."""
    request = ExportMetricsServiceRequest()
    scopes: dict[bytes, ScopeMetrics] = {}
    streams: dict[tuple[bytes, str], Sum | Histogram] = {}
    for point in points:
        key = (point.resource, point.metric)
        if key not in streams:
            if point.resource not in scopes:
                scopes[point.resource] = _add_resource(request, point.resource)
            streams[key] = _add_metric(scopes[point.resource], point.metric, temporality)
        _add_point(streams[key], point)
    return gzip.compress(request.SerializeToString(), _LEVEL, mtime=0)


def decode_response(body: bytes) -> Verdict:
    """Return the verdict in the body of a successful answer; an empty one if it has none."""
    try:
        partial = ExportMetricsServiceResponse.FromString(body).partial_success
    except DecodeError:
        return Verdict()  # the status is success
    return Verdict(partial.rejected_data_points, partial.error_message)


def decode_status(body: bytes) -> str:
    """Return the message of a google.rpc.Status, which is the body of an error; empty if none.

    Its fields 1 and 2, a number and a text, are those of a partial success, which is decoded here.
    """
    try:
        return ExportMetricsPartialSuccess.FromString(body).error_message
    except DecodeError:
        return ""


def _add_resource(request: ExportMetricsServiceRequest, resource: bytes) -> ScopeMetrics:
    """Add a resource to `request`; return its scope, without metrics."""
    owner = request.resource_metrics.add()
    owner.resource.MergeFromString(resource)
    scope = owner.scope_metrics.add()
    scope.scope.name, scope.scope.version = "hogpipe", __version__
    return scope


def _add_metric(
    scope: ScopeMetrics, name: str, temporality: Literal["delta", "cumulative"]
) -> Sum | Histogram:
    """Add a metric to `scope`; return its data, without points."""
    about = METRICS[name]
    metric = scope.metrics.add(name=name, description=about.description, unit=about.unit)
    if about.is_duration:
        metric.histogram.aggregation_temporality = _TEMPORALITIES[temporality]
        return metric.histogram
    metric.sum.aggregation_temporality = _TEMPORALITIES[temporality]
    metric.sum.is_monotonic = True
    return metric.sum


def _add_point(stream: Sum | Histogram, point: Point) -> None:
    if isinstance(stream, Sum):
        added = stream.data_points.add(
            start_time_unix_nano=point.start_ns, time_unix_nano=point.end_ns, as_int=point.value
        )
        added.MergeFromString(point.attributes)
        return
    observed = stream.data_points.add(
        start_time_unix_nano=point.start_ns,
        time_unix_nano=point.end_ns,
        count=point.observed,
        sum=point.value / _SECOND,
    )
    if point.least:
        observed.min = point.least / _SECOND
    observed.attributes.MergeFrom(NumberDataPoint.FromString(point.attributes).attributes)


def _fill(message: Resource | NumberDataPoint, attributes: Iterable[tuple[str, Value]]) -> None:
    """Add `attributes` in place: making messages and copying them takes three times as long."""
    for name, value in attributes:
        target = message.attributes.add(key=name).value
        match value:
            case bool():
                target.bool_value = value
            case int():
                target.int_value = value
            case str():
                target.string_value = value
            case tuple():
                target.array_value.SetInParent()  # it may be empty
                for item in value:
                    target.array_value.values.add(string_value=item)

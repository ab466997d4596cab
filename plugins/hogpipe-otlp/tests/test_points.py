from collections.abc import Iterable
from typing import Any

from hogpipe_otlp.messages import decode_response, decode_status, encode_request
from hogpipe_otlp.points import Point
from hogpipe_otlp.reading import points_of
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from hogpipe import TrafficRecord
from hogpipe.testing import RecordMaker


def resource(point: Point) -> dict[str, Any]:
    return plain(Resource.FromString(point.resource).attributes)


def attributes(point: Point) -> dict[str, Any]:
    return plain(NumberDataPoint.FromString(point.attributes).attributes)


def plain(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: plain_value(pair.value) for pair in pairs}


def plain_value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    assert kind is not None
    if kind == "array_value":
        return [plain_value(item) for item in value.array_value.values]
    return getattr(value, kind)


START_NS = 1_795_330_800_000_000_000  # 2026-11-22T07:00:00Z, where a RecordMaker begins


def traffic(records: int = 7) -> list[TrafficRecord]:
    window = RecordMaker().window(records)
    return [record for record in window if record["type"] == "traffic"]


SERVICE, CONTAINER, ONLY_USER, NO_PROCESS, HOSTILE, FLOW = traffic()


def test_a_process_is_in_the_attributes_of_its_resource() -> None:
    _transmit, receive = points_of([SERVICE])
    assert resource(receive) == {
        "host.name": "web1",
        "process.pid": 1000,
        "process.name": "nginx",
        "process.parent_pid": 1,
        "process.creation.time": "2026-11-22T06:58:01.220Z",
        "process.executable.name": "nginx",
        "process.executable.path": "/usr/bin/nginx",
        "process.command": "nginx",
        "process.real_user.id": 33,
        "process.owner": "www-data",
        "process.linux.cgroup": "/system.slice/worker-0.service",
        "systemd.unit": "worker-0.service",
    }


def test_container_and_pod_are_in_the_resource() -> None:
    found = resource(points_of([CONTAINER])[0])
    assert found["container.id"] == f"{1:064x}"
    assert found["k8s.pod.uid"] == "7a1b90f2-713c-467a-a18a-000000000001"


def test_traffic_without_a_process_has_the_host_only() -> None:
    assert resource(points_of([NO_PROCESS])[0]) == {"host.name": "web1"}
    assert resource(points_of([ONLY_USER])[0]) == {
        "host.name": "web1",
        "process.real_user.id": 1002,
        "process.owner": "user2",
    }


def test_a_flow_is_in_the_attributes_of_its_points() -> None:
    transmit, receive = points_of([FLOW])
    assert attributes(transmit) == {
        "network.io.direction": "transmit",
        "server.port": 443,
        "network.transport": "tcp",
        "network.type": "ipv6",
        "network.interface.name": "eth0",
        "network.local.address": "2001:db8::1",
        "network.local.port": 443,
        "network.peer.address": "2001:db8::5",
        "network.peer.port": 1029,
        "network.peer.network": "internet",
    }
    assert attributes(receive)["network.io.direction"] == "receive"


def test_a_window_is_the_time_of_its_points() -> None:
    window = {**FLOW["window"], "end_unix": FLOW["window"]["start_unix"] + 2.5}
    point, *_ = points_of([{**FLOW, "window": window}])
    assert (point.start_ns, point.end_ns) == (START_NS, START_NS + 2_500_000_000)


def test_a_direction_without_bytes_has_no_point() -> None:
    network = SERVICE["network"]
    io = {**network["io"], "transmit": {"bytes": 0, "packets": 0}}
    (point,) = points_of([{**SERVICE, "network": {**network, "io": io}}])
    assert attributes(point) == {"network.io.direction": "receive"}
    assert point.value == io["receive"]["bytes"]


def test_the_remainder_is_marked() -> None:
    remainder: TrafficRecord = {**NO_PROCESS, "remainder": True}
    points = points_of([NO_PROCESS, remainder])
    assert len(points) == 4
    assert [attributes(point).get("hogpipe.remainder", False) for point in points] == [
        False,
        False,
        True,
        True,
    ]


def test_a_series_has_one_point_in_a_request() -> None:
    later: TrafficRecord = {
        **FLOW,
        "window": {**FLOW["window"], "end_unix": FLOW["window"]["end_unix"] + 1},
    }
    points = points_of([FLOW, later])
    assert [point.value for point in points] == [2 * point.value for point in points_of([FLOW])]
    assert {(point.start_ns, point.end_ns) for point in points} == {
        (START_NS, START_NS + 2_000_000_000)
    }


def test_hostile_names_are_unchanged() -> None:
    found = resource(points_of([HOSTILE])[0])
    assert found["process.command"] == HOSTILE["process"]["command"]
    assert found["process.command_args"] == HOSTILE["process"]["command_args"]
    assert encode_request(points_of([HOSTILE]), "delta")


def test_the_answer_of_a_collector_is_decoded() -> None:
    answer = ExportMetricsServiceResponse()
    answer.partial_success.rejected_data_points = 3
    answer.partial_success.error_message = "too old"
    assert decode_response(answer.SerializeToString()) == (3, "too old")
    assert decode_response(b"") == (0, "")
    assert decode_status(b"\x08\x03\x12\x04oops") == "oops"  # google.rpc.Status


@given(st.binary())
def test_any_answer_is_decoded(body: bytes) -> None:
    assert isinstance(decode_response(body).reason, str)
    assert isinstance(decode_status(body), str)

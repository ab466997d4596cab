"""The port of the service: one of the two ports of a flow, by the rule of docs/record.md."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support.flow_sums import FlowAggregator
from support.traffic import NGINX, exact, flows, make_flow, make_traffic

from hogpipe.aggregation.selectors import parse_selector
from hogpipe.model import OWN_NAMESPACE, UNKNOWN_FLOW, FlowKey, ServicePorts
from hogpipe.protocols import ICMP, SCTP, TCP, UDP

HOST = ServicePorts(frozenset({22, 8080, 45_000}), (32_768, 60_999))
OTHER_NAMESPACES = [4_026_532_000, None]


def find(
    local: int,
    remote: int,
    *,
    protocol: int = TCP,
    namespace: int | None = OWN_NAMESPACE,
    ports: ServicePorts = HOST,
) -> int:
    flow = make_flow(local, remote_port=remote, protocol=protocol)
    return ports.find(replace(flow, namespace=namespace))


@pytest.mark.parametrize("remote", [22, 80, 1024, 40_000, 65_000])
def test_a_listening_local_port_is_that_of_the_service(remote: int) -> None:
    assert [find(local, remote) for local in (22, 8080, 45_000)] == [22, 8080, 45_000]


@pytest.mark.parametrize("protocol", [TCP, UDP, SCTP])
@pytest.mark.parametrize("namespace", [OWN_NAMESPACE, *OTHER_NAMESPACES])
def test_of_one_ephemeral_port_the_other_one_is_that_of_the_service(
    protocol: int, namespace: int | None
) -> None:
    known = {"protocol": protocol, "namespace": namespace}
    assert find(40_000, 443, **known) == 443
    assert find(40_000, 61_000, **known) == 61_000
    assert find(443, 40_000, **known) == 443


@pytest.mark.parametrize(("local", "remote"), [(40_000, 50_000), (50_000, 40_000), (800, 2049)])
def test_a_local_port_of_tcp_on_which_nothing_listens_is_the_clients(
    local: int, remote: int
) -> None:
    assert find(local, remote) == remote


@pytest.mark.parametrize(("local", "remote"), [(40_000, 50_000), (50_000, 40_000), (123, 1025)])
@pytest.mark.parametrize(
    "known",
    [
        {"protocol": UDP},
        {"protocol": SCTP},
        *({"namespace": namespace} for namespace in OTHER_NAMESPACES),
        {"ports": ServicePorts()},
    ],
)
def test_where_no_listener_is_known_both_ends_agree_on_the_lower_port(
    local: int, remote: int, known: dict[str, object]
) -> None:
    assert find(local, remote, **known) == find(remote, local, **known) == min(local, remote)


def test_a_listener_of_this_namespace_does_not_count_in_another_one() -> None:
    assert [find(45_000, 40_000, namespace=other) for other in OTHER_NAMESPACES] == [40_000] * 2


def test_udp_has_no_listeners() -> None:
    assert find(45_000, 40_000, protocol=UDP) == 40_000


def test_a_protocol_without_ports_has_no_service_port() -> None:
    assert find(7, 7, protocol=ICMP) == 0
    assert HOST.find(UNKNOWN_FLOW) == 0


@given(flows, st.frozensets(st.sampled_from([22, 443, 40_000])) | st.none())
def test_the_port_is_one_of_the_flows_ports(
    flow: FlowKey, listening: frozenset[int] | None
) -> None:
    assert ServicePorts(listening).find(flow) in {flow.local_port, flow.remote_port, 0}


def test_a_group_keeps_its_port_when_the_ports_of_the_host_change() -> None:
    aggregator = FlowAggregator(["port"], [], 10)
    aggregator.service_ports = ServicePorts(frozenset())
    served = make_flow(40_000, remote_port=50_000)
    aggregator.ingest_flow(served, make_traffic((1, 1)), exact(NGINX))
    aggregator.service_ports = ServicePorts(frozenset({40_000}))
    bodies = aggregator.drain()
    aggregator.ingest_flow(served, make_traffic((2, 1)), exact(NGINX))
    moved = [
        (body["server"]["port"], body["network"]["io"]["transmit"]["bytes"])
        for window in (bodies, aggregator.drain())
        for body in window
    ]
    assert moved == [(50_000, 1), (40_000, 2)]


def test_service_ports_are_needed_by_the_dimension_and_by_the_selector() -> None:
    assert FlowAggregator(["port"], [], 1).needs_service_ports
    assert FlowAggregator([], [parse_selector("!port:22")], 1).needs_service_ports
    assert not FlowAggregator(["flow"], [parse_selector("remote:::1")], 1).needs_service_ports

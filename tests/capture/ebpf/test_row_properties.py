"""Ports of services and networks in columns are those of `ServicePorts` and `Networks`."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hogpipe.capture.ebpf.row_properties import find_networks, find_service_ports
from hogpipe.flows.network_columns import NetworkColumns
from hogpipe.linux.bpf.shapes import TRAFFIC_ROW
from hogpipe.linux.bpf.traffic_rows import encode_endpoints
from hogpipe.model import BUILT_IN_NETWORKS, OWN_NAMESPACE, FlowKey, ServicePorts
from hogpipe.protocols import ICMP, SCTP, TCP, UDP

HERE, THERE, OWN = b"\x0a\0\0\1", b"\x0a\0\0\2", 7

ports = st.sampled_from([0, 1, 22, 443, 32_767, 32_768, 40_000, 60_999, 61_000, 65_535])
ends = st.tuples(
    st.sampled_from([TCP, UDP, SCTP, ICMP, 0]), ports, ports, st.sampled_from([OWN, 8])
)
known = st.builds(
    ServicePorts,
    st.none() | st.frozensets(ports, max_size=4),
    st.sampled_from([(32_768, 60_999), (1024, 65_535), (5, 4)]),
)


@given(st.lists(ends, max_size=20), known)
def test_a_column_has_the_port_of_each_flow(
    flows: list[tuple[int, int, int, int]], known: ServicePorts
) -> None:
    rows = np.zeros(len(flows), TRAFFIC_ROW)
    expected = []
    for row, (protocol, local, remote, namespace) in zip(rows, flows, strict=True):
        endpoints = encode_endpoints(HERE, local, THERE, remote, protocol)
        row["endpoints"] = np.frombuffer(endpoints, np.uint64)
        row["namespace"] = namespace
        inode = OWN_NAMESPACE if namespace == OWN else None
        expected.append(known.find(FlowKey(protocol, HERE, local, THERE, remote, "", inode)))
    assert find_service_ports(rows, known, OWN).tolist() == expected


@given(st.lists(st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)))
def test_a_column_has_the_network_of_each_remote_address(remotes: list[bytes]) -> None:
    rows = np.zeros(len(remotes) + 1, TRAFFIC_ROW)  # the last one is of no flow
    for row, remote in zip(rows, remotes, strict=False):
        here = HERE if len(remote) == 4 else bytes(16)
        row["endpoints"] = np.frombuffer(encode_endpoints(here, 1, remote, 2, TCP), np.uint64)
    found = find_networks(rows, NetworkColumns(BUILT_IN_NETWORKS)).tolist()
    names = [BUILT_IN_NETWORKS.names[number] for number in found]
    assert names == [*map(BUILT_IN_NETWORKS.find, remotes), ""]

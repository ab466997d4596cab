"""Flows are found by their endpoints alone, as one by one over all flows of a table."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support.traffic import make_flow

from hogpipe.flows.endpoint_match import Reach, match_endpoints
from hogpipe.flows.flow_table import FlowTable
from hogpipe.flows.flow_words import FlowPacker
from hogpipe.flows.key_index import ABSENT, Keys
from hogpipe.model import OWN_NAMESPACE, FlowDelta, FlowKey

addresses = st.sampled_from([bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), bytes(15) + b"\x01"])
ports = st.sampled_from([80, 40000])
known = st.builds(
    FlowKey,
    st.sampled_from([6, 6, 6, 17]),
    addresses,
    ports,
    addresses | st.just(b""),  # that of a sum of flows
    ports,
    st.sampled_from(["eth0", "lo"]),
    st.sampled_from([OWN_NAMESPACE, 7, 8, None]),
)
sockets = st.tuples(
    st.builds(FlowKey, st.just(6), addresses, ports, addresses, ports, st.just("")),
    st.sampled_from(Reach),
)


def pack_sockets(flows: list[FlowKey]) -> Keys:
    """Return words without names, as those of rows are."""
    return FlowPacker().pack(replace(flow, interface="", namespace=None) for flow in flows)


def find(socket: FlowKey, reach: Reach, flows: list[FlowKey], used_at: list[int]) -> int:
    tried = {
        Reach.OWN: [{OWN_NAMESPACE}, {None}],
        Reach.OTHER: [{7, 8}, {None}],
        Reach.ANY: [{OWN_NAMESPACE}, {7, 8}, {None}],
    }
    for namespaces in tried[reach]:
        fits = [
            place
            for place, flow in enumerate(flows)
            if flow.namespace in namespaces
            and replace(flow, interface="", namespace=OWN_NAMESPACE) == socket
        ]
        if len({flows[place].namespace for place in fits}) == 1:
            return max(fits, key=lambda place: (used_at[place], place))
    return ABSENT


@given(
    st.lists(st.tuples(known, st.integers(0, 3)), max_size=12, unique_by=lambda one: one[0]),
    st.lists(sockets, max_size=6),
)
def test_each_socket_has_the_flow_with_its_endpoints_that_was_used_last(
    table: list[tuple[FlowKey, int]], asked: list[tuple[FlowKey, Reach]]
) -> None:
    flows, used_at = [flow for flow, _ in table], [time for _, time in table]
    packer = FlowPacker()
    found = match_endpoints(
        pack_sockets([socket for socket, _ in asked]),
        np.array([reach for _, reach in asked], np.int64),
        packer.pack(flows),
        np.array(used_at, np.float64),
        packer,
    )
    assert found.tolist() == [find(socket, reach, flows, used_at) for socket, reach in asked]


def test_a_table_finds_its_slots() -> None:
    table = FlowTable(100, 100)
    flows = [make_flow(local_port=port) for port in (1, 2)]
    table.receive({flow: FlowDelta() for flow in flows}, 0.0)
    slots, _ = table.give_slots(table.packer.pack(flows), 0.0)
    asked = pack_sockets([flows[1], make_flow(local_port=3)])
    found = table.find_connections(asked, np.full(2, Reach.OWN, np.int64))
    assert found.tolist() == [slots[1], ABSENT]

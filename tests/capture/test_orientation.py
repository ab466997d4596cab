import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.traffic import make_delta

from hogpipe.capture.decode.decoder import WireFlows
from hogpipe.capture.decode.wire_key import Direction, WireKey, pack_key
from hogpipe.capture.local_addresses import LocalAddresses
from hogpipe.capture.orientation import Orientation
from hogpipe.flows.flow_batch import FlowBatch
from hogpipe.model import FlowDelta, FlowKey, Tally

US = b"\x0a\0\0\1"
PEER = b"\x0a\0\0\2"
OTHER = b"\x0a\0\0\3"
GROUP = socket.inet_aton("224.0.0.251")
LOCAL = LocalAddresses(frozenset({US}), ((0x7F000000, 0xFF000000),))
TCP, UDP = 6, 17


def wire(*keys: bytes) -> WireFlows:
    count = len(keys)
    return WireFlows(
        keys=list(keys),
        packets=[1] * count,
        bytes=[100] * count,
        opened=[False] * count,
        first_ns=[0] * count,
        last_ns=[0] * count,
    )


def key(source: bytes, destination: bytes, direction: Direction = Direction.UNKNOWN) -> bytes:
    return pack_key(WireKey(4, TCP, direction, source, 1000, destination, 80))


def orient(packed: bytes, local: LocalAddresses = LOCAL) -> FlowBatch:
    batch = FlowBatch()
    Orientation("eth0", local).orient(wire(packed), batch)
    return batch


TRANSMITTED = {FlowKey(TCP, US, 1000, PEER, 80, "eth0"): make_delta(transmit=(100, 1))}


def received(source: bytes, destination: bytes) -> dict[FlowKey, FlowDelta]:
    return {FlowKey(TCP, destination, 80, source, 1000, "eth0"): make_delta(receive=(100, 1))}


def test_a_packet_from_a_local_address_is_transmitted() -> None:
    assert orient(key(US, PEER)).flows == TRANSMITTED


def test_a_packet_to_a_local_address_is_received() -> None:
    assert orient(key(PEER, US)).flows == received(PEER, US)


def test_a_packet_without_a_local_address_is_only_counted() -> None:
    batch = orient(key(PEER, OTHER))
    assert batch.flows == {}
    assert batch.counts.not_local == Tally(1, 100)


def test_a_packet_between_local_addresses_counts_on_both_sides() -> None:
    batch = orient(key(b"\x7f\0\0\1", b"\x7f\0\0\2"))
    assert sum(delta.transmit_bytes for delta in batch.flows.values()) == 100
    assert sum(delta.receive_bytes for delta in batch.flows.values()) == 100
    assert batch.counts.both_sides == Tally(1, 100)


def test_a_multicast_from_outside_is_received_and_the_hosts_own_is_only_transmitted() -> None:
    assert orient(key(PEER, GROUP)).flows == received(PEER, GROUP)
    (flow,) = orient(key(US, GROUP)).flows
    assert flow.local_address == US


def test_a_multicast_on_the_loopback_counts_on_both_sides() -> None:
    on_loopback = LocalAddresses(LOCAL.addresses, LOCAL.prefixes, loopback=True)
    assert orient(key(US, GROUP), on_loopback).counts.both_sides == Tally(1, 100)


def test_where_the_link_header_has_the_direction_each_pass_counts_on_one_side() -> None:
    assert orient(key(US, PEER, Direction.OUTGOING)).flows == TRANSMITTED
    out = orient(key(US, US, Direction.OUTGOING))
    assert [delta.transmit_bytes for delta in out.flows.values()] == [100]
    assert not out.counts.both_sides.packets
    back = orient(key(US, US, Direction.INCOMING))
    assert [delta.receive_bytes for delta in back.flows.values()] == [100]


def test_a_cooked_loopback_packet_counts_on_both_sides() -> None:
    assert orient(key(US, US, Direction.LOOPBACK)).counts.both_sides == Tally(1, 100)


def test_new_addresses_invalidate_the_orientation_of_known_flows() -> None:
    orientation = Orientation("eth0", LOCAL)
    batch = FlowBatch()
    orientation.orient(wire(key(OTHER, PEER)), batch)
    orientation.update("eth0", LocalAddresses(frozenset({OTHER})))
    orientation.orient(wire(key(OTHER, PEER)), batch)
    assert batch.counts.not_local == Tally(1, 100)
    assert [flow.local_address for flow in batch.flows] == [OTHER]


def test_a_renamed_interface_carries_its_new_name() -> None:
    orientation = Orientation("eth0", LOCAL)
    batch = FlowBatch()
    orientation.update("wan0", LOCAL)
    orientation.orient(wire(key(US, PEER)), batch)
    assert [flow.interface for flow in batch.flows] == ["wan0"]


def test_keys_without_packets_are_evicted_after_two_generations() -> None:
    orientation = Orientation("eth0", LOCAL)
    orientation.orient(wire(key(US, PEER), key(PEER, US)), FlowBatch())
    for _ in range(3):
        orientation.start_generation()
        orientation.orient(wire(key(US, PEER)), FlowBatch())
        assert orientation.cached_keys
    orientation.start_generation()
    assert orientation.cached_keys
    orientation.start_generation()
    assert orientation.cached_keys == 0


def many_keys(count: int, first: int = 0) -> list[bytes]:
    return [
        pack_key(WireKey(4, UDP, Direction.UNKNOWN, number.to_bytes(4, "big"), 7, US, 80))
        for number in range(first, first + count)
    ]


def count_cached(orientation: Orientation, keys: list[bytes]) -> int:
    """Return how many keys have a flow key that is kept: it is the same object the next time."""
    batches = [FlowBatch(), FlowBatch()]
    for batch in batches:
        orientation.orient(wire(*keys), batch)
    once, again = (list(batch.flows) for batch in batches)
    assert once == again
    return sum(one is other for one, other in zip(once, again, strict=True))


@pytest.mark.parametrize("leads_to_container", [False, True])
def test_of_a_crowd_of_keys_those_that_come_once_are_not_cached(leads_to_container: bool) -> None:
    orientation, known = Orientation("eth0", LOCAL), many_keys(100)
    assert count_cached(orientation, known) == 100
    for first in range(1000, 21_000, 1000):
        flood, batch = wire(*many_keys(1000, first)), FlowBatch()
        if leads_to_container:
            orientation.has_unknown_endpoints(flood)
        orientation.orient(flood, batch)
        assert len(batch.flows) == 1000
    assert count_cached(orientation, known) == 100
    assert count_cached(orientation, many_keys(1000, 20_000)) >= 950, "most that come again"
    assert orientation.cached_keys < 3200


ADDRESSES = st.sampled_from([US, PEER, OTHER, GROUP, b"\x7f\0\0\1"])


@given(
    st.lists(st.tuples(ADDRESSES, ADDRESSES, st.sampled_from(Direction)), max_size=20),
    st.booleans(),
)
def test_every_byte_is_on_a_side_or_in_a_count(
    packets: list[tuple[bytes, bytes, Direction]], loopback: bool
) -> None:
    local = LocalAddresses(LOCAL.addresses, LOCAL.prefixes, loopback=loopback)
    batch = FlowBatch()
    Orientation("eth0", local).orient(wire(*[key(*packet) for packet in packets]), batch)
    counts = batch.counts
    moved = sum(delta.total_bytes for delta in batch.flows.values())
    assert moved == counts.captured.bytes - counts.not_local.bytes + counts.both_sides.bytes

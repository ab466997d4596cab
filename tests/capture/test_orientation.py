import socket

from hypothesis import given
from hypothesis import strategies as st
from support.traffic import make_delta

from hogpipe.capture.decode.wire_flows import Direction, WireFlows, WireKey, pack_key
from hogpipe.capture.local_addresses import LocalAddresses
from hogpipe.capture.orientation import Orientation
from hogpipe.model import FlowBatch, FlowDelta, FlowKey, Tally

US = b"\x0a\0\0\1"
PEER = b"\x0a\0\0\2"
STRANGER = b"\x0a\0\0\3"
GROUP = socket.inet_aton("224.0.0.251")
LOCAL = LocalAddresses(frozenset({US}), ((0x7F000000, 0xFF000000),))
TCP = 6


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


def turn(packed: bytes, local: LocalAddresses = LOCAL) -> FlowBatch:
    batch = FlowBatch()
    Orientation("eth0", local).turn(wire(packed), batch)
    return batch


SENT = {FlowKey(TCP, US, 1000, PEER, 80, "eth0"): make_delta(transmit=(100, 1))}


def received(source: bytes, destination: bytes) -> dict[FlowKey, FlowDelta]:
    return {FlowKey(TCP, destination, 80, source, 1000, "eth0"): make_delta(receive=(100, 1))}


def test_a_packet_from_here_is_sent() -> None:
    assert turn(key(US, PEER)).flows == SENT


def test_a_packet_to_here_is_received() -> None:
    assert turn(key(PEER, US)).flows == received(PEER, US)


def test_a_packet_between_others_is_counted_and_belongs_to_nobody() -> None:
    batch = turn(key(PEER, STRANGER))
    assert batch.flows == {}
    assert batch.counts.not_local == Tally(1, 100)


def test_a_packet_from_here_to_here_counts_on_both_sides() -> None:
    batch = turn(key(b"\x7f\0\0\1", b"\x7f\0\0\2"))
    assert sum(delta.transmit_bytes for delta in batch.flows.values()) == 100
    assert sum(delta.receive_bytes for delta in batch.flows.values()) == 100
    assert batch.counts.both_sides == Tally(1, 100)


def test_a_multicast_from_outside_is_received_and_our_own_is_only_sent() -> None:
    assert turn(key(PEER, GROUP)).flows == received(PEER, GROUP)
    (flow,) = turn(key(US, GROUP)).flows
    assert flow.local_address == US


def test_a_multicast_on_the_loopback_counts_on_both_sides() -> None:
    on_loopback = LocalAddresses(LOCAL.addresses, LOCAL.prefixes, loopback=True)
    assert turn(key(US, GROUP), on_loopback).counts.both_sides == Tally(1, 100)


def test_where_the_link_tells_the_way_each_pass_counts_on_one_side() -> None:
    assert turn(key(US, PEER, Direction.OUTGOING)).flows == SENT
    out = turn(key(US, US, Direction.OUTGOING))
    assert [delta.transmit_bytes for delta in out.flows.values()] == [100]
    assert not out.counts.both_sides.packets
    back = turn(key(US, US, Direction.INCOMING))
    assert [delta.receive_bytes for delta in back.flows.values()] == [100]


def test_a_cooked_loopback_packet_counts_on_both_sides() -> None:
    assert turn(key(US, US, Direction.LOOPBACK)).counts.both_sides == Tally(1, 100)


def test_new_addresses_turn_flows_that_were_known() -> None:
    direction = Orientation("eth0", LOCAL)
    batch = FlowBatch()
    direction.turn(wire(key(STRANGER, PEER)), batch)
    direction.update("eth0", LocalAddresses(frozenset({STRANGER})))
    direction.turn(wire(key(STRANGER, PEER)), batch)
    assert batch.counts.not_local == Tally(1, 100)
    assert [flow.local_address for flow in batch.flows] == [STRANGER]


def test_a_renamed_interface_carries_its_new_name() -> None:
    direction = Orientation("eth0", LOCAL)
    batch = FlowBatch()
    direction.update("wan0", LOCAL)
    direction.turn(wire(key(US, PEER)), batch)
    assert [flow.interface for flow in batch.flows] == ["wan0"]


ADDRESSES = st.sampled_from([US, PEER, STRANGER, GROUP, b"\x7f\0\0\1"])


@given(
    st.lists(st.tuples(ADDRESSES, ADDRESSES, st.sampled_from(Direction)), max_size=20),
    st.booleans(),
)
def test_every_byte_is_on_a_side_or_in_a_count(
    packets: list[tuple[bytes, bytes, Direction]], loopback: bool
) -> None:
    local = LocalAddresses(LOCAL.addresses, LOCAL.prefixes, loopback=loopback)
    batch = FlowBatch()
    Orientation("eth0", local).turn(wire(*[key(*packet) for packet in packets]), batch)
    counts = batch.counts
    moved = sum(delta.total_bytes for delta in batch.flows.values())
    assert moved == counts.captured.bytes - counts.not_local.bytes + counts.both_sides.bytes

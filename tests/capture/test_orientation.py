"""Which packets are local, in which namespace: one after the other, and many at once."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.traffic import make_delta
from support.wired import SIZE, Wiretap, make_key, orient_plainly, packets_of

from hogpipe.capture.decode.wire_key import Direction, WireKey
from hogpipe.capture.local_addresses import LocalAddresses
from hogpipe.capture.orientation import find_sides
from hogpipe.capture.vector_orientation import VectorOrientation, number_namespaces
from hogpipe.capture.wire_interfaces import MANY_KEYS
from hogpipe.flows.flow_words import Numbering
from hogpipe.model import OWN_NAMESPACE, FlowDelta, FlowKey, Tally

US, PEER, OTHER = b"\x0a\0\0\1", b"\x0a\0\0\2", b"\x0a\0\0\3"
US_V6, PEER_V6 = b"\xfd" + bytes(14) + b"\1", b"\xfd" + bytes(14) + b"\2"
GROUP = socket.inet_aton("224.0.0.251")
GROUP_V6 = socket.inet_pton(socket.AF_INET6, "ff02::fb")
BROADCAST, SUBNET_BROADCAST = b"\xff\xff\xff\xff", b"\x0a\0\0\xff"
LOOPBACK, ANOTHER_LOOPBACK = b"\x7f\0\0\1", b"\x7f\0\0\2"
LOCAL = LocalAddresses(
    frozenset({US, US_V6}), ((0x7F000000, 0xFF000000),), frozenset({SUBNET_BROADCAST})
)
TCP = 6
RED, BLUE = 4026532001, 4026532002


class Oriented(Wiretap):
    """What a packet comes to; the same whether it is alone or one of many."""

    def __init__(self, key: WireKey, local: LocalAddresses = LOCAL) -> None:
        super().__init__()
        many = Wiretap()
        for one, copies in ((self, 1), (many, MANY_KEYS)):
            one.add("eth0", local)
            one.capture(*[key] * copies)
            assert one.is_conserved
        multiplied: dict[FlowKey, FlowDelta] = {}
        for flow, delta in self.flows.items():
            for _ in range(MANY_KEYS):
                multiplied.setdefault(flow, FlowDelta()).add(delta)
        assert many.flows == multiplied


TRANSMITTED = {FlowKey(TCP, US, 1000, PEER, 80, "eth0"): make_delta(transmit=(SIZE, 1))}


def received(source: bytes, destination: bytes) -> dict[FlowKey, FlowDelta]:
    return {FlowKey(TCP, destination, 80, source, 1000, "eth0"): make_delta(receive=(SIZE, 1))}


def test_a_packet_from_a_local_address_is_transmitted() -> None:
    assert Oriented(make_key(US, PEER)).flows == TRANSMITTED


def test_a_packet_to_a_local_address_is_received() -> None:
    assert Oriented(make_key(PEER, US)).flows == received(PEER, US)
    assert Oriented(make_key(PEER_V6, US_V6)).flows == received(PEER_V6, US_V6)


def test_a_packet_without_a_local_address_is_only_counted() -> None:
    found = Oriented(make_key(PEER, OTHER))
    assert found.flows == {}
    assert found.counts.not_local == Tally(1, SIZE)


def test_a_packet_between_local_addresses_counts_on_both_sides() -> None:
    found = Oriented(make_key(LOOPBACK, ANOTHER_LOOPBACK))
    assert sum(delta.transmit_bytes for delta in found.flows.values()) == SIZE
    assert sum(delta.receive_bytes for delta in found.flows.values()) == SIZE
    assert found.counts.both_sides == Tally(1, SIZE)


@pytest.mark.parametrize("group", [GROUP, BROADCAST, SUBNET_BROADCAST])
def test_a_packet_to_a_group_is_received_and_the_hosts_own_is_only_transmitted(
    group: bytes,
) -> None:
    assert Oriented(make_key(PEER, group)).flows == received(PEER, group)
    (flow,) = Oriented(make_key(US, group)).flows
    assert flow.local_address == US


def test_a_multicast_over_ipv6_is_received() -> None:
    assert Oriented(make_key(PEER_V6, GROUP_V6)).flows == received(PEER_V6, GROUP_V6)


def test_a_multicast_on_the_loopback_counts_on_both_sides() -> None:
    on_loopback = LocalAddresses(LOCAL.addresses, LOCAL.prefixes, loopback=True)
    assert Oriented(make_key(US, GROUP), on_loopback).counts.both_sides == Tally(1, SIZE)


def test_where_the_link_header_has_the_direction_each_pass_counts_on_one_side() -> None:
    assert Oriented(make_key(US, PEER, Direction.OUTGOING)).flows == TRANSMITTED
    out = Oriented(make_key(US, US, Direction.OUTGOING))
    assert [delta.transmit_bytes for delta in out.flows.values()] == [SIZE]
    assert not out.counts.both_sides.packets
    back = Oriented(make_key(US, US, Direction.INCOMING))
    assert [delta.receive_bytes for delta in back.flows.values()] == [SIZE]


def test_a_cooked_loopback_packet_counts_on_both_sides() -> None:
    found = Oriented(make_key(US, US, Direction.LOOPBACK))
    assert found.counts.both_sides == Tally(1, SIZE)


ADDRESSES = st.sampled_from([US, PEER, OTHER, GROUP, BROADCAST, SUBNET_BROADCAST, LOOPBACK,
                             bytes(4)])  # fmt: skip
ADDRESSES_V6 = st.sampled_from([US_V6, PEER_V6, GROUP_V6, bytes(16), bytes(15) + b"\1",
                                US + bytes(12), BROADCAST + bytes(12)])  # fmt: skip
KEYS = st.one_of(
    st.builds(make_key, ADDRESSES, ADDRESSES, st.sampled_from(Direction)),
    st.builds(make_key, ADDRESSES_V6, ADDRESSES_V6, st.sampled_from(Direction)),
)


@st.composite
def local_addresses(draw: st.DrawFn) -> LocalAddresses:
    known = st.frozensets(st.one_of(ADDRESSES, ADDRESSES_V6), max_size=3)
    local = LocalAddresses(
        draw(known),
        draw(st.sampled_from([(), LOCAL.prefixes, ((0x0A000000, 0xFFFFFFFE),)])),
        draw(known),
        loopback=draw(st.booleans()),
    )
    namespaces = draw(st.sets(st.sampled_from([RED, BLUE])))
    containers = {one: LocalAddresses(draw(known), broadcasts=draw(known)) for one in namespaces}
    return local.with_containers(containers, containers_only=draw(st.booleans()))


@given(st.lists(KEYS, min_size=1, max_size=30), local_addresses())
def test_many_packets_are_oriented_as_each_by_itself(
    keys: list[WireKey], local: LocalAddresses
) -> None:
    numbers: Numbering[int | None] = Numbering()
    numbers.number(OWN_NAMESPACE)
    columns = VectorOrientation(local, numbers).orient(packets_of(*keys).keys)
    plain = [find_sides(key, local) for key in keys]
    for found, expected in zip(columns, zip(*plain, strict=True), strict=True):
        assert found.tolist() == [number_namespaces(one, numbers) for one in expected]


@given(
    st.lists(st.lists(KEYS, max_size=MANY_KEYS + 5), min_size=1, max_size=3),
    st.lists(local_addresses(), min_size=3, max_size=3),
)
def test_flows_of_several_interfaces_are_those_of_each_packet_by_itself(
    keys: list[list[WireKey]], views: list[LocalAddresses]
) -> None:
    tap, expected = Wiretap(), dict[FlowKey, FlowDelta]()
    names = ["eth0", "eth1", "eth0"]
    for name, view in zip(names, views, strict=True):
        tap.add(name, view)
    for _ in range(2):  # the second time all keys are known
        tap.capture_on(dict(enumerate(keys)))
        for of_interface, name, view in zip(keys, names, views, strict=False):
            for key in of_interface:
                for flow, delta in orient_plainly(key, name, view).items():
                    expected.setdefault(flow, FlowDelta()).add(delta)
        assert tap.flows == expected
        assert tap.is_conserved

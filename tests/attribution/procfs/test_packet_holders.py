"""Who holds the packet sockets of an interface sends the datagrams that no other socket sends."""

import os

import msgspec
import pytest

from hogpipe.attribution.procfs.packet_holders import (
    PacketHolders,
    find_holders,
    is_candidate,
    may_send,
)
from hogpipe.linux.packet_sockets import PacketSocket
from hogpipe.linux.procfs import ProcessIdentity
from hogpipe.model import FlowDelta, FlowKey, Process
from hogpipe.protocols import ICMP, NANOSECONDS, TCP, UDP

HERE, THERE = b"\x0a\0\0\1", b"\x0a\0\0\2"
FLOW = FlowKey(UDP, HERE, 40000, THERE, 7, "eth0")
GENERATOR = Process(7, 1000)
ONE, OTHER = ProcessIdentity(7, 1000), ProcessIdentity(8, 1000)
LONG = FlowDelta(transmit_packets=2, first_ns=1, last_ns=1 + NANOSECONDS // 2)


def bound(inode: int, interface: int = 2, ethertype: int = 0) -> PacketSocket:
    return PacketSocket(inode, interface, ethertype, 0)


def infer(flow: FlowKey = FLOW, moved: FlowDelta = LONG, now: float = 3.0) -> Process | None:
    holders = PacketHolders()
    holders.record({"eth0": {GENERATOR}}, 1.0)
    return holders.infer(flow, moved, now)


def test_a_flow_that_is_transmitted_for_long_without_a_socket_is_the_holders() -> None:
    assert infer() is GENERATOR
    assert PacketHolders().infer(FLOW, LONG, 3.0) is None


@pytest.mark.parametrize(
    "moved",
    [
        FlowDelta(receive_packets=9, first_ns=1, last_ns=NANOSECONDS),
        FlowDelta(transmit_packets=1, receive_packets=9, first_ns=1, last_ns=NANOSECONDS),
        FlowDelta(transmit_packets=9, first_ns=1, last_ns=NANOSECONDS // 2),
        FlowDelta(transmit_packets=9),
    ],
    ids=["received", "sent once", "short", "no times"],
)
def test_what_an_ordinary_socket_may_have_moved_is_no_evidence(moved: FlowDelta) -> None:
    assert infer(moved=moved) is None


@pytest.mark.parametrize(
    "change", [{"protocol": TCP}, {"protocol": ICMP}, {"namespace": 9}, {"namespace": None}]
)
def test_the_rule_is_for_datagrams_of_our_own_namespace(change: dict[str, int | None]) -> None:
    flow = msgspec.structs.replace(FLOW, **change)
    assert not is_candidate(flow)
    assert infer(flow) is None


def test_holders_of_another_interface_or_of_long_ago_are_none() -> None:
    assert infer(msgspec.structs.replace(FLOW, interface="eth1")) is None
    assert infer(now=6.1) is None


def test_holders_are_those_of_sockets_at_the_interface_or_at_none() -> None:
    owners = {1: ONE, 2: ONE, 3: OTHER}
    assert find_holders([bound(1), bound(2, interface=0)], 2, owners) == {ONE}
    assert find_holders([bound(1), bound(3, interface=5)], 2, owners) == {ONE}
    assert find_holders([bound(1), bound(3), bound(4)], 2, owners) == {ONE, OTHER, None}
    assert find_holders([bound(3, interface=5)], 2, owners) == set()


@pytest.mark.parametrize("other", [Process(8, 1000), None])
def test_two_holders_are_none_also_one_after_the_other(other: Process | None) -> None:
    for lookups in ([{GENERATOR, other}], [{GENERATOR}, {other}], [{other}, set(), {GENERATOR}]):
        holders = PacketHolders()
        for at, found in enumerate(lookups):
            holders.record({"eth0": found}, float(at))
        assert holders.infer(FLOW, LONG, 3.0) is None


def test_a_holder_that_has_ended_since_sent_what_passed_before() -> None:
    holders = PacketHolders()
    holders.record({"eth0": {GENERATOR}}, 1.0)
    holders.record({"eth0": set()}, 2.0)
    assert holders.infer(FLOW, LONG, 3.0) is GENERATOR


def test_hogpipe_itself_sends_nothing() -> None:
    owners = {1: ONE, 2: ProcessIdentity(os.getpid(), 1)}
    assert find_holders([bound(1), bound(2)], 2, owners) == {ONE}


def test_captures_and_other_protocols_than_ip_do_not_send() -> None:
    assert may_send(bound(1))
    assert may_send(bound(1, ethertype=0x0800))
    assert not may_send(bound(1, ethertype=0x88CC))
    assert not may_send(PacketSocket(1, 2, 3, 0, only_receives=True))

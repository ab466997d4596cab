"""The wire table: what it remembers, for how long, and what a flood does to it."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.lanes import open_lane
from support.traffic import NGINX, exact
from support.wired import SIZE, Wiretap, make_key, orient_plainly

from hogpipe.capture.decode.wire_key import WireKey
from hogpipe.capture.local_addresses import LocalAddresses
from hogpipe.capture.wire_interfaces import MANY_KEYS
from hogpipe.model import (
    UNATTRIBUTED,
    FlowDelta,
    FlowKey,
    Tally,
    fold_key,
    is_sum,
)

US, PEER, OTHER = b"\x0a\0\0\1", b"\x0a\0\0\2", b"\x0a\0\0\3"
LOCAL = LocalAddresses(frozenset({US}))
ELSEWHERE = LocalAddresses(frozenset({OTHER}))
TO_US = make_key(PEER, US)
NOT_LOCAL = make_key(PEER, OTHER)
FLOW = FlowKey(6, US, 80, PEER, 1000, "eth0")


def flood(count: int, first: int = 0, target: bytes = US) -> list[WireKey]:
    """Packets of different senders."""
    numbers = range(first, first + count)
    return [make_key((0x0B000000 + one).to_bytes(4, "big"), target, protocol=17) for one in numbers]


def tap_of(local: LocalAddresses = LOCAL, **bounds: int) -> Wiretap:
    tap = Wiretap(**bounds)
    tap.add("eth0", local)
    return tap


def slots_of(tap: Wiretap) -> int:
    """The number of flows that have slots, beside UNKNOWN_FLOW."""
    return len(tap.table) - 1


# Interfaces


def test_new_addresses_invalidate_the_orientation_of_known_flows() -> None:
    tap, outgoing = tap_of(), make_key(OTHER, PEER)
    tap.capture(outgoing)
    tap.wire.interfaces.update(0, "eth0", ELSEWHERE)
    assert [flow.local_address for flow in tap.capture(outgoing)] == [OTHER]
    assert tap.counts.not_local == Tally(1, SIZE)


@pytest.mark.parametrize("count", [1, MANY_KEYS])
def test_a_renamed_interface_gives_flows_its_new_name(count: int) -> None:
    tap = tap_of()
    assert [flow.interface for flow in tap.capture(*[TO_US] * count)] == ["eth0"]
    tap.wire.interfaces.update(0, "wan0", LOCAL)
    assert [flow.interface for flow in tap.capture(*[TO_US] * count)] == ["wan0"]


def test_an_update_without_a_change_keeps_all_keys() -> None:
    tap = tap_of()
    tap.capture(TO_US)
    tap.wire.interfaces.update(0, "eth0", LOCAL)
    tap.capture()
    assert len(tap.wire) == 1


def test_the_time_of_the_newest_key_is_kept() -> None:
    tap = tap_of()
    for tap.now, key in enumerate([TO_US, NOT_LOCAL, TO_US, NOT_LOCAL, NOT_LOCAL], 10):
        tap.capture(key)
    assert tap.wire.new_key_at == 11


def test_changes_of_an_interface_leave_the_keys_of_others() -> None:
    tap = tap_of()
    other = tap.add("eth1", LOCAL)
    tap.capture_on({0: [TO_US], other: [TO_US]})
    tap.wire.interfaces.update(0, "eth0", ELSEWHERE)
    tap.capture()
    assert len(tap.wire) == 1
    assert [flow.interface for flow in tap.capture(TO_US, interface=other)] == ["eth1"]


def test_packets_that_are_captured_before_their_interface_closes_are_located() -> None:
    tap = tap_of()
    tap.wire.interfaces.close(0)
    assert tap.wire.interfaces.add("eth1", ELSEWHERE) == 1, "the number is still in use"
    assert list(tap.capture(TO_US)) == [FLOW]
    assert tap.wire.interfaces.add("eth2", ELSEWHERE) == 0
    tap.capture(TO_US)
    assert tap.counts.not_local == Tally(1, SIZE), "keys of the former interface are dropped"


def test_an_interface_that_changes_while_packets_are_located_orients_them_again() -> None:
    tap, seen = Wiretap(), list[str]()

    def learn() -> None:
        seen.append("unknown endpoint")
        tap.wire.interfaces.update(0, "veth7", known, learn)

    known = LOCAL.with_containers({4026532001: LocalAddresses(frozenset({OTHER}))})
    tap.add("veth7", LOCAL, learn)
    tap.capture(TO_US)
    tap.wire.interfaces.update(0, "veth7", LOCAL, learn)
    flows = tap.capture(NOT_LOCAL, TO_US)
    assert FlowKey(6, OTHER, 80, PEER, 1000, "veth7", 4026532001) in flows
    assert len(flows) == 2
    assert tap.is_conserved
    assert seen


# Eviction


def test_keys_and_flows_without_packets_are_evicted() -> None:
    tap = tap_of()
    tap.capture(TO_US, NOT_LOCAL)
    for tap.now in (14.0, 29.0, 44.0):
        tap.capture(make_key(OTHER, US))
        tap.wire.evict(tap.now)
    assert (len(tap.wire), slots_of(tap)) == (1, 1)
    tap.now = 60.0
    tap.wire.evict(tap.now)
    assert (len(tap.wire), slots_of(tap)) == (0, 0)
    assert tap.wire.seconds_until_due(tap.now) is None


@pytest.mark.parametrize(("count", "evicted_at"), [(24, 75.0), (25, 30.0)])
def test_flows_with_owners_are_evicted_sooner_where_more_than_a_quarter_of_all_slots_is_used(
    count: int, evicted_at: float
) -> None:
    tap = tap_of(max_flows=100)
    for flow in tap.capture(*flood(count)):
        open_lane(tap.table, flow, exact(NGINX), due_at=inf)
    for tap.now in (15.0, 30.0, 45.0, 60.0, 75.0):
        tap.wire.evict(tap.now)
        assert slots_of(tap) == (count if tap.now < evicted_at else 0)


def test_keys_of_used_flows_stay() -> None:
    tap = tap_of()
    for tap.now in range(0, 100, 5):
        tap.capture(TO_US, NOT_LOCAL)
        tap.wire.evict(tap.now)
        assert len(tap.wire) == 2


def test_a_flow_with_an_owner_stays_longer_than_one_without() -> None:
    tap = tap_of()
    owned = make_key(PEER, US, port=7)
    (flow,) = tap.capture(owned)
    tap.capture(TO_US)
    open_lane(tap.table, flow, exact(NGINX), due_at=1e9)
    tap.wire.evict(0.0)
    tap.now = 40.0
    tap.wire.evict(tap.now)
    assert slots_of(tap) == 1
    assert tap.capture(owned) == {}, "it is still known"


def test_eviction_is_due_after_a_while_and_not_before() -> None:
    tap = tap_of()
    assert tap.wire.seconds_until_due(5.0) is None, "there is nothing to evict"
    tap.wire.evict(5.0)
    tap.capture(TO_US)
    assert tap.wire.seconds_until_due(5.0) == 15.0
    assert tap.wire.seconds_until_due(19.0) == 1.0
    assert tap.wire.seconds_until_due(30.0) == 0.0


def test_packets_of_evicted_flows_get_slots_again() -> None:
    tap = tap_of()
    for tap.now in (0.0, 20.0, 40.0, 60.0):
        assert list(tap.capture(TO_US)) == [FLOW]
        tap.wire.evict(tap.now)
        tap.capture(make_key(OTHER, US))


# Floods


def test_a_flood_is_folded_bounded_counted_and_whole() -> None:
    tap = tap_of(max_flows=400, max_unowned=100)
    for step in range(50):
        tap.now = step / 10
        tap.capture(*flood(200, 200 * step))
        tap.wire.evict(tap.now)
        assert slots_of(tap) <= 400 + 1
        assert len(tap.wire) <= 400
    folded = tap.flows.keys() & {fold_key(flow) for flow in tap.flows}
    assert len(folded) == 0, "sums are counted in the table"
    sums = tap.table.drain()
    counted = int(sums.counters[:, 2].sum())
    assert counted == tap.counts.overflowed.bytes > 9_000 * SIZE // 2
    moved = sum(delta.total_bytes for delta in tap.flows.values())
    assert moved + counted == tap.counts.captured.bytes == 10_000 * SIZE
    assert {is_sum(tap.table.packer.unpack(words)) for words in sums.words} == {True}


def test_known_flows_stay_known_in_a_flood() -> None:
    tap = tap_of(max_flows=400, max_unowned=100)
    (flow,) = tap.capture(TO_US)
    open_lane(tap.table, flow, UNATTRIBUTED, due_at=1e9)
    for step in range(100):
        tap.now = step / 10
        assert flow not in tap.capture(TO_US, *flood(100, 100 * step))
        tap.wire.evict(tap.now)


def test_after_a_flood_new_flows_have_slots_within_seconds() -> None:
    tap = tap_of(max_flows=400, max_unowned=100)
    tap.capture(*flood(300))
    for tap.now in (1.0, 2.0, 3.1, 4.2):
        tap.table.drain()
        tap.wire.evict(tap.now)
    assert list(tap.capture(TO_US)) == [FLOW]


def test_what_is_left_in_high_slots_after_a_flood_takes_low_ones() -> None:
    tap = tap_of()
    keys = flood(5000)
    tap.capture(*keys)
    last = keys[-2:]
    flows = dict.fromkeys(flow for key in last for flow in tap.capture(key))
    for flow in flows:
        open_lane(tap.table, flow, exact(NGINX), due_at=1e9)
    tap.wire.evict(0.0)
    for tap.now in (10.0, 16.0):
        assert tap.capture(*last, NOT_LOCAL) == {}
    tap.table.drain()
    tap.wire.evict(tap.now)
    assert slots_of(tap) == 2
    assert tap.table.capacity <= 64
    assert tap.capture(*last) == {}, "they are still known"
    sums = tap.table.drain()
    assert dict.fromkeys(map(tap.table.packer.unpack, sums.words)) == flows
    assert sums.counters[:, 2].tolist() == [SIZE, SIZE]
    assert list(tap.capture(TO_US)) == [FLOW]


def test_a_flood_of_packets_that_are_not_local_is_bounded_and_counted() -> None:
    tap = tap_of(max_flows=100)
    for step in range(50):
        tap.now = step / 10
        tap.capture(*flood(100, 100 * step, target=PEER))
        tap.wire.evict(tap.now)
        assert len(tap.wire) <= 400
    assert tap.counts.not_local == tap.counts.captured == Tally(5000, 5000 * SIZE)
    tap.now = 100.0
    tap.wire.evict(tap.now)
    assert len(tap.wire) == 0


# Replays


def test_no_flow_of_a_replay_is_folded() -> None:
    tap = tap_of(max_flows=64, reserve=32)
    piece = tap.wire.max_packets
    for step in range(40):
        if tap.table.is_crowded:
            tap.table.drain()
        flows = tap.capture(TO_US, *flood(piece - 1, step * (piece - 1)))
        for flow, delta in flows.items():
            tap.table.add([(flow, delta, UNATTRIBUTED)])
        assert len(flows) == piece
        assert slots_of(tap) <= 64
        tap.now += 0.001
    assert tap.counts.overflowed == Tally()
    assert tap.is_conserved


@given(
    st.lists(st.lists(st.integers(0, 30), max_size=7), min_size=1, max_size=30),
    st.sampled_from([0, 16]),
    st.sampled_from([0.0, 0.4, 6.0]),
)
def test_whatever_is_evicted_flows_are_those_of_each_packet_by_itself(
    batches: list[list[int]], reserve: int, pause: float
) -> None:
    tap = Wiretap(32, reserve=reserve)
    local = LocalAddresses(frozenset({US}), ((0x0B000000, 0xFFFFFFF8),))
    tap.add("eth0", local)
    expected, pool = dict[FlowKey, FlowDelta](), [*flood(15), *flood(15, 7, PEER), TO_US]
    for batch in batches:
        keys = [pool[one] for one in batch]
        if tap.table.is_crowded:
            tap.table.drain()
        tap.capture(*keys)
        tap.wire.evict(tap.now)
        for key in keys:
            for flow, delta in orient_plainly(key, "eth0", local).items():
                expected.setdefault(flow, FlowDelta()).add(delta)
        tap.now += pause
    if reserve:
        assert tap.counts.overflowed == Tally()
        assert tap.flows == expected
    folded = Tally(tap.counts.overflowed.packets, tap.counts.overflowed.bytes)
    moved = sum(delta.total_bytes for delta in tap.flows.values())
    assert moved + folded.bytes == sum(delta.total_bytes for delta in expected.values())

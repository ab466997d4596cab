"""The flow table: which packets it counts, for whom, and that none is lost."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support.lanes import open_lane
from support.traffic import NGINX, exact, make_flow, make_traffic

from hogpipe.flows import key_index
from hogpipe.flows.flow_table import FlowTable
from hogpipe.flows.flow_words import FlowPacker
from hogpipe.flows.key_index import ABSENT, Keys
from hogpipe.flows.lanes import PAUSE_NS
from hogpipe.flows.packet_rows import RECEIVE, FlowSums, Integers, PacketRows
from hogpipe.model import UNATTRIBUTED, Attribution, FlowDelta, FlowKey, TrafficCounts, fold_key

WEB = exact(NGINX)
CURL = exact(replace(NGINX, pid=77))
OLD = exact(replace(NGINX, created_ns=0))
FLOW, OTHER = make_flow(1), make_flow(2)
DATAGRAMS = make_flow(53, protocol=17)
ENDPOINT = ("udp", 53)
FOREVER = 1e9
SIZE = 100

Packet = tuple[FlowKey, int]
"""A flow, and when the packet passed."""


def make_table(max_flows: int = 100, max_unowned: int | None = None) -> FlowTable:
    return FlowTable(max_flows, max_flows if max_unowned is None else max_unowned)


def make_rows(
    table: FlowTable, packets: Sequence[Packet], *, opened: Sequence[bool] = (), now: float = 0.0
) -> PacketRows:
    """Return transmitted packets of SIZE bytes; the even ones are received."""
    count = len(packets)
    slots, _ = table.give_slots(table.packer.pack([flow for flow, _ in packets]), now)
    times = np.array([at for _, at in packets], np.int64)
    return PacketRows(
        slots,
        np.where(np.arange(count) % 2, 0, RECEIVE),
        np.full(count, SIZE, np.int64),
        np.ones(count, np.int64),
        np.array(opened or [False] * count, np.bool_),
        times,
        times,
    )


def hold(
    table: FlowTable, *packets: FlowKey | Packet, now: float = 0.0, opened: Sequence[bool] = ()
) -> dict[FlowKey, FlowDelta]:
    """Count packets; those of flows that the table does not count are held."""
    timed = [(one, 0) if isinstance(one, FlowKey) else one for one in packets]
    return table.count(make_rows(table, timed, opened=opened, now=now), now)


def count(
    table: FlowTable, *packets: FlowKey | Packet, now: float = 0.0, opened: Sequence[bool] = ()
) -> dict[FlowKey, FlowDelta]:
    """Count packets, and receive at once what the table does not count."""
    held = hold(table, *packets, now=now, opened=opened)
    table.receive(held, now)
    return held


def make_known(table: FlowTable, flow: FlowKey, owner: Attribution = WEB) -> None:
    count(table, flow)
    open_lane(table, flow, owner, due_at=FOREVER)


def make_gathering(table: FlowTable, flow: FlowKey) -> None:
    count(table, flow)
    table.gather([flow])


def pause(table: FlowTable, flow: FlowKey, *, at_ns: int, is_recorded: bool = True) -> list[bool]:
    """Return whether a packet came after a pause of the endpoint of its flow."""
    delta = FlowDelta(first_ns=at_ns, last_ns=at_ns)
    return table.judge_pauses([flow], [delta], [is_recorded])


def bytes_of(table: FlowTable, sums: FlowSums) -> dict[tuple[FlowKey, Attribution], int]:
    found: Counter[tuple[FlowKey, Attribution]] = Counter()
    for words, owner, counters in zip(sums.words, sums.owners, sums.counters, strict=True):
        key = table.packer.unpack(words), sums.attributions[owner]
        found[key] += int(counters[0] + counters[RECEIVE])
    return dict(found)


def drain(table: FlowTable) -> dict[tuple[FlowKey, Attribution], int]:
    return bytes_of(table, table.drain())


def test_packets_of_an_unknown_flow_are_not_counted_but_returned() -> None:
    table = make_table()
    held = count(table, (FLOW, 5), (FLOW, 9), (OTHER, 7))
    assert held == {
        FLOW: FlowDelta(
            transmit_bytes=SIZE,
            transmit_packets=1,
            receive_bytes=SIZE,
            receive_packets=1,
            first_ns=5,
            last_ns=9,
        ),
        OTHER: FlowDelta(receive_bytes=SIZE, receive_packets=1, first_ns=7, last_ns=7),
    }
    assert drain(table) == {}


def test_packets_of_a_known_flow_are_counted_for_its_owner() -> None:
    table = make_table()
    make_known(table, FLOW)
    assert count(table, FLOW, FLOW, FLOW) == {}
    sums = table.drain()
    assert bytes_of(table, sums) == {(FLOW, WEB): 3 * SIZE}
    assert sums.counters.tolist() == [[SIZE, 1, 2 * SIZE, 2]]
    assert drain(table) == {}


def test_a_new_connection_closes_the_lane_for_all_packets_of_the_batch() -> None:
    table = make_table()
    make_known(table, FLOW)
    make_known(table, OTHER)
    held = count(table, FLOW, FLOW, OTHER, opened=[False, True, False])
    assert {flow: (delta.total_bytes, delta.opened) for flow, delta in held.items()} == {
        FLOW: (2 * SIZE, True)
    }
    assert set(count(table, FLOW, OTHER)) == {FLOW}
    assert drain(table) == {(OTHER, WEB): 2 * SIZE}


def test_a_lane_is_open_until_it_is_due() -> None:
    table = make_table()
    count(table, FLOW)
    open_lane(table, FLOW, WEB, due_at=5.0)
    assert not count(table, FLOW, now=4.9)
    assert set(count(table, FLOW, now=5.0)) == {FLOW}


def test_a_closed_lane_counts_nothing_and_keeps_what_it_has_counted() -> None:
    table = make_table()
    make_known(table, FLOW)
    count(table, FLOW)
    table.close_lanes([FLOW])
    assert set(count(table, FLOW)) == {FLOW}
    assert drain(table) == {(FLOW, WEB): SIZE}


def test_what_was_counted_before_the_owner_changed_stays_with_the_former_one() -> None:
    table = make_table()
    make_known(table, FLOW)
    count(table, FLOW)
    open_lane(table, FLOW, CURL, due_at=FOREVER)
    count(table, FLOW, FLOW)
    assert drain(table) == {(FLOW, WEB): SIZE, (FLOW, CURL): 2 * SIZE}


def test_the_attributions_of_undrained_traffic_are_listed() -> None:
    table = make_table()
    make_known(table, FLOW)
    assert table.list_attributions() == []
    count(table, FLOW)
    table.add([(OTHER, make_traffic((1, 1)), CURL)])
    assert {*table.list_attributions()} == {WEB, CURL}
    open_lane(table, FLOW, CURL, due_at=FOREVER)
    assert {*table.list_attributions()} == {WEB, CURL}
    table.drain()
    assert table.list_attributions() == []


def test_sums_do_not_change_when_the_table_goes_on() -> None:
    """Slots and names of evicted flows are given to others, but neither ids nor copies are."""
    table = make_table()
    flow = replace(FLOW, interface="eth7")
    table.add([(flow, make_traffic((1, 1)), WEB)])
    sums = table.drain()
    table.evict(1e9, idle=1, idle_unowned=1)
    other = replace(OTHER, interface="eth8")
    table.add([(other, make_traffic((2, 2)), WEB)])
    later = table.drain()
    assert later.slots.tolist() == sums.slots.tolist()
    assert later.ids.tolist() != sums.ids.tolist()
    assert sums.packer.unpack(sums.words[0]) == flow
    assert later.packer.unpack(later.words[0]) == other


def test_what_is_added_is_that_of_its_own_owner_whoever_has_the_lane() -> None:
    table = make_table()
    make_known(table, FLOW)
    count(table, FLOW)
    table.add([(FLOW, make_traffic((7, 1)), CURL)])
    table.add([(FLOW, make_traffic((5, 1)), WEB)])
    table.add([(OTHER, make_traffic((3, 1)), UNATTRIBUTED)])
    assert drain(table) == {(FLOW, WEB): SIZE + 5, (FLOW, CURL): 7, (OTHER, UNATTRIBUTED): 3}


class TestDatagrams:
    def make(self) -> FlowTable:
        table = make_table()
        count(table, DATAGRAMS)
        open_lane(table, DATAGRAMS, WEB, due_at=FOREVER, endpoint=ENDPOINT, last_ns=1)
        return table

    def test_they_are_returned_until_their_owner_is_watched(self) -> None:
        table = self.make()
        assert set(count(table, (DATAGRAMS, 2))) == {DATAGRAMS}
        table.set_watched(WEB, is_watched=True)
        open_lane(table, DATAGRAMS, WEB, due_at=FOREVER, endpoint=ENDPOINT, last_ns=2)
        assert not count(table, (DATAGRAMS, 3))
        for pause_ns, has_paused in ((PAUSE_NS, False), (PAUSE_NS + 1, True)):
            assert pause(table, DATAGRAMS, at_ns=3 + pause_ns, is_recorded=False) == [has_paused]

    def test_they_are_returned_after_a_pause_of_their_endpoint(self) -> None:
        table = self.make()
        table.set_watched(WEB, is_watched=True)
        assert not count(table, (DATAGRAMS, 1 + PAUSE_NS))
        assert set(count(table, (DATAGRAMS, 2 + 2 * PAUSE_NS))) == {DATAGRAMS}

    def test_they_are_returned_once_another_flow_of_the_endpoint_has_paused(self) -> None:
        table = self.make()
        count(table, FLOW)
        for flow in (DATAGRAMS, FLOW):
            open_lane(table, flow, WEB, due_at=FOREVER, endpoint=ENDPOINT, last_ns=1)
        table.set_watched(WEB, is_watched=True)
        assert pause(table, FLOW, at_ns=2 + PAUSE_NS) == [True]
        open_lane(table, FLOW, WEB, due_at=FOREVER, endpoint=ENDPOINT, last_ns=2 + PAUSE_NS)
        late = 3 + PAUSE_NS
        assert set(count(table, (DATAGRAMS, late), (FLOW, late))) == {DATAGRAMS}

    def test_a_packet_that_was_judged_is_recorded_for_all_flows_of_the_endpoint(self) -> None:
        table = self.make()
        table.set_watched(WEB, is_watched=True)
        for at_ns in (PAUSE_NS, 5):
            assert pause(table, DATAGRAMS, at_ns=at_ns) == [False]
        assert not count(table, (DATAGRAMS, 2 * PAUSE_NS))

    def test_only_a_flow_with_an_endpoint_needs_a_watched_owner(self) -> None:
        table = self.make()
        make_known(table, FLOW)
        assert table.need_watch([DATAGRAMS, FLOW, OTHER]) == [True, False, False]
        table.set_watched(WEB, is_watched=True)
        assert table.need_watch([DATAGRAMS]) == [False]

    def test_they_are_returned_once_their_owner_has_exited(self) -> None:
        table = self.make()
        table.set_watched(WEB, is_watched=True)
        table.set_watched(WEB, is_watched=False)
        assert set(count(table, (DATAGRAMS, 2))) == {DATAGRAMS}


class TestHeldPackets:
    """Packets that the attribution stage has not received yet."""

    def test_their_flow_has_no_open_lane_before_they_are_received(self) -> None:
        table = make_table()
        make_known(table, FLOW)
        held = hold(table, FLOW, opened=[True])
        open_lane(table, FLOW, WEB, due_at=FOREVER)
        later = hold(table, FLOW)
        table.reopen_lanes([FLOW], [FOREVER])
        later = {FLOW: sum_up(later[FLOW], *hold(table, FLOW).values())}
        assert later[FLOW].total.packets == 2
        table.receive(held, 0.0)
        open_lane(table, FLOW, WEB, due_at=FOREVER)
        later = {FLOW: sum_up(later[FLOW], *hold(table, FLOW).values())}
        table.receive(later, 0.0)
        open_lane(table, FLOW, WEB, due_at=FOREVER)
        assert not hold(table, FLOW)

    def test_a_source_that_sums_packets_up_by_flow_gets_slots_for_them(self) -> None:
        table = make_table(max_flows=1)
        delta = FlowDelta(transmit_bytes=SIZE, transmit_packets=1)
        table.receive({FLOW: delta, OTHER: delta}, 0.0)
        opened = [open_lane(table, flow, WEB, due_at=FOREVER) for flow in (FLOW, OTHER)]
        assert opened == [True, False]
        table.receive({FLOW: delta}, 50.0)
        assert not len(table.evict(100.0, idle=60, idle_unowned=15))
        assert len(table.evict(111.0, idle=60, idle_unowned=15)) == 1

    def test_a_sum_of_flows_that_was_made_elsewhere_is_one_of_those_here(
        self,
    ) -> None:
        table = make_table(max_flows=1)
        delta = FlowDelta(transmit_bytes=SIZE, transmit_packets=1)
        table.receive({fold_key(FLOW): delta}, 0.0)
        assert not table.is_crowded
        make_known(table, FLOW)
        assert not hold(table, OTHER)


class TestEviction:
    def test_idle_flows_leave_and_those_without_an_owner_sooner(self) -> None:
        freed: list[FlowKey] = []
        table = FlowTable(100, 100, freed.extend)
        make_known(table, FLOW)
        count(table, OTHER)
        assert len(table.evict(20.0, idle=60, idle_unowned=15)) == 1
        assert freed == [OTHER]
        assert len(table.evict(61.0, idle=60, idle_unowned=15)) == 1
        assert freed == [OTHER, FLOW]

    def test_a_flow_that_has_counted_something_stays(self) -> None:
        table = make_table()
        make_known(table, FLOW)
        make_known(table, OTHER)
        count(table, FLOW)
        table.add([(OTHER, make_traffic((5, 1)), CURL)])
        assert not len(table.evict(100.0, idle=1, idle_unowned=1))
        assert drain(table) == {(FLOW, WEB): SIZE, (OTHER, CURL): 5}
        assert len(table.evict(100.0, idle=1, idle_unowned=1)) == 2

    def test_a_slot_that_another_flow_gets_has_nothing_of_the_former_one(self) -> None:
        table = make_table()
        make_known(table, FLOW)
        count(table, FLOW)
        before = table.drain()
        table.evict(100.0, idle=1, idle_unowned=1)
        assert set(count(table, OTHER, now=100.0)) == {OTHER}
        open_lane(table, OTHER, CURL, due_at=FOREVER)
        count(table, OTHER, now=100.0)
        after = table.drain()
        assert after.slots.tolist() == before.slots.tolist()
        assert after.ids.tolist() != before.ids.tolist()
        assert bytes_of(table, after) == {(OTHER, CURL): SIZE}

    def test_what_is_added_for_an_evicted_flow_is_not_lost(self) -> None:
        table = make_table()
        count(table, FLOW)
        table.evict(100.0, idle=1, idle_unowned=1)
        open_lane(table, FLOW, WEB, due_at=FOREVER)
        table.add([(FLOW, make_traffic((5, 1)), WEB)])
        assert drain(table) == {(FLOW, WEB): 5}
        assert len(table.evict(100.0, idle=1, idle_unowned=1)) == 1


class TestBounds:
    def test_flows_beyond_the_bound_share_a_slot_and_are_unattributed(self) -> None:
        table = make_table(max_flows=2)
        known, further = [make_flow(port) for port in (1, 2)], [make_flow(port) for port in (3, 4)]
        make_known(table, known[0])
        make_known(table, known[1])
        assert table.is_crowded
        slots, is_folded = table.give_slots(table.packer.pack([*known, *further]), 0.0)
        assert is_folded.tolist() == [False, False, True, True]
        assert slots[2] == slots[3]
        assert not count(table, *further)
        assert drain(table) == {(fold_key(FLOW), UNATTRIBUTED): 2 * SIZE}

    def test_known_owners_leave_room_for_unknown_ones(self) -> None:
        table = make_table(max_flows=100, max_unowned=2)
        make_known(table, FLOW)
        assert not table.is_crowded
        count(table, OTHER, DATAGRAMS)
        assert table.is_crowded
        make_known(table, OTHER)
        assert not table.is_crowded

    def test_flows_that_are_known_to_have_no_owner_leave_room_for_others(self) -> None:
        table = make_table(max_flows=100, max_unowned=1)
        for flow in (FLOW, OTHER, DATAGRAMS):
            assert not table.is_crowded
            count(table, flow)
            assert table.is_crowded
            make_known(table, flow, UNATTRIBUTED)

    def test_sums_of_every_kind_are_bounded_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("hogpipe.flows.flow_slots._MAX_FOLDS", 3)
        table = make_table(max_flows=1)
        flows = [make_flow(protocol=number) for number in range(10)]
        assert set(count(table, *flows)) == {flows[0]}
        assert sum(drain(table).values()) == 9 * SIZE
        assert len(table) == 4


def sum_up(*deltas: FlowDelta) -> FlowDelta:
    total = FlowDelta()
    for delta in deltas:
        total.add(delta)
    return total


class Recorded:
    """A host that does not change: the attributions of some flows."""

    def __init__(self, known: Mapping[FlowKey, Attribution]) -> None:
        self.known = known
        self.attributions = [*dict.fromkeys(known.values())]

    def find(self, words: Keys, packer: FlowPacker) -> Integers:
        found = (self.known.get(packer.unpack(one)) for one in words)
        places = (ABSENT if one is None else self.attributions.index(one) for one in found)
        return np.fromiter(places, np.int64, len(words))

    def attribution(self, number: int) -> Attribution:
        return self.attributions[number]


class TestRecorded:
    """Flows whose attributions follow from a recorded /proc."""

    def make(self, known: Mapping[FlowKey, Attribution], *, max_named: float = np.inf) -> FlowTable:
        table = FlowTable(100, 100, reserve=20, max_named=max_named)
        table.recorded = Recorded(known)
        return table

    def test_all_their_packets_are_counted_for_their_owners(self) -> None:
        table = self.make({FLOW: UNATTRIBUTED, DATAGRAMS: OLD})
        assert set(count(table, FLOW, OTHER, DATAGRAMS)) == {OTHER}
        assert count(table, FLOW, FLOW, DATAGRAMS, opened=[True, False, True]) == {}
        assert count(table, FLOW, DATAGRAMS, now=FOREVER) == {}
        assert drain(table) == {(FLOW, UNATTRIBUTED): 4 * SIZE, (DATAGRAMS, OLD): 3 * SIZE}

    def test_packets_from_before_the_creation_of_the_owner_have_none(self) -> None:
        young = exact(replace(NGINX, created_ns=20 * 10**9))
        table = self.make({FLOW: young, OTHER: young, DATAGRAMS: OLD})
        assert count(table, FLOW, FLOW, OTHER, DATAGRAMS, now=19.9) == {}
        assert count(table, FLOW, DATAGRAMS, now=20.0) == {}
        assert count(table, FLOW, now=21.0) == {}
        assert drain(table) == {
            (FLOW, UNATTRIBUTED): 2 * SIZE,
            (OTHER, UNATTRIBUTED): SIZE,
            (DATAGRAMS, OLD): 2 * SIZE,
            (FLOW, young): 2 * SIZE,
        }
        assert count(table, OTHER, now=22.0) == {}
        assert drain(table) == {(OTHER, young): SIZE}

    def test_they_begin_with_the_first_packet_and_with_each_batch_that_has_a_syn(self) -> None:
        table = self.make({FLOW: UNATTRIBUTED, OTHER: OLD})
        count(table, FLOW, FLOW, OTHER, opened=[True, False, False])
        assert table.drain_begun() == 2
        count(table, FLOW, OTHER, OTHER, opened=[False, True, True])
        assert (table.drain_begun(), table.drain_begun()) == (1, 0)
        table.drain()
        table.evict(9.0, idle=1.0, idle_unowned=1.0)
        count(table, FLOW)
        assert table.drain_begun() == 1

    def test_they_leave_room_for_flows_that_are_to_be_looked_up(self) -> None:
        table = make_table(max_flows=100, max_unowned=1)
        table.recorded = Recorded({FLOW: UNATTRIBUTED, DATAGRAMS: OLD})
        count(table, FLOW, DATAGRAMS)
        assert not table.is_crowded
        count(table, OTHER)
        assert table.is_crowded

    def test_flows_with_flow_keys_make_room_before_they_are_too_many(self) -> None:
        named = [make_flow(port) for port in range(11, 19)]
        table = self.make({FLOW: UNATTRIBUTED}, max_named=4)
        count(table, FLOW)
        for at, flow in enumerate(named):
            make_known(table, flow)
            count(table, flow, now=at + 1.0)
        assert table.is_crowded
        table.drain()
        words = table.packer.pack([OTHER])
        freed = table.make_room(words, table.give_slots(table.packer.pack(named[-1:]), 9.0)[0])
        assert len(freed) == 5  # with the flow key that each table has, four are left
        assert not table.is_crowded
        assert count(table, FLOW, *named[-3:]) == {}


@given(st.lists(st.tuples(st.sampled_from(["count", "own", "evict"]), st.integers(1, 12))))
def test_the_room_is_that_of_flows_with_and_without_an_attribution(
    steps: list[tuple[str, int]],
) -> None:
    table, known, unknown = make_table(max_flows=10, max_unowned=4), set[int](), set[int]()
    for now, (step, port) in enumerate(steps):
        flow, room = make_flow(port), min(10 - len(known | unknown), 4 - len(unknown))
        if step == "evict":
            table.drain()
            table.evict(now + 0.5, idle=0.0, idle_unowned=0.0)
            known.clear()
            unknown.clear()
            continue
        _, is_folded = table.give_slots(table.packer.pack([flow]), now)
        assert is_folded[0] == (room <= 0 and port not in known | unknown)
        if is_folded[0]:
            continue
        if port not in known:
            unknown.add(port)
        if step == "own":
            count(table, flow)
            open_lane(table, flow, WEB if port % 2 else UNATTRIBUTED, due_at=FOREVER)
            unknown.discard(port)
            known.add(port)


class Model:
    """A plain model beside the table: a dict of lanes, and sums by owner."""

    def __init__(self, max_flows: int) -> None:
        self.lanes: dict[FlowKey, tuple[Attribution, float]] = {}
        self.table = FlowTable(max_flows, max_flows, on_free=self._free)
        self.expected: Counter[Attribution] = Counter()
        self.drained: Counter[Attribution] = Counter()
        self.now, self.held_bytes, self.taken_bytes = 0, 0, 0
        self.held: dict[FlowKey, FlowDelta] = {}
        """What is not received, by flow."""
        self.have_held: set[FlowKey] = set()
        """Those flows with a SYN among that which have kept their slots meanwhile."""

    def count(self, packets: list[tuple[FlowKey, bool]]) -> None:
        opened = [is_opened for _, is_opened in packets]
        held = hold(self.table, *[flow for flow, _ in packets], now=self.now, opened=opened)
        for flow, delta in held.items():
            self.held[flow] = sum_up(self.held.get(flow, FlowDelta()), delta)
        self.taken_bytes += SIZE * len(packets)
        self.held_bytes += sum(delta.total_bytes for delta in held.values())
        self.have_held.update(flow for flow, delta in held.items() if delta.opened)
        for flow, _ in packets:
            owner, due_at = self.lanes.get(flow, (UNATTRIBUTED, FOREVER))
            assert flow in held or due_at > self.now
            self.expected[owner] += 0 if flow in held else SIZE
        self._drop_lanes(held)

    def receive(self) -> None:
        self.table.receive(self.held, self.now)
        self.held, self.have_held = {}, set()

    def open(self, flow: FlowKey, owner: Attribution, due_at: float) -> None:
        has_slot = open_lane(self.table, flow, owner, due_at=due_at)
        if has_slot and flow not in self.have_held:
            self.lanes[flow] = owner, due_at

    def add(self, flow: FlowKey, owner: Attribution) -> None:
        self.table.add([(flow, TrafficCounts(transmit_bytes=1, transmit_packets=1), owner)])
        self.expected[owner] += 1
        self.taken_bytes += 1

    def close(self, flow: FlowKey) -> None:
        self.table.close_lanes([flow])
        self._drop_lanes([flow])

    def evict(self) -> None:
        self.table.evict(self.now, idle=3, idle_unowned=1)

    def compact(self) -> None:
        with patch.object(key_index, "_MIN_COMPACTED", 0):
            self.table.compact()

    def drain(self) -> None:
        for (_flow, owner), size in drain(self.table).items():
            self.drained[owner] += size

    def _free(self, flows: Sequence[FlowKey]) -> None:
        self.have_held.difference_update(flows)
        self._drop_lanes(flows)

    def _drop_lanes(self, flows: Iterable[FlowKey]) -> None:
        for flow in flows:
            self.lanes.pop(flow, None)


owners = st.sampled_from([WEB, CURL, UNATTRIBUTED])
some = st.sampled_from([make_flow(port) for port in (1, 2, 3)] + [DATAGRAMS])
steps = st.one_of(
    st.tuples(st.just("count"), st.lists(st.tuples(some, st.booleans()), max_size=6)),
    st.tuples(st.just("open"), some, owners, st.sampled_from([2.0, FOREVER])),
    st.tuples(st.just("add"), some, owners),
    st.tuples(st.just("close"), some),
    st.tuples(st.sampled_from(["receive", "receive", "evict", "compact", "drain"])),
)


@given(st.lists(steps, max_size=30), st.integers(1, 5))
def test_no_packet_is_lost_and_none_changes_its_owner(
    taken: list[tuple[object, ...]], most: int
) -> None:
    model = Model(most)
    for model.now, (action, *what) in enumerate(taken):
        getattr(model, str(action))(*what)
    model.drain()
    assert sum(model.drained.values()) + model.held_bytes == model.taken_bytes
    assert +model.drained == +model.expected


def test_a_lane_stays_closed_while_a_syn_is_on_its_way_to_the_attribution_stage() -> None:
    table = make_table()
    slots = make_rows(table, [(FLOW, 0)], opened=[True])
    first = table.count(slots, 0.0)
    before = table.calls
    second = table.count(slots, 0.0)
    table.receive(first, 0.0, before)
    open_lane(table, FLOW, WEB, due_at=FOREVER)
    assert set(count(table, FLOW)) == {FLOW}
    table.receive(second, 0.0, before + 1)
    table.reopen_lanes([FLOW], [FOREVER])
    assert not count(table, FLOW)


def test_a_lane_opens_while_packets_without_a_syn_are_on_their_way() -> None:
    table = make_table()
    rows = make_rows(table, [(FLOW, 0)])
    first = table.count(rows, 0.0)
    table.count(rows, 0.0)
    table.receive(first, 0.0, 1)
    open_lane(table, FLOW, WEB, due_at=FOREVER)
    assert not table.count(rows, 0.0)


def test_packets_of_a_flow_that_gathers_are_taken_as_one_delta() -> None:
    table = make_table()
    make_gathering(table, FLOW)
    calls = table.calls
    assert count(table, (FLOW, 7), (FLOW, 5)) == {}
    assert count(table, (FLOW, 9)) == {}
    assert table.calls == calls
    assert table.gathered_bytes == 3 * SIZE
    assert count(table, OTHER).keys() == {OTHER}
    assert table.take_gathered([FLOW, OTHER, make_flow(3)]) == {
        FLOW: FlowDelta(
            transmit_bytes=SIZE,
            transmit_packets=1,
            receive_bytes=2 * SIZE,
            receive_packets=2,
            first_ns=5,
            last_ns=9,
        )
    }
    assert table.take_gathered([FLOW]) == {}
    assert count(table, FLOW) == {}
    assert table.stop_gathering([FLOW])[FLOW].span is None
    assert count(table, FLOW).keys() == {FLOW}
    assert not len(table.drain())


def split(table: FlowTable, packets: Sequence[Packet], opened: Sequence[bool]) -> list[list[int]]:
    """Return the times of the packets in each part."""
    parts = table.split_connections(make_rows(table, packets, opened=opened))
    return [part.first_ns.tolist() for part in parts]


def test_connections_of_one_flow_are_counted_one_after_the_other() -> None:
    packets = [(FLOW, 1), (OTHER, 1), (FLOW, 5), (OTHER, 5), (FLOW, 8), (FLOW, 2), (FLOW, 6)]
    opened = [True, False, True, False, True, False, False]
    assert split(make_table(), packets, opened) == [[1, 1, 5, 2], [5, 6], [8]]


def test_a_syn_that_is_sent_again_opens_no_further_connection() -> None:
    packets = [(FLOW, 1), (FLOW, 2), (FLOW, 3)]
    assert split(make_table(), packets, [True, True, False]) == [[1, 2, 3]]


def test_a_syn_comes_before_its_answer_of_the_same_time() -> None:
    packets = [(FLOW, 1), (FLOW, 1)]
    assert split(make_table(), packets, [False, True]) == [[1, 1]]


def test_the_last_part_has_all_further_connections_of_a_flow() -> None:
    packets = [(FLOW, at) for at in range(40)]
    parts = split(make_table(), packets, [at % 2 == 0 for at in range(40)])
    assert [len(part) for part in parts] == [2] * 7 + [26]


def test_syns_of_flows_that_were_folded_split_nothing() -> None:
    table = make_table(max_flows=1)
    count(table, OTHER)
    third = make_flow(3)
    assert split(table, [(FLOW, 1), (third, 2), (FLOW, 3)], [True, False, True]) == [[1, 2, 3]]


syns = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.booleans()), max_size=40)


@given(syns)
def test_packets_are_in_one_part_each_and_in_order_of_time(
    packets: list[tuple[int, int, bool]],
) -> None:
    table = make_table()
    rows = make_rows(
        table,
        [(make_flow(number + 1), at) for number, at, _ in packets],
        opened=[is_syn for *_, is_syn in packets],
    )
    parts = table.split_connections(rows)
    sizes = [part.bytes.sum() for part in parts]
    assert sum(sizes) == SIZE * len(packets)
    for earlier, later in pairwise(parts):
        for slot in set(later.slots.tolist()):
            times = earlier.first_ns[earlier.slots == slot]
            assert len(times)
            assert times.max() <= later.first_ns[later.slots == slot].min()


def test_a_syn_is_returned_and_ends_gathering() -> None:
    table = make_table()
    make_gathering(table, FLOW)
    assert count(table, FLOW) == {}
    held = hold(table, FLOW, opened=[True])
    assert held[FLOW].opened
    table.gather([FLOW])  # before the stage has received the SYN
    assert hold(table, FLOW).keys() == {FLOW}
    assert table.take_gathered([FLOW])[FLOW].total_bytes == SIZE
    table.receive(held, 0.0)
    table.gather([FLOW])
    assert hold(table, FLOW) == {}


def test_a_flow_with_an_open_lane_gathers_nothing() -> None:
    table = make_table()
    make_gathering(table, FLOW)
    table.stop_gathering([FLOW])
    open_lane(table, FLOW, WEB, due_at=FOREVER)
    table.gather([FLOW])
    assert count(table, FLOW) == {}
    assert table.gathered_bytes == 0
    table.close_lanes([FLOW])
    assert count(table, FLOW).keys() == {FLOW}


def test_a_slot_that_has_gathered_something_is_not_freed() -> None:
    table = make_table(max_flows=2)
    make_gathering(table, FLOW)
    count(table, FLOW)
    assert not len(table.evict(100.0, idle=1.0, idle_unowned=1.0))
    assert not len(table.make_room(table.packer.pack([OTHER, make_flow(3)]), np.zeros(0, np.int64)))
    table.stop_gathering([FLOW])
    assert len(table.evict(100.0, idle=1.0, idle_unowned=1.0)) == 1


def test_names_of_flows_that_get_slots_are_kept_while_others_make_room() -> None:
    table = FlowTable(4, 4, reserve=1)
    table.give_slots(table.packer.pack([make_flow(1)]), 0.0)
    further = [make_flow(port, interface="eth9") for port in range(2, 6)]
    words = table.packer.pack(further)
    assert len(table.make_room(words, np.zeros(0, np.int64))) == 1
    slots, is_folded = table.give_slots(words, 1.0)
    assert not is_folded.any()
    table.packer.pack([make_flow(9, interface="eth1")])
    assert [table.packer.unpack(one).interface for one in words] == ["eth9"] * 4
    assert len(set(slots.tolist())) == 4


def test_pauses_of_an_endpoint_take_no_memory_though_no_flow_is_evicted() -> None:
    table = make_table()
    table.set_watched(WEB, is_watched=True)
    for second in range(100):
        count(table, (DATAGRAMS, second * 10**9), now=second)
        assert pause(table, DATAGRAMS, at_ns=second * 10**9) == [second > 0]
        open_lane(table, DATAGRAMS, WEB, due_at=FOREVER, endpoint=ENDPOINT, last_ns=second * 10**9)
        table.evict(second, idle=60, idle_unowned=15)
    assert len(table._lanes.endpoints) == 1
    assert count(table, (DATAGRAMS, 99 * 10**9 + 1), now=100.0) == {}


def test_bytes_without_a_packet_are_drained_and_keep_their_slot() -> None:
    table = make_table()
    make_known(table, FLOW)
    table.drain()
    rows = replace_packets(make_rows(table, [(FLOW, 0)]))
    assert table.count(rows, 0.0) == {}
    assert not len(table.evict(100.0, idle=1, idle_unowned=1))
    assert table.list_attributions() == [WEB]
    assert drain(table) == {(FLOW, WEB): SIZE}


def replace_packets(rows: PacketRows) -> PacketRows:
    """Return rows without packets, as a source has them that read a counter before the other."""
    return dataclasses.replace(rows, packets=np.zeros(len(rows), np.int64))


def test_flows_that_get_other_slots_keep_what_they_have_and_their_lanes() -> None:
    table = make_table(5000, 5000)
    flows = [make_flow(port) for port in range(1, 3001)]
    hold(table, *flows)
    known, changed, gathering = flows[2000], flows[2500], flows[2999]
    make_known(table, known)
    make_known(table, changed)
    count(table, known, changed)
    open_lane(table, changed, CURL, due_at=FOREVER)
    make_gathering(table, gathering)
    hold(table, gathering, now=100)
    assert len(table.evict(100.0, idle=60, idle_unowned=15)) == 2997
    assert table.capacity > 2999
    vacated, taken = table.compact()
    assert (len(vacated), taken.tolist()) == (3, [1, 2, 3])
    assert table.capacity <= 64
    hold(table, *flows[:3], now=101)  # which get slots again
    assert hold(table, known, now=101) == {}, "the lane is open"
    (taken_delta,) = table.take_gathered([gathering]).values()
    assert taken_delta.total_bytes == SIZE
    assert drain(table) == {(known, WEB): 2 * SIZE, (changed, WEB): SIZE}

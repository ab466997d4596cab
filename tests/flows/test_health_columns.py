"""Columns of health: sums are exact in any order, and stay with their flows."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.health import LEAST, SUMS, encode_health, healths
from support.lanes import open_lane
from support.traffic import NGINX, exact, make_flow

from hogpipe.flows.flow_table import FlowTable
from hogpipe.flows.health_columns import (
    COLUMNS,
    FIELDS,
    KNOWN,
    SlotHealth,
    add_health,
    decode_health,
    make_health,
    sum_health,
)
from hogpipe.model import UNATTRIBUTED, Attribution, FlowDelta, TcpHealth, join_health

placed = st.lists(st.tuples(st.integers(0, 3), st.none() | healths), max_size=12)


@given(placed)
def test_groups_have_the_sums_and_the_least_time_of_their_rows(
    rows: list[tuple[int, TcpHealth | None]],
) -> None:
    places = np.array([place for place, _ in rows], np.int64)
    health = encode_health([one for _, one in rows])
    total = make_health(4)
    half = len(rows) // 2
    add_health(total, places[:half], health[:half])
    add_health(total, places[half:], health[half:])
    expected: list[TcpHealth | None] = [None] * 4
    for place, one in rows:
        expected[place] = join_health(expected[place], one)
    assert decode_health(total.tolist()) == expected
    order = places.argsort(kind="stable")
    bounds = np.append(np.searchsorted(places[order], np.unique(places)), len(rows))
    summed = sum_health(health, order, bounds)
    assert summed.tolist() == total[np.unique(places)].tolist()


def test_the_columns_are_the_fields_of_the_health() -> None:
    assert {*SUMS, LEAST} == {*FIELDS}
    assert KNOWN == COLUMNS - 1 == len(FIELDS)


class Bench:
    """A flow table with two known flows, whose slots have numbers."""

    def __init__(self) -> None:
        self.table = FlowTable(100, 100)
        self.flows = [make_flow(local_port=port) for port in (1, 2)]
        self.table.receive({flow: FlowDelta() for flow in self.flows}, 0.0)
        self.slots, _ = self.table.give_slots(self.table.packer.pack(self.flows), 0.0)

    def own(self, place: int, attribution: Attribution) -> None:
        open_lane(self.table, self.flows[place], attribution, due_at=100.0)

    def add(self, place: int, health: TcpHealth) -> None:
        self.table.add_health(SlotHealth(self.slots[[place]], encode_health([health])))

    def drain(self) -> dict[tuple[int, Attribution], TcpHealth | None]:
        sums = self.table.drain()
        if sums.health is None:
            return {}
        found = decode_health(sums.health.tolist())
        slots = {int(slot): place for place, slot in enumerate(self.slots)}
        return {
            (slots[slot], sums.attributions[owner]): one
            for slot, owner, one in zip(
                sums.slots.tolist(), sums.owners.tolist(), found, strict=True
            )
        }


ONE, TWO = TcpHealth(retransmits=1, rtt_min_us=9), TcpHealth(retransmits=2, rtt_min_us=7)


def test_health_is_drained_once_with_the_owner_of_its_flow() -> None:
    bench = Bench()
    bench.own(0, exact(NGINX))
    bench.add(0, ONE)
    bench.add(0, TWO)
    assert bench.drain() == {(0, exact(NGINX)): TcpHealth(retransmits=3, rtt_min_us=7)}
    assert bench.drain() == {}


def test_health_of_a_flow_that_is_looked_up_waits_for_its_owner() -> None:
    bench = Bench()
    bench.add(1, ONE)
    assert bench.drain() == {}
    bench.own(1, exact(NGINX))
    assert bench.drain() == {(1, exact(NGINX)): ONE}


def test_health_belongs_to_the_owner_at_the_end_of_the_window() -> None:
    bench = Bench()
    bench.own(0, UNATTRIBUTED)
    moved = FlowDelta(transmit_bytes=5, transmit_packets=1)
    bench.table.add([(bench.flows[0], moved, UNATTRIBUTED)])
    bench.add(0, ONE)
    bench.own(0, exact(NGINX))
    drained = bench.drain()
    assert drained[0, exact(NGINX)] == ONE
    assert drained.get((0, UNATTRIBUTED)) is None


def test_a_slot_with_health_is_not_freed_before_it_is_drained() -> None:
    bench = Bench()
    bench.own(0, exact(NGINX))
    bench.add(0, ONE)
    bench.add(1, TWO)  # never judged: nothing would drain it
    assert bench.table.evict(1000.0, idle=1.0, idle_unowned=1.0).tolist() == [bench.slots[1]]
    assert bench.drain() == {(0, exact(NGINX)): ONE}
    assert len(bench.table.evict(1000.0, idle=1.0, idle_unowned=1.0)) == 1


def test_flows_are_moved_with_their_health() -> None:
    table = FlowTable(10_000, 10_000)
    flows = [make_flow(local_port=port) for port in range(1, 5001)]
    table.receive({flow: FlowDelta() for flow in flows}, 0.0)
    slots, _ = table.give_slots(table.packer.pack(flows), 0.0)
    open_lane(table, flows[-1], exact(NGINX), due_at=1e6)
    table.add_health(SlotHealth(slots[-1:], encode_health([ONE])))
    table.evict(1000.0, idle=1.0, idle_unowned=1.0)
    vacated, _taken = table.compact()
    assert slots[-1] in vacated
    sums = table.drain()
    assert sums.health is not None
    assert decode_health(sums.health.tolist()) == [ONE]

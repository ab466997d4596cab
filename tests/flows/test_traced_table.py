"""A traced table counts as another one does, and says for whom."""

from collections.abc import Mapping

import numpy as np
from support.lanes import open_lane
from support.traffic import NGINX, exact, make_delta, make_flow

from hogpipe.flows.packet_rows import PacketRows
from hogpipe.flows.traced_table import CountedSlots, TracedFlowTable
from hogpipe.model import UNATTRIBUTED, Attribution, FlowKey

FLOW, OTHER = make_flow(40_000), make_flow(40_001)


class Trace:
    """Gathers what a table reports."""

    def __init__(self) -> None:
        self.reported: list[object] = []

    def count(self, flows: CountedSlots) -> None:
        rows = zip(flows.slots.tolist(), flows.last_ns.tolist(), flows.owners.tolist(), strict=True)
        self.reported += [
            ("counted", slot, last_ns, flows.attributions[owner]) for slot, last_ns, owner in rows
        ]

    def hold(self, flows: Mapping[int, tuple[FlowKey, int]]) -> None:
        self.reported += [("held", slot, last_ns, flow) for slot, (flow, last_ns) in flows.items()]

    def settle(self, flow: FlowKey, first_ns: int, last_ns: int, owner: Attribution) -> None:
        self.reported.append(("settled", flow, first_ns, last_ns, owner))

    def take(self) -> list[object]:
        reported, self.reported = self.reported, []
        return reported


def rows_at(slots: list[int], times: list[int], opened: tuple[int, ...] = ()) -> PacketRows:
    ones = np.ones(len(slots), np.int64)
    is_opened = np.array([place in opened for place in range(len(slots))])
    when = np.array(times, np.int64)
    return PacketRows(np.array(slots), 0 * ones, 100 * ones, ones, is_opened, when, when)


def test_packets_are_reported_as_held_then_settled_then_counted() -> None:
    trace = Trace()
    table = TracedFlowTable(100, 100, trace=trace)
    (first, second), _ = table.give_slots(table.packer.pack([FLOW, OTHER]), 0.0)
    held = table.count(rows_at([first, second, first], [10, 20, 30]), 0.0)
    assert held.keys() == {FLOW, OTHER}
    assert sorted(trace.take(), key=str) == [
        ("held", first, 30, FLOW),
        ("held", second, 20, OTHER),
    ]
    table.receive(held, 0.0)
    open_lane(table, FLOW, exact(NGINX), due_at=np.inf)
    table.add([(FLOW, held[FLOW], exact(NGINX))])
    assert trace.take() == [("settled", FLOW, 10, 30, exact(NGINX))]
    table.count(rows_at([first, second], [40, 50]), 0.0)
    assert trace.take() == [("counted", first, 40, exact(NGINX)), ("held", second, 50, OTHER)]


def test_a_syn_holds_the_packets_of_a_known_flow() -> None:
    trace = Trace()
    table = TracedFlowTable(100, 100, trace=trace)
    [slot], _ = table.give_slots(table.packer.pack([FLOW]), 0.0)
    table.receive(table.count(rows_at([slot], [10]), 0.0), 0.0)
    open_lane(table, FLOW, exact(NGINX), due_at=np.inf)
    trace.take()
    table.count(rows_at([slot, slot], [20, 30], opened=(1,)), 0.0)
    assert trace.take() == [("held", slot, 30, FLOW)]


def test_packets_that_gather_are_reported_as_held() -> None:
    trace = Trace()
    table = TracedFlowTable(100, 100, trace=trace)
    [slot], _ = table.give_slots(table.packer.pack([FLOW]), 0.0)
    table.receive(table.count(rows_at([slot], [10]), 0.0), 0.0)
    table.gather([FLOW])
    trace.take()
    assert table.count(rows_at([slot], [20]), 0.0) == {}
    assert trace.take() == [("held", slot, 20, FLOW)]
    gathered = table.stop_gathering([FLOW])[FLOW]
    table.add([(FLOW, gathered, UNATTRIBUTED)])
    assert trace.take() == [("settled", FLOW, 20, 20, UNATTRIBUTED)]


def test_folded_flows_are_counted_without_an_owner() -> None:
    trace = Trace()
    table = TracedFlowTable(1, 1, trace=trace)
    slots, is_folded = table.give_slots(table.packer.pack([FLOW, OTHER]), 0.0)
    assert is_folded.any()
    folded = int(slots[is_folded][0])
    table.count(rows_at([folded], [10]), 0.0)
    assert trace.take() == [("counted", folded, 10, UNATTRIBUTED)]


def test_what_is_added_without_times_is_all_that_was_held() -> None:
    trace = Trace()
    table = TracedFlowTable(100, 100, trace=trace)
    table.add([(FLOW, make_delta(transmit=(1, 1)), exact(NGINX))])
    assert trace.take() == [("settled", FLOW, 0, 0, exact(NGINX))]

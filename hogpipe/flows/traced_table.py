"""PURE: a flow table that reports which owner the packets of each flow are counted for.

In: what a `FlowTable` takes. Out: for packets by slot whether they are counted, and for whom, or
held; and later what becomes of the flows that were held (`FlowTrace`).

All packets of a flow in one call of `count` go the same way, so the lane of its slot, which is open
afterwards only if they were counted, says which way. What was held comes back by `add`, with the
span of its packets.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hogpipe.flows.flow_table import FlowTable
from hogpipe.flows.flow_words import FlowPacker
from hogpipe.flows.key_index import Keys
from hogpipe.flows.packet_rows import Integers, PacketRows
from hogpipe.model import Attribution, FlowDelta, FlowKey, TrafficCounts


@dataclass(frozen=True, slots=True, eq=False)
class CountedSlots:
    """Flows whose packets of one call were counted: a slot, the last packet, words, the owner."""

    slots: Integers
    last_ns: Integers
    words: Keys
    packer: FlowPacker
    owners: Integers
    """The place of each owner in `attributions`."""
    attributions: Sequence[Attribution]


class FlowTrace(Protocol):
    """What a traced table calls, with its lock."""

    def count(self, flows: CountedSlots) -> None:
        """Packets up to `last_ns` that were located at these slots are counted for these owners."""

    def hold(self, flows: Mapping[int, tuple[FlowKey, int]]) -> None:
        """Packets at these slots up to a time are held; `settle` follows for the flow key."""

    def settle(self, flow: FlowKey, first_ns: int, last_ns: int, owner: Attribution) -> None:
        """Packets of a flow that were held are counted for an owner: those of this span."""


class TracedFlowTable(FlowTable):
    """A table that reports to `trace`."""

    def __init__(
        self,
        max_flows: int,
        max_unowned: int,
        on_free: Callable[[Sequence[FlowKey]], None] = lambda _flows: None,
        *,
        reserve: int = 0,
        max_named: float = np.inf,
        trace: FlowTrace,
    ) -> None:
        super().__init__(max_flows, max_unowned, on_free, reserve=reserve, max_named=max_named)
        self._trace = trace

    def count(self, rows: PacketRows, now: float) -> dict[FlowKey, FlowDelta]:
        """Count packets as `FlowTable` does, and report which ones were."""
        with self.lock:
            held = super().count(rows, now)
            slots, places = np.unique(rows.slots, return_inverse=True)
            last_ns = np.zeros(len(slots), np.int64)
            np.maximum.at(last_ns, places, rows.last_ns)
            is_counted = self._lanes.is_open[slots]
            if is_counted.any():
                self._report(slots[is_counted], last_ns[is_counted])
            rest = slots[~is_counted]
            if len(rest):
                known = zip(self._slots.flows_of(rest), last_ns[~is_counted].tolist(), strict=True)
                self._trace.hold(dict(zip(rest.tolist(), known, strict=True)))
            return held

    def add(self, moved: Iterable[tuple[FlowKey, TrafficCounts, Attribution]]) -> None:
        """Add what the attribution stage has judged, and report it."""
        judged = list(moved)
        with self.lock:
            super().add(judged)
            for flow, traffic, attribution in judged:
                if isinstance(traffic, FlowDelta):
                    self._trace.settle(flow, traffic.first_ns, traffic.last_ns, attribution)

    def _report(self, slots: Integers, last_ns: Integers) -> None:
        distinct, owners = self.owners.find_distinct(self._lanes.owner[slots])
        attributions = [self.owners.attribution(number) for number in distinct.tolist()]
        words = self._slots.words(slots)
        self._trace.count(CountedSlots(slots, last_ns, words, self.packer, owners, attributions))

"""Sums of flows in columns, made of flows and traffic; and an aggregator that is fed with them."""

from collections.abc import Iterable, Sequence

import numpy as np

from hogpipe.aggregation.aggregator import Aggregator
from hogpipe.flows.flow_words import FlowPacker
from hogpipe.flows.packet_rows import FlowSums
from hogpipe.model import Attribution, FlowKey, TcpHealth, TrafficCounts

from .health import encode_health

Moved = tuple[FlowKey, TrafficCounts, Attribution]


class SumsMaker:
    """Makes sums as a flow table does that has a slot for every flow it has seen."""

    def __init__(self) -> None:
        self._packer = FlowPacker()
        self._slots: dict[FlowKey, int] = {}
        self._generation = 0

    def make(
        self, moved: Iterable[Moved], health: Sequence[TcpHealth | None] | None = None
    ) -> FlowSums:
        """Return a row for each, in this order; a flow may have several. `health` is theirs."""
        rows = list(moved)
        flows = [flow for flow, _traffic, _attribution in rows]
        slots = [self._slots.setdefault(flow, len(self._slots)) for flow in flows]
        attributions = list({id(attribution): attribution for *_, attribution in rows}.values())
        places = {id(attribution): place for place, attribution in enumerate(attributions)}
        return FlowSums(
            np.array(slots, np.int64),
            np.array(slots, np.int64) + self._generation,
            self._packer.pack(flows),
            self._packer.copy(),
            np.array([list_counters(traffic) for _, traffic, _ in rows], np.int64).reshape(-1, 4),
            np.array([places[id(attribution)] for *_, attribution in rows], np.int64),
            attributions,
            health=None if health is None else encode_health(health),
        )

    def evict_all(self) -> None:
        """Give slots, ids and numbers of names again."""
        self._generation += len(self._slots)
        self._packer, self._slots = FlowPacker(), {}


def sum_flows(
    flow: FlowKey, traffic: TrafficCounts, attribution: Attribution, new_flows: int
) -> FlowSums:
    """Return the sum of several flows, of which `flow` is one, as the ebpf source makes it."""
    packer, none = FlowPacker(), np.zeros(0, np.int64)
    return FlowSums(
        none,
        none,
        packer.pack([flow]),
        packer,
        np.array([list_counters(traffic)], np.int64),
        np.zeros(1, np.int64),
        [attribution],
        np.array([new_flows], np.int64),
    )


def list_counters(traffic: TrafficCounts) -> list[int]:
    """Return the counters in the order of a table's columns."""
    return [
        traffic.transmit_bytes,
        traffic.transmit_packets,
        traffic.receive_bytes,
        traffic.receive_packets,
    ]


class FlowAggregator(Aggregator):
    """An aggregator that takes single flows, too."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.maker = SumsMaker()

    def ingest_flow(self, flow: FlowKey, traffic: TrafficCounts, attribution: Attribution) -> None:
        """Ingest what one flow moved."""
        self.ingest(self.maker.make([(flow, traffic, attribution)]))

"""PURE: sums of flows that the `ebpf` source has made by owner, gathered into columns.

In: sums, one by one. Out: columns, as sums of the flow table have them but for slots: a sum is not
of one flow, and its flows are counted already.
"""

from dataclasses import dataclass

import numpy as np

from hogpipe.flows.flow_words import FlowPacker
from hogpipe.flows.key_index import Keys
from hogpipe.flows.packet_rows import Counters, Integers
from hogpipe.model import Attribution, FlowKey, TrafficCounts


@dataclass(frozen=True, slots=True, eq=False)
class OwnedSums:
    """A row for each sum."""

    words: Keys
    """One of the flows of each."""
    packer: FlowPacker
    """The names of the numbers in `words`."""
    counters: Counters
    owners: Integers
    """The place of each sum's attribution in `attributions`."""
    attributions: list[Attribution]
    flows: Integers
    """How many of its flows are new in this window."""


class SumBuffer:
    """Gathers sums until they are drained."""

    def __init__(self) -> None:
        self._flows: list[FlowKey] = []
        self._rows: list[tuple[int, int, int, int, int, int]] = []
        self._owners: dict[int, int] = {}
        """Places of attributions, by their identity as objects."""
        self._attributions: list[Attribution] = []

    def __len__(self) -> int:
        return len(self._flows)

    def add(
        self, flow: FlowKey, traffic: TrafficCounts, attribution: Attribution, flows: int
    ) -> None:
        """Add the sum of several flows, of which `flow` is one and `flows` are new."""
        owner = self._owners.setdefault(id(attribution), len(self._attributions))
        if owner == len(self._attributions):
            self._attributions.append(attribution)
        self._flows.append(flow)
        self._rows.append(
            (
                traffic.transmit_bytes,
                traffic.transmit_packets,
                traffic.receive_bytes,
                traffic.receive_packets,
                owner,
                flows,
            )
        )

    def drain(self) -> OwnedSums:
        """Return what was added since the last call."""
        packer, rows = FlowPacker(), np.array(self._rows, np.int64).reshape(-1, 6)
        sums = OwnedSums(
            packer.pack(self._flows), packer, rows[:, :4], rows[:, 4], self._attributions,
            rows[:, 5],
        )  # fmt: skip
        self._flows, self._rows, self._owners, self._attributions = [], [], {}, []
        return sums

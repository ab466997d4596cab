"""Packets as rows for a flow table, and what a table has counted as plain values."""

from collections.abc import Iterator, Mapping

import numpy as np

from hogpipe.flows.flow_table import FlowTable
from hogpipe.flows.packet_rows import RECEIVE, FlowSums, PacketRows
from hogpipe.model import Attribution, FlowDelta, FlowKey, TrafficCounts


def rows_of(table: FlowTable, flows: Mapping[FlowKey, FlowDelta], now: float) -> PacketRows:
    """Return deltas as rows, one for each direction in which something moved."""
    slots, _ = table.give_slots(table.packer.pack(flows), now)
    parts = [
        (slot, *part, delta.opened, delta.first_ns, delta.last_ns)
        for slot, delta in zip(slots.tolist(), flows.values(), strict=True)
        for part in (
            (0, delta.transmit_bytes, delta.transmit_packets),
            (RECEIVE, delta.receive_bytes, delta.receive_packets),
        )
        if part[2]
    ]
    columns = np.array(parts, np.int64).reshape(-1, 7).T
    slots, direction, size, packets, opened, first_ns, last_ns = columns
    return PacketRows(slots, direction, size, packets, opened.astype(np.bool_), first_ns, last_ns)


def list_sums(sums: FlowSums) -> Iterator[tuple[FlowKey, TrafficCounts, Attribution]]:
    """Yield each row of what a table has counted."""
    rows = zip(sums.words, sums.counters.tolist(), sums.owners.tolist(), strict=True)
    for words, counters, owner in rows:
        yield sums.packer.unpack(words), _traffic(counters), sums.attributions[owner]


def _traffic(counters: list[int]) -> TrafficCounts:
    transmit_bytes, transmit_packets, receive_bytes, receive_packets = counters
    return TrafficCounts(
        transmit_bytes=transmit_bytes,
        transmit_packets=transmit_packets,
        receive_bytes=receive_bytes,
        receive_packets=receive_packets,
    )

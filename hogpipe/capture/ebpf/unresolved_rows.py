"""Rows that attribution looks up, as packets of the flows of the flow table.

In: rows, and what is known of their sockets. Out: `PacketRows`. So flows that are known pass on the
fast lane of the table, and only the others become flow keys.

Flows that are idle are evicted from the table here, as the wire table does for a source of packets,
and those that are left take low slots, so that columns shrink. Rows of the epoch before are counted
by then: the source waits for that. Nothing raises.
"""

from collections.abc import Callable

import numpy as np

from hogpipe.capture.ebpf.row_flows import RowFlows
from hogpipe.flows.flow_slots import EvictionSchedule, choose_idle_limits
from hogpipe.flows.flow_table import FlowTable
from hogpipe.flows.health_columns import SlotHealth, find_known
from hogpipe.flows.packet_rows import RECEIVE, Flags, Health, Integers, PacketRows
from hogpipe.linux.bpf.traffic_rows import Rows, tally_rows
from hogpipe.model import Tally


class UnresolvedRows:
    """For the thread of the source; `clock` is that of `table`."""

    def __init__(self, table: FlowTable, clock: Callable[[], float]) -> None:
        self._table = table
        self._clock = clock
        self._eviction = EvictionSchedule()

    def locate(
        self,
        rows: Rows,
        flows: RowFlows,
        opened: Flags,
        excess: Flags,
        overflowed: Tally,
        *,
        health: Health | None = None,
    ) -> tuple[PacketRows, SlotHealth | None]:
        """Return rows as packets of their flows, and the health of these.

        Those in `excess`, and those without room in the table, are folded: added to `overflowed`
        and to sums.
        """
        table = self._table
        slots, is_folded = np.zeros(len(rows), np.int64), excess.copy()
        with table.lock:  # a name has its number as long as a flow has it
            words, now = flows.pack(table.packer), self._clock()
            slots[~excess], is_folded[~excess] = table.give_slots(words[~excess], now)
            if excess.any():
                slots[excess] = table.give_sums(words[excess], now)
        if is_folded.any():
            self._eviction.hasten(now)
            overflowed.add(tally_rows(rows[is_folded]))
        packets = _make_packets(slots, rows["counts"].astype(np.int64), opened)
        if health is None or not (known := find_known(health)).any():
            return packets, None
        return packets, SlotHealth(slots[known], health[known])

    def evict(self) -> None:
        """Evict flows that are idle from the table, if that is due."""
        now = self._clock()
        if now < self._eviction.due_at:
            return
        idle, idle_unowned = choose_idle_limits(is_crowded=self._table.is_crowded)
        self._table.evict(now, idle=idle, idle_unowned=idle_unowned)
        self._table.compact()
        self._eviction.end(now, is_crowded=self._table.is_crowded)


def _make_packets(slots: Integers, counts: Integers, opened: Flags) -> PacketRows:
    """Return a row for each direction in which something moved."""
    sent = np.flatnonzero(counts[:, :RECEIVE].any(axis=1))
    received = np.flatnonzero(counts[:, RECEIVE:].any(axis=1))
    rows = np.concatenate([sent, received])
    direction = np.zeros(len(rows), np.int64)
    direction[len(sent) :] = RECEIVE
    none = np.zeros(len(rows), np.int64)
    return PacketRows(
        slots[rows],
        direction,
        counts[rows, direction],
        counts[rows, direction + 1],
        opened[rows],
        none,
        none,
    )

"""PURE: columns that pass between the stages: packets by the slot of their flow, and sums of flows.

A row of `PacketRows` is what moved in one direction of one flow: a packet, or several that were
summed up before. A row of `FlowSums` is what a flow moved, in both directions, under one owner.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hogpipe.flows.flow_words import FlowPacker
from hogpipe.flows.key_index import Keys
from hogpipe.model import Attribution, FlowDelta
from hogpipe.model.peer_names import PeerName

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Times = NDArray[np.float64]
Counters = NDArray[np.int64]
"""Of shape (n, 4), in the order of TrafficCounts: transmitted bytes and packets, received ones."""
Health = NDArray[np.int64]
"""The health of TCP connections, in the columns of health_columns.py."""
RECEIVE = 2
"""The column of `Counters` from which on received ones are; transmitted ones are from 0 on."""

_MAX_PARTS = 8


@dataclass(frozen=True, slots=True, eq=False)
class PacketRows:
    """What moved, a row for a direction of a flow; times are nanoseconds since the epoch, or 0."""

    slots: Integers
    direction: Integers
    """The column of `Counters` for the bytes: 0 or RECEIVE."""
    bytes: Integers
    packets: Integers
    opened: Flags
    """Whether a TCP SYN without ACK was among the packets."""
    first_ns: Integers
    last_ns: Integers

    def __len__(self) -> int:
        return len(self.slots)

    def take(self, rows: Flags | Integers) -> "PacketRows":
        """Return these rows."""
        return PacketRows(
            self.slots[rows],
            self.direction[rows],
            self.bytes[rows],
            self.packets[rows],
            self.opened[rows],
            self.first_ns[rows],
            self.last_ns[rows],
        )


def split_at_syns(rows: PacketRows, opens: Flags, at: Integers) -> list[PacketRows]:
    """Return parts of `rows` in which each flow has at most one connection, in order of time.

    `opens` says which rows are SYNs that open one, and `at` are the rows of flows that have such.
    Other flows are in the first part. A SYN right behind another one is sent again. Known limit:
    beyond `_MAX_PARTS` connections of one flow, the last part has the rest.
    """
    order = at[np.lexsort((~opens[at], rows.first_ns[at], rows.slots[at]))]
    slots, opens = rows.slots[order], opens[order]
    is_first = np.ones(len(slots), np.bool_)
    is_first[1:] = slots[1:] != slots[:-1]
    begins = opens & ~is_first
    begins[1:] &= ~opens[:-1]
    if not begins.any():
        return [rows]
    connections = begins.cumsum()
    starts = is_first.nonzero()[0]
    connections -= np.repeat(connections[starts], np.diff(starts, append=len(slots)))
    parts = np.zeros(len(rows), np.int64)
    parts[order] = np.minimum(connections, _MAX_PARTS - 1)
    return [rows.take(parts == part) for part in range(int(parts.max()) + 1)]


def add_up(counters: Counters, places: Integers, rows: PacketRows) -> None:
    """Add what moved to `counters`, each of `rows` at its place there; a place may come again."""
    flat, at = counters.reshape(-1), 4 * places + rows.direction
    np.add.at(flat, at, rows.bytes)
    np.add.at(flat, at + 1, rows.packets)


@dataclass(frozen=True, slots=True, eq=False)
class FlowNaming:
    """The names of the peers of flows."""

    numbers: Integers
    """The place of each flow's name in `names`."""
    names: Sequence[PeerName | None]
    """None first, for flows without a name."""

    def take(self, rows: Flags | Integers) -> "FlowNaming":
        """Return the names of these flows."""
        return FlowNaming(self.numbers[rows], self.names)


@dataclass(frozen=True, slots=True, eq=False)
class FlowSums:
    """What flows moved: those of the flow table since its last drain, in the order of their slots.

    A flow has a row for each owner that it had meanwhile; further ones are behind all first ones.
    Nothing here changes when the flow table goes on.

    Or sums of several flows each, of a source that knows their owners, and counts their flows.
    """

    slots: Integers
    """Empty for sums of several flows."""
    ids: Integers
    """A number for each flow, which no flow has that gets the same slot later; or empty, too."""
    words: Keys
    """The flows (`flow_words.FLOW_WORDS`); or one of the flows of each sum."""
    packer: FlowPacker
    """The names of the numbers in `words`."""
    counters: Counters
    owners: Integers
    """The place of each row's attribution in `attributions`."""
    attributions: Sequence[Attribution]
    new_flows: Integers | None = None
    """How many of the flows of each sum are new in the window; None for flows with slots."""
    health: Health | None = None
    """That of each row; None if it is not known of any. A row may have moved nothing."""
    begins: Integers | None = None
    """When each flow began, and when the oldest one began of those that have followed on another on
    the five-tuple since the last drain; nanoseconds since the epoch, negative where no SYN was
    seen. None where that is not recorded (`FlowTable.records_begins`)."""
    naming: FlowNaming | None = None
    """The names of the flows' peers, where they are asked for."""

    def __len__(self) -> int:
        return len(self.words)

    def take(self, rows: Flags | Integers) -> "FlowSums":
        """Return these rows."""
        has_slots = self.new_flows is None
        return FlowSums(
            self.slots[rows] if has_slots else self.slots,
            self.ids[rows] if has_slots else self.ids,
            self.words[rows],
            self.packer,
            self.counters[rows],
            self.owners[rows],
            self.attributions,
            None if self.new_flows is None else self.new_flows[rows],
            None if self.health is None else self.health[rows],
            None if self.begins is None else self.begins[rows],
            None if self.naming is None else self.naming.take(rows),
        )


def make_delta(counters: list[int], opened: bool, first_ns: int, last_ns: int) -> FlowDelta:
    """Return a delta of `counters`, in the order of TrafficCounts."""
    transmit_bytes, transmit_packets, receive_bytes, receive_packets = counters
    return FlowDelta(
        transmit_bytes=transmit_bytes,
        transmit_packets=transmit_packets,
        receive_bytes=receive_bytes,
        receive_packets=receive_packets,
        opened=opened,
        first_ns=first_ns,
        # The same number if there is one packet: one object less for each flow of a flood.
        last_ns=first_ns if first_ns == last_ns else last_ns,
    )

"""PURE: entries of the kernel's tables become sums by owner, and flows to be looked up.

Nothing is lost on the way: what goes in comes out in `FlowBatch.owned` or `FlowBatch.flows`, and is
counted as captured. Entries are many, one for each connection and turn, so that they are summed up
column by column before anything is said of single ones.

Some are left to look-ups: those of sockets that were there before the kernel was asked to note
owners; connections that are still open and of which only the listening socket's owner is known;
sockets that may be open though their owner is gone, as a daemon leaves them that connects before it
forks; and what a service manager holds for the services that it starts.

The packets by which a connection begins are those of the listening socket, and the last ones may be
the kernel's own. They are added to the connection of the same ends, if that moved in the same turn.
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hogpipe.bpf.entries import (
    BY_LISTENER,
    ENTRY,
    RELEASED,
    Ends,
    Entries,
    Holder,
    SocketTraffic,
    describe,
    describe_ends,
    describe_holders,
)
from hogpipe.capture.grouping import hash_rows, order_by_key
from hogpipe.ledger.contract import MANAGER
from hogpipe.model import Attribution, FlowBatch, FlowDelta, FlowKey, OwnedFlow, Quality, Tally

_MANAGER_WORDS = np.frombuffer(MANAGER.encode().ljust(16, b"\0"), np.uint64)
_BATCH = 4096  # flows that are handed over at once
_MOST_REMEMBERED = 1 << 18
_TCP = 6
# The bytes of `struct ends` that tell groups apart, by dimension (config/settings.py).
_PROTOCOL, _FAMILY = 36, 37
_BYTES = {
    "transport": range(_PROTOCOL, _FAMILY),
    "network_type": range(_FAMILY, _FAMILY + 1),
    "remote": range(16, 32),
    "flow": range(_FAMILY),
}


class Turn(NamedTuple):
    """What the tables held at the end of a turn."""

    exchanges: Entries
    connections: Entries
    overflow: Entries


class Knowledge(Protocol):
    """What is known of sockets beyond their entries."""

    def name_flow(self, ends: Ends, holder: Holder) -> FlowKey:
        """Return the flow of a socket whose owner is noted."""

    def attribute(self, holder: Holder, quality: Quality) -> Attribution:
        """Return the owner that is noted."""

    def is_gone(self, pid: int) -> bool:
        """Tell whether there is no process of that pid."""

    def ask_for(self, entry: SocketTraffic) -> tuple[FlowKey, bool]:
        """Return the flow of an entry that is looked up; whether it was another socket's before."""


class Sorter:
    """Sorts turn after turn; `dimensions` are those that records are told apart by."""

    def __init__(self, knowledge: Knowledge, dimensions: Collection[str]) -> None:
        self._knowledge = knowledge
        self._mask = _make_mask(dimensions)
        self._seen = np.zeros(0, np.uint64)
        """Hashes of the flows of this window, in order."""

    def sort(self, turn: Turn, *, window_ends: bool) -> Iterator[FlowBatch]:
        """Yield what a turn amounts to, in one batch or more."""
        loose = _join(turn.exchanges, turn.connections)
        entries = np.concatenate([loose, turn.connections, turn.overflow])
        is_connection = np.zeros(len(entries), np.bool_)
        is_connection[len(loose) : len(loose) + len(turn.connections)] = True
        new = self._find_new(entries, window_ends=window_ends)
        asked = self._find_asked(entries, is_connection)
        batch = FlowBatch()
        batch.counts.captured = _tally(entries)
        batch.counts.overflowed = _tally(turn.overflow)
        self._ask(entries[asked], batch)
        for start, owned in self._sum_up(entries[~asked], new[~asked]):
            if start:
                yield batch
                batch = FlowBatch()
            batch.owned = owned
        yield batch

    def _find_asked(self, entries: Entries, is_connection: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Tell which entries are left to look-ups."""
        pids, flags = entries["pid"], entries["flags"]
        by_listener, is_open = flags & BY_LISTENER != 0, flags & RELEASED == 0
        gone = [pid for pid in np.unique(pids[is_open]).tolist() if self._knowledge.is_gone(pid)]
        return np.asarray(
            (pids == 0)
            | (is_open & is_connection & by_listener)
            | (is_open & ~by_listener & np.isin(pids, gone) & _have_ends(entries))
            | (entries["command"] == _MANAGER_WORDS).all(axis=1)
        )

    def _ask(self, entries: Entries, batch: FlowBatch) -> None:
        """Put entries into the flows that are looked up."""
        for entry in describe(entries):
            flow, opened = self._knowledge.ask_for(entry)
            delta = FlowDelta(
                entry.transmit_bytes,
                entry.transmit_packets,
                entry.receive_bytes,
                entry.receive_packets,
                opened,
            )
            known = batch.flows.setdefault(flow, delta)
            if known is not delta:
                known.add(delta)

    def _sum_up(
        self, entries: Entries, new: NDArray[np.bool_]
    ) -> Iterator[tuple[int, list[OwnedFlow]]]:
        """Yield the sums of entries with their owners, some at a time; with the number before."""
        if not len(entries):
            return
        order, bounds = order_by_key(self._make_keys(entries))
        starts = bounds[:-1]
        counts = np.add.reduceat(entries["counts"][order], starts, axis=0)
        flows = np.add.reduceat(new[order].astype(np.int64), starts)
        heads = entries[order[starts]]
        # Who started before the oldest note of a pid is the one that all of them are about.
        heads["boot_ns"] = np.minimum.reduceat(entries["boot_ns"][order], starts)
        for start in range(0, len(heads), _BATCH):
            part = slice(start, start + _BATCH)
            yield start, self._own(heads[part], counts[part].tolist(), flows[part].tolist())

    def _own(self, heads: Entries, counts: list[list[int]], flows: list[int]) -> list[OwnedFlow]:
        owned = []
        for holder, ends, moved, number in zip(
            describe_holders(heads), describe_ends(heads), counts, flows, strict=True
        ):
            quality = Quality.LISTENER if holder.by_listener else Quality.EXACT
            attribution = self._knowledge.attribute(holder, quality)
            flow = self._knowledge.name_flow(ends, holder)
            sent, sent_packets, received, received_packets = moved
            delta = FlowDelta(sent, sent_packets, received, received_packets)
            owned.append(OwnedFlow(flow, delta, attribution, number))
        return owned

    def _make_keys(self, entries: Entries) -> NDArray[np.uint64]:
        """Return rows that are equal for what need not be told apart."""
        owner = entries["pid"].astype(np.uint64) << np.uint64(1)
        owner |= entries["flags"] & BY_LISTENER != 0
        columns = [owner[:, None], entries["command"]]
        if self._mask.any():
            columns.append(entries["ends"] & self._mask)
        return np.concatenate(columns, axis=1)

    def _find_new(self, entries: Entries, *, window_ends: bool) -> NDArray[np.bool_]:
        """Tell which entries are the first of their flows in the window."""
        seen = self._seen
        if window_ends and not len(seen):
            return np.ones(len(entries), np.bool_)
        flows = np.concatenate([entries["cookie"][:, None], entries["ends"]], axis=1)
        hashes = hash_rows(flows)
        new = ~np.isin(hashes, seen)
        self._seen = seen[:0] if window_ends else np.union1d(seen, hashes)[:_MOST_REMEMBERED]
        return new


def _join(exchanges: Entries, connections: Entries) -> Entries:
    """Add what belongs to connections to them, and return the rest."""
    ends = np.ascontiguousarray(exchanges["ends"])
    is_tcp = ends.view(np.uint8).reshape(-1, ENTRY["ends"].itemsize)[:, _PROTOCOL] == _TCP
    if not is_tcp.any() or not len(connections):
        return exchanges
    loose = exchanges[is_tcp]
    hashes = hash_rows(connections["ends"])
    order = hashes.argsort()
    place = np.searchsorted(hashes[order], hash_rows(loose["ends"]))
    owner = order[np.minimum(place, len(order) - 1)]
    namespace = loose["namespace"]
    fits = (connections["ends"][owner] == loose["ends"]).all(axis=1)
    fits &= (namespace == 0) | (namespace == connections["namespace"][owner])
    np.add.at(connections["counts"], owner[fits], loose["counts"][fits])
    return np.concatenate([exchanges[~is_tcp], loose[~fits]])


def _have_ends(entries: Entries) -> NDArray[np.bool_]:
    """Tell which entries are of one flow; those of an overflow are of a process alone."""
    return np.asarray((entries["ends"] != 0).any(axis=1))


def _tally(entries: Entries) -> Tally:
    sent, sent_packets, received, received_packets = entries["counts"].sum(axis=0).tolist()
    return Tally(sent_packets + received_packets, sent + received)


def _make_mask(dimensions: Collection[str]) -> NDArray[np.uint64]:
    mask = bytearray(ENTRY["ends"].itemsize)
    for dimension in _BYTES.keys() & dimensions:
        for place in (*_BYTES[dimension], _FAMILY):
            mask[place] = 0xFF
    return np.frombuffer(bytes(mask), np.uint64)

"""PURE: entries of the kernel's tables become sums by owner, and flows to be looked up.

Nothing is lost on the way: what goes in comes out in `FlowBatch.owned` or `FlowBatch.flows`, and is
counted as captured then. Entries are many, one for each connection and turn, so that they are
summed up column by column before anything is said of single ones.

Some are left to look-ups: those of sockets that were there before the kernel was asked to note
owners; connections that are still open and of which only the listening socket's owner is known;
sockets that may be open though their owner is gone, as a daemon leaves them that connects before it
forks; and what a service manager holds for the services that it starts.

An accepted connection that began in a turn and is open at its end is held back for one turn: most
are closed soon, and then the kernel knows who has served them, without a look-up.
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hogpipe.capture.decode.columns import hash_rows, order_by_key
from hogpipe.capture.ebpf.row_joins import add_held, assign_loose
from hogpipe.linux.bpf.shapes import (
    BY_LISTENER,
    ENDPOINTS,
    FRESH,
    RELEASED,
    TRAFFIC_ROW,
    offset_of,
)
from hogpipe.linux.bpf.traffic_rows import (
    PROTOCOL_BYTE,
    Endpoints,
    RowOwner,
    Rows,
    TrafficRow,
    decode_endpoints,
    decode_owners,
    decode_rows,
    join_rows,
    make_counts,
    pick_rows,
)
from hogpipe.model import (
    SERVICE_MANAGER,
    Attribution,
    FlowBatch,
    FlowDelta,
    FlowKey,
    OwnedFlow,
    Quality,
    Tally,
)

_MANAGER_WORDS = np.frombuffer(SERVICE_MANAGER.encode().ljust(16, b"\0"), np.uint64)
_NEVER = np.iinfo(np.uint64).max
_BATCH = 4096  # flows that are handed over at once
_MOST_REMEMBERED = 1 << 18


class Turn(NamedTuple):
    """What the tables held at the end of a turn."""

    other_flows: Rows
    connections: Rows
    overflow: Rows


class Knowledge(Protocol):
    """What is known of sockets beyond their entries."""

    def name_flow(self, ends: Endpoints, holder: RowOwner) -> FlowKey:
        """Return the flow of a socket whose owner is noted."""

    def attribute(self, holder: RowOwner, quality: Quality) -> Attribution:
        """Return the owner that is noted."""

    def started_ns(self, pid: int) -> int | None:
        """Return when the process that has a pid now was started, nanoseconds since boot.

        None where there is none.
        """

    def ask_for(self, entry: TrafficRow) -> tuple[FlowKey, bool]:
        """Return the flow of an entry that is looked up; whether it was another socket's before."""


class RowAggregator:
    """Sums up turn after turn.

    Rows are kept apart by their owner, and by the fields of their endpoints that `group_by` needs.
    """

    def __init__(self, knowledge: Knowledge, group_by: Collection[str]) -> None:
        self._knowledge = knowledge
        self._mask = _make_mask(group_by)
        self._seen = np.zeros(0, np.uint64)
        """Hashes of the flows of this window, in order."""
        self._held = np.zeros(0, TRAFFIC_ROW)
        """Connections of the last turn that are held back."""

    def sort(self, turn: Turn, *, window_ends: bool, last: bool = False) -> Iterator[FlowBatch]:
        """Yield what a turn amounts to, in one batch or more; nothing is held back of the last."""
        if not any(map(len, (*turn, self._held))):
            self._seen = self._seen[:0] if window_ends else self._seen
            yield FlowBatch()
            return
        loose = assign_loose(turn.other_flows, turn.connections)
        connections = self._hold_back(turn.connections, last=last)
        entries = join_rows(loose, connections, turn.overflow)
        is_connection = np.zeros(len(entries), np.bool_)
        is_connection[len(loose) : len(loose) + len(connections)] = True
        new = self._find_new(entries, window_ends=window_ends)
        gone = self._find_gone(entries)
        asked = self._find_asked(entries, is_connection, gone)
        batch = FlowBatch()
        batch.counts.captured = _tally(entries)
        batch.counts.overflowed = _tally(turn.overflow)
        if asked.any():
            self._ask(pick_rows(entries, asked), batch)
            entries, new, gone = pick_rows(entries, ~asked), new[~asked], gone[~asked]
        for start, owned in self._sum_up(entries, new, gone):
            if start:
                yield batch
                batch = FlowBatch()
            batch.owned = owned
        yield batch

    def _hold_back(self, connections: Rows, *, last: bool) -> Rows:
        """Return connections without those that wait for the next turn, with those of the last."""
        held = self._held
        kinds = connections["flags"] & (FRESH | BY_LISTENER | RELEASED)
        waits = (kinds == FRESH | BY_LISTENER) & np.bool_(not last)
        self._held = pick_rows(connections, waits)
        if len(self._held):
            connections = pick_rows(connections, ~waits)
        return add_held(held, connections) if len(held) else connections

    def _find_gone(self, entries: Rows) -> NDArray[np.bool_]:
        """Tell which entries are of processes that are gone, whoever has their pids by now."""
        pids, places = np.unique(entries["pid"], return_inverse=True)
        started = [self._knowledge.started_ns(pid) if pid else 0 for pid in pids.tolist()]
        since = np.array([_NEVER if one is None else one for one in started], np.uint64)
        return np.asarray(entries["boot_ns"] < since[places])

    def _find_asked(
        self, entries: Rows, is_connection: NDArray[np.bool_], gone: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Tell which entries are left to look-ups."""
        pids, flags = entries["pid"], entries["flags"]
        by_listener, is_open = flags & BY_LISTENER != 0, flags & RELEASED == 0
        left = is_open & ~by_listener & gone & _have_ends(entries)
        if left.any():  # of the flows of a socket one tells that it was released
            left &= ~np.isin(entries["cookie"], entries["cookie"][~is_open])
        return np.asarray(
            (pids == 0)
            | (is_open & is_connection & by_listener)
            | left
            | (entries["command"] == _MANAGER_WORDS).all(axis=1)
        )

    def _ask(self, entries: Rows, batch: FlowBatch) -> None:
        """Put entries into the flows that are looked up."""
        for entry in decode_rows(entries):
            flow, opened = self._knowledge.ask_for(entry)
            delta = FlowDelta(opened=opened)
            delta.add_counts(entry.counts)
            known = batch.flows.setdefault(flow, delta)
            if known is not delta:
                known.add(delta)

    def _sum_up(
        self, entries: Rows, new: NDArray[np.bool_], gone: NDArray[np.bool_]
    ) -> Iterator[tuple[int, list[OwnedFlow]]]:
        """Yield the sums of entries with their owners, some at a time; with the number before."""
        if not len(entries):
            return
        order, bounds = order_by_key(self._make_keys(entries, gone))
        starts = bounds[:-1]
        counts = np.add.reduceat(entries["counts"][order], starts, axis=0)
        flows = np.add.reduceat(new[order].astype(np.int64), starts)
        heads = pick_rows(entries, order[starts])
        # Who started before the oldest note of a pid is the one that all of them are about.
        heads["boot_ns"] = np.minimum.reduceat(entries["boot_ns"][order], starts)
        for start in range(0, len(heads), _BATCH):
            part = slice(start, start + _BATCH)
            yield start, self._own(heads[part], counts[part].tolist(), flows[part].tolist())

    def _own(self, heads: Rows, counts: list[list[int]], flows: list[int]) -> list[OwnedFlow]:
        owned = []
        for holder, ends, row, number in zip(
            decode_owners(heads), decode_endpoints(heads), counts, flows, strict=True
        ):
            quality = Quality.LISTENER if holder.by_listener else Quality.EXACT
            attribution = self._knowledge.attribute(holder, quality)
            flow = self._knowledge.name_flow(ends, holder)
            owned.append(OwnedFlow(flow, make_counts(row), attribution, number))
        return owned

    def _make_keys(self, entries: Rows, gone: NDArray[np.bool_]) -> NDArray[np.uint64]:
        """Return rows that are equal for what need not be told apart.

        A pid may have been one process's and then another's.
        """
        owner = entries["pid"].astype(np.uint64) << np.uint64(2)
        owner |= (entries["flags"] & BY_LISTENER != 0) | gone.astype(np.uint64) << np.uint64(1)
        columns = [owner[:, None], entries["command"]]
        if self._mask.any():
            columns.append(entries["endpoints"] & self._mask)
        return np.concatenate(columns, axis=1)

    def _find_new(self, entries: Rows, *, window_ends: bool) -> NDArray[np.bool_]:
        """Tell which entries are the first of their flows in the window."""
        seen = self._seen
        if window_ends and not len(seen):
            return np.ones(len(entries), np.bool_)
        flows = np.concatenate([entries["cookie"][:, None], entries["endpoints"]], axis=1)
        hashes = hash_rows(flows)
        new = ~np.isin(hashes, seen)
        self._seen = seen[:0] if window_ends else np.union1d(seen, hashes)[:_MOST_REMEMBERED]
        return new


def _have_ends(entries: Rows) -> NDArray[np.bool_]:
    """Tell which entries are of one flow; those of an overflow are of a process alone."""
    return np.asarray(entries["endpoints"][:, PROTOCOL_BYTE // 8] != 0)


def _tally(entries: Rows) -> Tally:
    return make_counts(entries["counts"].sum(axis=0).tolist()).total


def _make_mask(fields: Collection[str]) -> NDArray[np.uint64]:
    """Return the mask that leaves these fields of `endpoints`.

    The family is among them, as it is 0 in rows without a known flow, which are kept apart.
    """
    mask = np.zeros(ENDPOINTS.itemsize, np.uint8)
    for field in (*fields, "family") if fields else ():
        start = offset_of(ENDPOINTS, field)
        mask[start : start + ENDPOINTS[field].itemsize] = 0xFF
    return mask.view(np.uint64)

"""PURE: the rows of an epoch become sums by owner, and packets whose owner is to be looked up.

In: the rows of one epoch after the other. Out: `FlowBatch`es, whose `owned` and `rows` together
have every byte and packet of the rows; they are counted as captured when they come out.

There may be hundreds of thousands of rows, one for each flow: they are summed up column by column,
and of the sums only the owners are decoded, each once.

Rows that are looked up
-----------------------
The kernel's record of an owner is used, but for rows of
- connections that existed before the programs, and sockets of the kernel's own, whose pid is 0;
  other sockets from before have their owner in the snapshot, if that owner lives;
- connections that are open and of which only the listening socket's owner is known;
- sockets that may be open although their owner has exited, as of a daemon that connects before it
  forks;
- connections that are open at the end of an epoch, as the process that connected may have passed
  them on to another one; once /proc has shown that it did not, they are not looked up for some
  seconds, and if it did, they are looked up to their end (`FlowSockets.record_comparison`);
- sockets that the service manager opened for the services that it starts.

They pass by column, too (unresolved_rows.py), and those of known flows need nothing else; but a
lookup costs some microseconds. Of rows without a connection, which a flood may make as many of as
it likes, `_MAX_LOOKED_UP` are looked up in an epoch; further ones are folded and counted as
overflowed.

Packet sockets
--------------
A row of a packet socket names its sender, and needs no lookup. The hooks for them are those of the
interfaces of our own network namespace (`PacketHooks`).

Connections that are carried over
---------------------------------
An accepted connection that began in an epoch and is open at its end is carried over to the next
epoch, once. Most are closed by then, so that the kernel knows which process served them. So is a
handshake whose connection is not established at the end of an epoch.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hogpipe.capture.ebpf.owner_groups import group_owners
from hogpipe.capture.ebpf.row_flows import RowFlows, have_endpoints, make_row_flows
from hogpipe.capture.ebpf.row_joins import add_carried_over, find_handshakes, join_connections
from hogpipe.capture.ebpf.row_names import (
    UNKNOWN_TIMES,
    EpochTimes,
    RowNamer,
    make_rows_to_name,
)
from hogpipe.capture.ebpf.row_properties import find_networks, find_service_ports
from hogpipe.capture.ebpf.unresolved_rows import UnresolvedRows
from hogpipe.flows.flow_batch import FlowBatch
from hogpipe.flows.flow_words import FlowPacker
from hogpipe.flows.health_columns import SlotHealth, add_health, make_health, sum_health
from hogpipe.flows.key_index import Keys
from hogpipe.flows.network_columns import NetworkColumns
from hogpipe.flows.packet_rows import (
    Flags,
    FlowNaming,
    FlowSums,
    Health,
    Integers,
    PacketRows,
)
from hogpipe.flows.row_order import hash_rows, order_by_key
from hogpipe.linux.bpf.health_rows import NO_HEALTH, HealthRows, join_health_rows
from hogpipe.linux.bpf.shapes import (
    BY_LISTENER,
    ENDPOINTS,
    FRESH,
    PACKET_SOCKET,
    RELEASED,
    TRAFFIC_ROW,
    offset_of,
)
from hogpipe.linux.bpf.traffic_rows import (
    PROTOCOL_BYTE,
    RowOwner,
    Rows,
    decode_owners,
    join_rows,
    pick_rows,
    set_owners,
    tally_rows,
)
from hogpipe.model import (
    BUILT_IN_NETWORKS,
    OWN_NAMESPACE,
    SERVICE_MANAGER,
    Attribution,
    Networks,
    Quality,
    ServicePorts,
    Tally,
)
from hogpipe.protocols import TCP

_SERVICE_MANAGER_WORDS = np.frombuffer(SERVICE_MANAGER.encode().ljust(16, b"\0"), np.uint64)
_ABOVE_OWNER = np.uint64(32)
_ABOVE_PORT = np.uint64(48)
_NEVER = np.iinfo(np.uint64).max
_SUMS_IN_BATCH = 1 << 14
_NO_SLOTS = np.zeros(0, np.int64)
_MAX_HASHES = 1 << 18
_MAX_LOOKED_UP = 1 << 14


class EpochRows(NamedTuple):
    """What the maps held at the end of an epoch."""

    other_flows: Rows
    connections: Rows
    overflow: Rows


class OwnerLookup(Protocol):
    """What is known about owners and flows beyond the rows themselves."""

    @property
    def own_namespace(self) -> int:
        """The cookie of our own network namespace."""

    def attribute(self, owner: RowOwner, quality: Quality) -> Attribution:
        """Return the attribution to the recorded owner."""

    def find_start_ns(self, pid: int) -> int | None:
        """Return when the process that has a pid now started, None if no process has it.

        Nanoseconds since boot.
        """

    def find_earlier_owners(
        self, cookies: NDArray[np.uint64]
    ) -> tuple[NDArray[np.intp], Sequence[RowOwner | None]]:
        """Return the living owners of sockets that existed before the programs.

        And first, for each socket, its place among these owners. None stands for an unknown owner.
        """

    def find_unconfirmed(self, cookies: Collection[int]) -> list[bool]:
        """Return for each open connection whether its holder is to be looked up."""

    def find_passed_on(self, cookies: Collection[int]) -> list[bool]:
        """Return for each closed connection whether another process than its owner held it."""

    def record_releases(self, rows: Rows, exited: Flags) -> None:
        """Record the owners of rows as the processes that closed connections, if one awaits it."""

    def record_unresolved(self, rows: Rows, exited: Flags) -> tuple[RowFlows, Flags]:
        """Record the sockets of rows that are looked up; return their flows.

        And which flows were another socket's before.
        """


class RowAggregator:
    """Aggregates the rows of one epoch after the other.

    Rows are kept apart by their owner, and by that which `group_by` needs: fields of their
    endpoints, the port of the service (`service_port`), by what is known of this host's ports at
    that moment, the named network of the remote address (`network`), and the name of the peer
    (`domain`), which `names` finds.
    """

    def __init__(
        self,
        lookup: OwnerLookup,
        unresolved: UnresolvedRows,
        group_by: Collection[str],
        service_ports: Callable[[], ServicePorts] = ServicePorts,
        networks: Networks = BUILT_IN_NETWORKS,
        *,
        names: RowNamer | None = None,
    ) -> None:
        self._lookup = lookup
        self._names = names
        self._unresolved = unresolved
        self._service_ports = service_ports
        self.regroup(group_by, networks)
        self._seen = np.zeros(0, np.uint64)
        """Hashes of the flows of this window, in order."""
        self._carried_over = np.zeros(0, TRAFFIC_ROW)
        """Connections of the epoch before."""
        self._handshakes = np.zeros(0, TRAFFIC_ROW)
        """Rows of listening sockets in the epoch before, whose connections were not established."""
        self._health = NO_HEALTH
        """That of the connections that are carried over."""

    def regroup(self, group_by: Collection[str], networks: Networks) -> None:
        """Keep rows apart by other fields, in the next epoch; the window has ended."""
        self._mask = _make_mask(group_by)
        self._by_service_port = "service_port" in group_by
        self._networks = NetworkColumns(networks) if "network" in group_by else None
        self._by_domain = "domain" in group_by

    def aggregate(
        self,
        epoch: EpochRows,
        health: HealthRows = NO_HEALTH,
        *,
        window_ends: bool,
        last: bool = False,
        times: EpochTimes = UNKNOWN_TIMES,
    ) -> Iterator[FlowBatch]:
        """Yield the batches of an epoch, at least one; `last` carries nothing over.

        `health` is that of its connections. `times` are needed for names.
        """
        if not any(map(len, (*epoch, self._carried_over, self._handshakes))):
            self._seen = self._seen[:0] if window_ends else self._seen
            yield FlowBatch()
            return
        is_sent = epoch.other_flows["flags"] & PACKET_SOCKET != 0
        epoch.other_flows["namespace"][is_sent] = self._lookup.own_namespace
        other_flows = self._join_handshakes(epoch, last=last)
        connections = self._carry_over(epoch.connections, last=last)
        rows = join_rows(other_flows, connections, epoch.overflow)
        is_connection = np.zeros(len(rows), np.bool_)
        is_connection[len(other_flows) : len(other_flows) + len(connections)] = True
        placed = self._place_health(health, rows, is_connection)
        self._set_earlier_owners(rows, ~is_connection)
        new = self._find_new(rows, window_ends=window_ends)
        exited = self._find_exited(rows)
        unresolved = _find_unresolved(rows, is_connection, exited)
        unresolved |= self._find_unconfirmed(rows, is_connection & ~unresolved)
        self._record_releases(rows, exited, is_connection & ~unresolved)
        naming = self._name(rows, exited, times)
        batch = FlowBatch()
        batch.counts.captured = tally_rows(rows)
        batch.counts.overflowed = tally_rows(epoch.overflow)
        if unresolved.any():
            excess = _find_excess(rows, unresolved & ~is_connection)
            looked_up = pick_rows(rows, unresolved)
            batch.rows, batch.health = self._locate(
                looked_up,
                None if placed is None else placed[unresolved],
                exited[unresolved],
                excess[unresolved],
                batch.counts.overflowed,
            )
            rows, new, exited = pick_rows(rows, ~unresolved), new[~unresolved], exited[~unresolved]
            placed = None if placed is None else placed[~unresolved]
            naming = None if naming is None else naming.take(~unresolved)
        for owned in self._sum_up(rows, placed, new, exited, naming):
            if batch.owned is not None:
                yield batch
                batch = FlowBatch()
            batch.owned = owned
        yield batch

    def _join_handshakes(self, epoch: EpochRows, *, last: bool) -> Rows:
        """Add handshakes and last packets to connections; return the other flows that are left.

        Handshakes of this epoch that are left are carried over, unless it is the last one.
        """
        before = join_connections(self._handshakes, epoch.connections)
        other_flows = join_connections(epoch.other_flows, epoch.connections)
        is_handshake = find_handshakes(other_flows) & np.bool_(not last)
        self._handshakes = pick_rows(other_flows, is_handshake)
        if len(self._handshakes):
            other_flows = pick_rows(other_flows, ~is_handshake)
        return join_rows(before, other_flows) if len(before) else other_flows

    def _carry_over(self, connections: Rows, *, last: bool) -> Rows:
        """Return connections without those to carry over, and with those carried over before."""
        before = self._carried_over
        kinds = connections["flags"] & (FRESH | BY_LISTENER | RELEASED)
        carried = (kinds == FRESH | BY_LISTENER) & np.bool_(not last)
        self._carried_over = pick_rows(connections, carried)
        if len(self._carried_over):
            connections = pick_rows(connections, ~carried)
        return add_carried_over(before, connections) if len(before) else connections

    def _place_health(self, epoch: HealthRows, rows: Rows, is_connection: Flags) -> Health | None:
        """Return the health of each row, None if it is not known of any.

        That of connections that are carried over is added to their rows in the next epoch.
        """
        known = join_health_rows(self._health, epoch)
        places = np.flatnonzero(is_connection)
        if not len(known) or not len(places):
            self._health = known
            return None
        cookies = rows["cookie"][places]
        order = cookies.argsort(kind="stable")
        found = np.searchsorted(cookies[order], known.cookies).clip(max=len(order) - 1)
        fits = cookies[order[found]] == known.cookies
        self._health = known.take(~fits)
        health = make_health(len(rows))
        add_health(health, places[order[found[fits]]], known.health[fits])
        return health

    def _set_earlier_owners(self, rows: Rows, candidates: Flags) -> None:
        """Give rows of datagram sockets that existed before the programs their owners."""
        protocols = _protocols(rows)
        places = np.flatnonzero(
            candidates
            & (rows["pid"] == 0)
            & (rows["cookie"] != 0)
            & (protocols != TCP)
            & (protocols != 0)
        )
        if not len(places):
            return
        numbers, owners = self._lookup.find_earlier_owners(rows["cookie"][places])
        is_known = np.array([one is not None for one in owners])[numbers]
        set_owners(rows, places[is_known], numbers[is_known], owners)

    def _find_new(self, rows: Rows, *, window_ends: bool) -> Flags:
        """Return which rows are of flows without a row in an earlier epoch of this window."""
        seen = self._seen
        # Not where only the health changed.
        has_moved: Flags = np.logical_or.reduce(rows["counts"] != 0, axis=1)
        if window_ends and not len(seen):
            return has_moved
        rows = pick_rows(rows, has_moved)
        flows = np.concatenate([rows["cookie"][:, None], rows["endpoints"]], axis=1)
        hashes = hash_rows(flows)
        new = has_moved.copy()
        new[has_moved] = ~np.isin(hashes, seen)
        self._seen = seen[:0] if window_ends else np.union1d(seen, hashes)[:_MAX_HASHES]
        return new

    def _find_exited(self, rows: Rows) -> Flags:
        """Return which rows have owners that exited, whether or not their pid is reused."""
        pids, places = np.unique(rows["pid"], return_inverse=True)
        starts = [self._lookup.find_start_ns(pid) if pid else 0 for pid in pids.tolist()]
        start_ns = np.array([_NEVER if one is None else one for one in starts], np.uint64)
        return np.asarray(rows["boot_ns"] < start_ns[places])

    def _find_unconfirmed(self, rows: Rows, is_connection: Flags) -> Flags:
        """Return which rows are of connections that their owner may have passed on."""
        unconfirmed = np.zeros(len(rows), np.bool_)
        may_be = is_connection & (rows["flags"] & BY_LISTENER == 0) & have_endpoints(rows)
        is_open = rows["flags"] & RELEASED == 0
        for which, find in (
            (may_be & is_open, self._lookup.find_unconfirmed),
            (may_be & ~is_open, self._lookup.find_passed_on),
        ):
            if which.any():
                unconfirmed[which] = find(rows["cookie"][which].tolist())
        return unconfirmed

    def _record_releases(self, rows: Rows, exited: Flags, is_owned: Flags) -> None:
        """Record who closed the connections that were looked up while they were open."""
        is_served = rows["flags"] & (RELEASED | BY_LISTENER) == RELEASED
        closed = np.flatnonzero(is_owned & is_served & have_endpoints(rows))
        if len(closed):
            self._lookup.record_releases(pick_rows(rows, closed), exited[closed])

    def _locate(
        self,
        rows: Rows,
        health: Health | None,
        exited: Flags,
        excess: Flags,
        overflowed: Tally,
    ) -> tuple[PacketRows, SlotHealth | None]:
        """Return rows that are looked up as packets, with their health; those in excess as sums."""
        if not excess.any():
            flows, opened = self._lookup.record_unresolved(rows, exited)
        else:
            kept = ~excess
            known, is_other = self._lookup.record_unresolved(pick_rows(rows, kept), exited[kept])
            places = np.zeros(len(rows), np.intp)
            places[kept] = known.places
            flows, opened = make_row_flows(rows, places, known.namespaces), np.zeros_like(excess)
            opened[kept] = is_other
        return self._unresolved.locate(rows, flows, opened, excess, overflowed, health=health)

    def _name(self, rows: Rows, exited: Flags, times: EpochTimes) -> FlowNaming | None:
        """Return the names of the rows' peers, if they are asked for.

        Flows that are looked up are found by these later.
        """
        if self._names is None or not self._by_domain:
            return None
        return self._names.name(make_rows_to_name(rows, exited, self._lookup.attribute, times))

    def _sum_up(
        self,
        rows: Rows,
        health: Health | None,
        new: Flags,
        exited: Flags,
        naming: FlowNaming | None,
    ) -> Iterator[FlowSums]:
        """Yield the sums of rows that need not be kept apart, up to _SUMS_IN_BATCH at a time."""
        if not len(rows):
            return
        owners = group_owners(rows, exited)
        order, bounds = order_by_key(self._make_keys(rows, owners.numbers, naming))
        starts = bounds[:-1]
        firsts = order[starts]
        sums = FlowSums(
            _NO_SLOTS,
            _NO_SLOTS,
            *self._make_words(pick_rows(rows, firsts)),
            np.add.reduceat(rows["counts"][order], starts, axis=0).astype(np.int64),
            owners.numbers[firsts],
            [self._attribute(owner) for owner in decode_owners(owners.firsts)],
            np.add.reduceat(new[order].astype(np.int64), starts),
            None if health is None else sum_health(health, order, bounds),
            naming=None if naming is None else naming.take(firsts),
        )
        for start in range(0, len(sums), _SUMS_IN_BATCH):
            yield sums.take(np.arange(start, min(start + _SUMS_IN_BATCH, len(sums))))

    def _make_words(self, rows: Rows) -> tuple[Keys, FlowPacker]:
        """Return the flows of rows.

        No lookup follows, so the other network namespaces need not be kept apart.
        """
        is_own = rows["namespace"] == self._lookup.own_namespace
        packer = FlowPacker()
        flows = make_row_flows(rows, is_own.astype(np.intp), [None, OWN_NAMESPACE])
        return flows.pack(packer), packer

    def _attribute(self, owner: RowOwner) -> Attribution:
        quality = Quality.LISTENER if owner.by_listener else Quality.EXACT
        return self._lookup.attribute(owner, quality)

    def _make_keys(self, rows: Rows, owners: Integers, naming: FlowNaming | None) -> Keys:
        """Return keys that are equal for rows to sum up, which have one owner."""
        owner = owners.astype(np.uint64)
        if self._by_service_port:
            ports = find_service_ports(rows, self._service_ports(), self._lookup.own_namespace)
            owner |= ports << _ABOVE_OWNER
        if self._networks is not None:
            owner |= find_networks(rows, self._networks) << _ABOVE_PORT
        columns = [owner[:, None]]
        if self._mask.any():
            columns.append(rows["endpoints"] & self._mask)
        if naming is not None:
            columns.append(naming.numbers.astype(np.uint64)[:, None])
        return np.concatenate(columns, axis=1)


def _find_unresolved(rows: Rows, is_connection: Flags, exited: Flags) -> Flags:
    """Return which rows are looked up; see the module's docstring."""
    pids, flags = rows["pid"], rows["flags"]
    by_listener, is_open = flags & BY_LISTENER != 0, flags & RELEASED == 0
    outlives_owner = is_open & ~by_listener & exited & have_endpoints(rows)
    if outlives_owner.any():  # only one row of a released socket has the flag
        outlives_owner &= ~np.isin(rows["cookie"], rows["cookie"][~is_open])
    return np.asarray(
        (pids == 0)
        | (is_open & is_connection & by_listener)
        | outlives_owner
        | (rows["command"] == _SERVICE_MANAGER_WORDS).all(axis=1)
    )


def _protocols(rows: Rows) -> NDArray[np.uint8]:
    """Return the protocol of each row, 0 where no flow is known."""
    endpoints = np.ascontiguousarray(rows["endpoints"]).view(np.uint8)
    return endpoints.reshape(len(rows), ENDPOINTS.itemsize)[:, PROTOCOL_BYTE]


def _find_excess(rows: Rows, candidates: Flags) -> Flags:
    """Return which candidates are too many to look up; those of no flow are not."""
    excess = np.zeros(len(rows), np.bool_)
    excess[np.flatnonzero(candidates & have_endpoints(rows))[_MAX_LOOKED_UP:]] = True
    return excess


def _make_mask(fields: Collection[str]) -> NDArray[np.uint64]:
    """Return the mask that leaves these fields of `endpoints`.

    The family is among them, as it is 0 in rows without a known flow, which are kept apart.
    """
    mask = np.zeros(ENDPOINTS.itemsize, np.uint8)
    for field in {*fields, "family"} - {"service_port", "network", "domain"} if fields else ():
        start = offset_of(ENDPOINTS, field)
        mask[start : start + ENDPOINTS[field].itemsize] = 0xFF
    return mask.view(np.uint64)

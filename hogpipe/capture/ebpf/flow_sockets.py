"""The sockets of flows that attribution looks up, offered to attribution as a ledger.

In: for each flow that the source leaves to a lookup, its socket and what the kernel recorded about
the owner; once, a snapshot of the sockets that existed before the programs. Out: owners by flow.

It implements attribution's `SocketLedger`, as the ledger of the running kernel does, so that one
module (`precedence`) decides between the kernel's record and /proc. The owner of an open connection
that it returns is that of the listening socket. For a socket from before the programs, connected or
listening, it is the owner in the snapshot.

A connection that a process opened is looked up while it lasts, because a process may pass it on to
another one. Once /proc has shown that the owner holds it (`record_comparison`), it is left to the
source's own sums for a second, then for twice as long each time, up to `_LONGEST_CONFIRMED`. A
connection that another process holds is looked up to its end; what passes between the last lookup
and its close is that process's, too.

/proc does not show an accepted connection that was closed after its epoch, but before its lookup.
Its owner is provisional (`LedgerEntry.awaits_release`) until the rows of the next epoch name the
process that closed it (`record_releases`).

The bytes of a flow were counted at its socket, so an answer does not depend on when packets passed,
and no answer is invalidated: a flow that another socket has from now on is marked in the batch that
brings its bytes (`PacketRows.opened`).

A flow is recorded in each epoch in which it has packets. Flows that were not recorded for
`_GENERATION` to twice as many seconds expire, so that a flood leaves nothing behind.
"""

import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice

import msgspec
import numpy as np

from hogpipe.capture.ebpf.earlier_owners import EarlierOwners
from hogpipe.capture.ebpf.flow_socket_table import Cookies, FlowSocket, RowSockets, SocketTable
from hogpipe.capture.ebpf.row_flows import RowFlows
from hogpipe.flows.packet_rows import Flags, Integers
from hogpipe.linux.bpf.maps import Losses
from hogpipe.model import (
    SERVICE_MANAGER,
    FlowKey,
    LedgerCounts,
    LedgerEntry,
    Quality,
    SnapshotSocket,
    SocketOwner,
    Span,
    is_same_process,
)
from hogpipe.protocols import TCP

_GENERATION = 30.0  # seconds; attributions in use are looked up sooner again
_FIRST_CONFIRMED, _LONGEST_CONFIRMED = 1.0, 8.0  # seconds
_EVICTED_SHARE = 64  # of all comparisons that can be kept, a part of this many is evicted


class _Comparison(msgspec.Struct, frozen=True, gc=False):
    """What /proc showed of the recorded owner of a connection."""

    confirmed_until: float
    """Until when the connection need not be looked up, in seconds of the clock."""
    seconds: float
    """For how long the owner is confirmed."""
    holder: SocketOwner | None = None
    """The process to which the owner passed the connection on."""


_NOT_COMPARED = _Comparison(-math.inf, 0.0)


class FlowSockets:
    """The flows that were recorded last, `max_flows` at the most. From any thread.

    As many comparisons are kept; `clock` is in seconds.
    """

    def __init__(
        self, max_flows: int = 65_536, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_flows = max_flows
        self._clock = clock
        self._comparisons: dict[int, _Comparison] = {}
        """By cookie; the one that was made longest ago comes first."""
        self._lock = threading.Lock()
        self._sockets = SocketTable(max_flows)
        self._generation_ends = clock() + _GENERATION
        self._generation_began = 0
        """What `SocketTable.recorded` was then."""
        self._snapshot: dict[int, SnapshotSocket] = {}
        """By cookie."""
        self._snapshot_namespaces = _SnapshotNamespaces(())
        self.earlier_owners = EarlierOwners()
        """The owners of the datagram sockets of the snapshot."""
        self._listeners: dict[tuple[int, int], list[SnapshotSocket]] = {}
        """The listening TCP sockets of the snapshot, by network namespace and port."""
        self._counts = LedgerCounts()
        self._losses = Losses(0, 0, 0)
        self._missed_processes = 0

    def record(self, flows: RowFlows, sockets: RowSockets) -> Flags:
        """Record the sockets of flows; return which flows were another socket's before."""
        with self._lock:
            if self._clock() >= self._generation_ends:
                self._start_generation()
            is_other, evicted = self._sockets.record(flows, sockets)
            self._counts.events += len(flows)
            self._counts.evicted += evicted
        return is_other

    def find_awaiting_release(self, cookies: Cookies) -> Flags:
        """Return for each closed connection whether `record_releases` has something to change."""
        with self._lock:
            return self._sockets.find_awaiting_release(cookies)

    def record_releases(
        self, cookies: Cookies, owners: Integers, described: Sequence[SocketOwner]
    ) -> None:
        """Record which processes closed accepted connections.

        `owners` has for each of them the place of its process in `described`.
        """
        with self._lock:
            self._sockets.record_releases(cookies, owners, described)

    def _start_generation(self) -> None:
        """Expire the flows that were recorded in neither this generation nor the one before."""
        self._generation_ends = self._clock() + _GENERATION
        self._sockets.expire(self._generation_began)
        self._generation_began = self._sockets.recorded

    def set_losses(self, losses: Losses, missed_processes: int) -> None:
        """Set the counters of what was lost so far, and of processes that exited unread."""
        self._losses, self._missed_processes = losses, missed_processes

    def find_snapshot_namespaces(self, cookies: Cookies) -> Cookies:
        """Return the cookies of the network namespaces of sockets from before the programs.

        0 for other sockets.
        """
        return self._snapshot_namespaces.find(cookies)

    def owner_of(
        self,
        flow: FlowKey,
        namespace: int | None,
        _span: Span | None = None,
        /,
        *,
        is_divisible: bool = False,  # noqa: ARG002 - no flow is contested
    ) -> LedgerEntry | None:
        """Return the owner of a flow in the network namespace of a cookie; None: of any."""
        (entry,) = self.owners_of([(flow, None)], namespace)
        return entry

    def owners_of(
        self, flows: Sequence[tuple[FlowKey, Span | None]], namespace: int | None
    ) -> list[LedgerEntry | None]:
        """Return the owners of several flows of one network namespace."""
        asked = [flow for flow, _span in flows]
        with self._lock:
            sockets = [
                None if one is None else self._with_holder(one) for one in self._sockets.find(asked)
            ]
        return [
            None if socket is None else self._make_entry(flow, socket, namespace)
            for flow, socket in zip(asked, sockets, strict=True)
        ]

    def _with_holder(self, socket: FlowSocket) -> FlowSocket:
        """Return a connection with the process that it was passed on to, if there is one."""
        holder = self._comparisons.get(socket.cookie, _NOT_COMPARED).holder
        if holder is None:
            return socket
        return msgspec.structs.replace(socket, owner=holder, quality=Quality.EXACT)

    def _make_entry(
        self, flow: FlowKey, socket: FlowSocket, namespace: int | None
    ) -> LedgerEntry | None:
        if namespace is not None and socket.namespace not in {0, namespace}:
            return None
        quality, owner = socket.quality, socket.owner
        known = self._snapshot.get(socket.cookie)
        if owner is None and known is not None:
            quality, owner = Quality.EXACT, known.owner
        elif owner is None and quality is Quality.LISTENER:
            owner = self._find_listener_owner(flow, socket.namespace)
        if owner is None:
            return None
        is_open_tcp = flow.protocol == TCP and not socket.is_released
        return LedgerEntry(
            quality,
            owner,
            socket.cookie,
            may_outlive_owner=not socket.is_released,
            is_released=socket.is_released,
            is_lasting=is_open_tcp and quality is Quality.EXACT,
            awaits_release=is_open_tcp and quality is Quality.LISTENER,
        )

    def record_comparison(self, cookie: int, /, *, holder: SocketOwner | None) -> None:
        """Record who holds a connection, as /proc shows: None is the owner of its last entry."""
        with self._lock:
            before = after = self._comparisons.pop(cookie, _NOT_COMPARED)
            if holder is not None:
                after = _Comparison(-math.inf, 0.0, holder)
            elif before.holder is None:
                seconds = min(2 * before.seconds, _LONGEST_CONFIRMED) or _FIRST_CONFIRMED
                after = _Comparison(self._clock() + seconds, seconds)
            self._comparisons[cookie] = after
            if len(self._comparisons) > self._max_flows:
                # Several at once: a dict finds its first entry by skipping all that were removed.
                number = 1 + self._max_flows // _EVICTED_SHARE
                for oldest in list(islice(self._comparisons, number)):
                    del self._comparisons[oldest]

    def find_unconfirmed(self, cookies: Collection[int]) -> list[bool]:
        """Return for each open connection whether /proc is to be read for its holder."""
        now = self._clock()
        with self._lock:
            known = [self._comparisons.get(cookie, _NOT_COMPARED) for cookie in cookies]
        return [one.confirmed_until <= now for one in known]

    @property
    def names_packet_senders(self) -> bool:
        """Return True: without a row that names a sender, nothing is counted."""
        return True

    def packet_senders_of(
        self, flows: Sequence[tuple[FlowKey, Span | None]], /
    ) -> list[LedgerEntry | None]:
        """Return None for each: the rows of packet sockets name their senders."""
        return [None] * len(flows)

    def find_passed_on(self, cookies: Collection[int]) -> list[bool]:
        """Return for each closed connection whether another process than its owner held it."""
        with self._lock:
            known = [self._comparisons.get(cookie, _NOT_COMPARED) for cookie in cookies]
        return [one.holder is not None for one in known]

    def ingest_snapshot(self, sockets: Iterable[SnapshotSocket]) -> None:
        """Add the sockets that were open when the programs were attached."""
        self._snapshot = {socket.cookie: socket for socket in sockets}
        self.earlier_owners = EarlierOwners(self._snapshot.values())
        self._snapshot_namespaces = _SnapshotNamespaces(self._snapshot.values())
        listeners: dict[tuple[int, int], list[SnapshotSocket]] = {}
        for one in self._snapshot.values():
            if one.protocol == TCP and not one.remote_port:
                listeners.setdefault((one.namespace_cookie, one.local_port), []).append(one)
        self._listeners = listeners
        self._counts.snapshots += 1

    def _find_listener_owner(self, flow: FlowKey, namespace: int) -> SocketOwner | None:
        """Return the only owner of the listening sockets at a flow's port in the snapshot."""
        at_port = self._listeners.get((namespace, flow.local_port), ())
        owners = [
            one.owner
            for one in at_port
            if one.local_address == flow.local_address or not any(one.local_address)
        ]
        owner = owners[0] if owners else None
        if owner is None or owner.command == SERVICE_MANAGER:
            return None
        return owner if all(is_same_process(one, owner) for one in owners) else None

    def refresh(self) -> None:
        """Do nothing: a flow is recorded before it is looked up."""

    def needs_snapshot(self) -> bool:
        """Return False: there are no events that could be lost."""
        return False

    def begin_snapshot(self) -> None:
        """Do nothing; see `needs_snapshot`."""

    def counts(self) -> LedgerCounts:
        """Return the counters."""
        with self._lock:
            counts = msgspec.structs.replace(self._counts, sockets=len(self._sockets))
        losses = self._losses
        counts.events_lost, counts.sockets_lost = losses.events, losses.sockets
        counts.unidentified_processes = self._missed_processes
        return counts

    def close(self) -> None:
        """Do nothing: the source detaches the programs."""


class _SnapshotNamespaces:
    """The cookies of the network namespaces of sockets, by their own cookies."""

    def __init__(self, sockets: Collection[SnapshotSocket]) -> None:
        # One cookie more, so that no search ends behind the last one.
        pairs = [(one.cookie, one.namespace_cookie) for one in sockets]
        pairs.sort()
        columns = np.array([*pairs, (0, 0)], np.uint64)
        self._cookies, self._namespaces = columns.T

    def find(self, cookies: Cookies) -> Cookies:
        places = np.searchsorted(self._cookies[:-1], cookies)
        is_known = self._cookies[places] == cookies
        return np.where(is_known, self._namespaces[places], np.uint64(0))

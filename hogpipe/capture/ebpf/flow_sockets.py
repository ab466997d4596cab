"""The sockets of flows that attribution looks up, offered to attribution as a ledger.

In: for each flow that the source leaves to a lookup, its socket and what the kernel recorded about
the owner; once, a snapshot of the sockets that existed before the programs. Out: owners by flow.

It implements attribution's `SocketLedger`, as the ledger of the running kernel does, so that one
module (`precedence`) decides between the kernel's record and /proc. The owner of an open connection
that it returns is that of the listening socket; of a socket from before the programs, the owner in
the snapshot.

The bytes of a flow were counted at its socket, so an answer does not depend on when packets passed,
and no answer is invalidated: a flow that another socket has from now on is marked in the batch that
brings its bytes (`FlowDelta.opened`).
"""

import threading
from collections.abc import Iterable

import msgspec

from hogpipe.linux.bpf.maps import Losses
from hogpipe.model import (
    FlowKey,
    LedgerCounts,
    LedgerEntry,
    Quality,
    SnapshotSocket,
    SocketOwner,
    Span,
)


class _FlowSocket(msgspec.Struct, frozen=True, gc=False):
    cookie: int
    namespace: int
    """The cookie of its network namespace, 0 if not known."""
    owner: SocketOwner | None
    quality: Quality


class FlowSockets:
    """The flows that were recorded last, `max_flows` at the most. From any thread."""

    def __init__(self, max_flows: int = 65_536) -> None:
        self._max_flows = max_flows
        self._lock = threading.Lock()
        self._sockets: dict[FlowKey, _FlowSocket] = {}
        """The flow that was recorded longest ago comes first."""
        self._snapshot: dict[int, SnapshotSocket] = {}
        """By cookie."""
        self._counts = LedgerCounts()
        self._losses = Losses(0, 0, 0)
        self._missed_processes = 0

    def record(
        self,
        flow: FlowKey,
        cookie: int,
        namespace: int,
        owner: SocketOwner | None,
        quality: Quality,
    ) -> bool:
        """Record the socket of a flow, the cookie of its network namespace, and its owner.

        Return whether the flow was another socket's before.
        """
        with self._lock:
            before = self._sockets.pop(flow, None)
            self._sockets[flow] = _FlowSocket(cookie, namespace, owner, quality)
            self._counts.events += 1
            if len(self._sockets) > self._max_flows:
                del self._sockets[next(iter(self._sockets))]
                self._counts.evicted += 1
        return before is not None and before.cookie != cookie

    def set_losses(self, losses: Losses, missed_processes: int) -> None:
        """Set the counters of what was lost so far, and of processes that exited unread."""
        self._losses, self._missed_processes = losses, missed_processes

    def namespace_of(self, cookie: int) -> int:
        """Return the cookie of a socket's network namespace by the snapshot, 0 if not known."""
        socket = self._snapshot.get(cookie)
        return 0 if socket is None else socket.namespace_cookie

    def owner_of(
        self, flow: FlowKey, namespace: int | None, _span: Span | None = None
    ) -> LedgerEntry | None:
        """Return the owner of a flow in the network namespace of a cookie; None: of any."""
        with self._lock:
            socket = self._sockets.get(flow)
        if socket is None or (namespace is not None and socket.namespace not in {0, namespace}):
            return None
        if socket.owner is not None:
            return LedgerEntry(socket.quality, socket.owner, socket.cookie, may_outlive_owner=True)
        known = self._snapshot.get(socket.cookie)
        if known is None or known.owner is None:
            return None
        return LedgerEntry(Quality.EXACT, known.owner, socket.cookie, may_outlive_owner=True)

    def ingest_snapshot(self, sockets: Iterable[SnapshotSocket]) -> None:
        """Add the sockets that were open when the programs were attached."""
        self._snapshot = {socket.cookie: socket for socket in sockets}
        self._counts.snapshots += 1

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

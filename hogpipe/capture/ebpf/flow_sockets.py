"""What the kernel knows of the flows that /proc is asked about: a ledger of these alone.

It answers like the ledger of the running kernel (a `SocketLedger`), so that there is one way to
choose between the kernel's word and that of /proc. Of a connection that is open it knows
the owner of the listening socket; of a socket from before whoever held it at the start.
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


class _Noted(msgspec.Struct, frozen=True, gc=False):
    cookie: int
    namespace: int
    owner: SocketOwner | None
    quality: Quality


class FlowSockets:
    """The flows that were noted last, `max_flows` at the most. From any thread."""

    def __init__(self, max_flows: int = 65_536) -> None:
        self._max_flows = max_flows
        self._lock = threading.Lock()
        self._noted: dict[FlowKey, _Noted] = {}
        """In the order in which they were noted last."""
        self._seeds: dict[int, SnapshotSocket] = {}
        self._counts = LedgerCounts()
        self._losses = Losses(0, 0, 0)
        self._unidentified = 0

    def note(
        self,
        flow: FlowKey,
        cookie: int,
        namespace: int,
        owner: SocketOwner | None,
        quality: Quality,
    ) -> bool:
        """Note of which socket a flow is, in the namespace of a cookie, and whose that is.

        Return whether the flow was another socket's before.
        """
        with self._lock:
            before = self._noted.pop(flow, None)
            self._noted[flow] = _Noted(cookie, namespace, owner, quality)
            self._counts.events += 1
            if len(self._noted) > self._max_flows:
                del self._noted[next(iter(self._noted))]
                self._counts.evicted += 1
        return before is not None and before.cookie != cookie

    def namespace_of(self, cookie: int) -> int:
        """Return the cookie of the namespace of a socket from before, 0 where it is not known."""
        seed = self._seeds.get(cookie)
        return 0 if seed is None else seed.namespace_cookie

    def tell_losses(self, losses: Losses, unidentified: int) -> None:
        """Take what the kernel had no room for, and how many processes were gone unseen, so far."""
        self._losses, self._unidentified = losses, unidentified

    def refresh(self) -> None:
        """Do nothing: what is asked for was noted before."""

    def owner_of(
        self, flow: FlowKey, namespace: int | None, _span: Span | None = None
    ) -> LedgerEntry | None:
        """Return whose a flow is in the namespace of a cookie, None for any.

        Its bytes were counted by socket, so there is no question of when.
        """
        with self._lock:
            noted = self._noted.get(flow)
        if noted is None or (namespace is not None and noted.namespace not in {0, namespace}):
            return None
        if noted.owner is not None:
            return LedgerEntry(noted.quality, noted.owner, noted.cookie, may_outlive_owner=True)
        owner = self.owner_of_socket(noted.cookie)
        if owner is None:
            return None
        return LedgerEntry(Quality.EXACT, owner, noted.cookie, may_outlive_owner=True)

    def owner_of_socket(self, cookie: int) -> SocketOwner | None:
        """Return whose a socket from before was."""
        seed = self._seeds.get(cookie)
        return None if seed is None else seed.owner

    def ingest_snapshot(self, seeds: Iterable[SnapshotSocket]) -> None:
        """Take in the sockets from before."""
        self._seeds = {seed.cookie: seed for seed in seeds}
        self._counts.snapshots += 1

    def needs_snapshot(self) -> bool:
        """Return False: no event can be lost that would tell otherwise."""
        return False

    def begin_snapshot(self) -> None:
        """Do nothing; see `needs_snapshot`."""

    def counts(self) -> LedgerCounts:
        """Return the counters as they stand."""
        with self._lock:
            counts = msgspec.structs.replace(self._counts, sockets=len(self._noted))
        losses = self._losses
        counts.events_lost, counts.sockets_lost = losses.events, losses.sockets
        counts.unidentified_processes = self._unidentified
        return counts

    def close(self) -> None:
        """Do nothing: the source detaches from the kernel."""

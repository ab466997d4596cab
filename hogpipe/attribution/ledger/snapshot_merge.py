"""Merges a snapshot of the open sockets into what events have recorded.

PURE. A snapshot fills two gaps: sockets from before the programs were attached, and sockets whose
events were lost. Events and snapshot overlap in time, so three rules decide between them:

- What an event recorded stands. A snapshot adds sockets, unknown owners and unknown addresses: the
  event of a datagram from an older socket has its port, not the address that it is bound to.
- A socket that was released while the snapshot was read is not added. `SnapshotMerge` records
  releases of unknown sockets until the snapshot is merged.
- The owner of a socket that several processes share is the one that the snapshot names: the one
  that bound it (attribution.procfs.shared_sockets), not the one that happened to transmit first.
"""

from collections import OrderedDict
from collections.abc import Sequence

from hogpipe.attribution.ledger.known_socket import NO_ADDRESS, KnownSocket
from hogpipe.attribution.ledger.socket_events import SocketEvent
from hogpipe.linux.bpf.shapes import EventKind
from hogpipe.model import Quality, SnapshotSocket, SocketOwner, is_same_process
from hogpipe.protocols import TCP


def is_from_sharer(
    event: SocketEvent, owner: SocketOwner | None, known: KnownSocket | None
) -> bool:
    """Return whether an event only names one of the processes that share a socket of a snapshot."""
    if known is None or not known.from_snapshot or event.kind is not EventKind.SENT:
        return False
    return known.serves_port and known.owner is not None and not is_same_process(known.owner, owner)


def replaces_sharer(found: SnapshotSocket, known: KnownSocket) -> bool:
    """Return whether the known owner is only one of the processes that share the found socket."""
    if known.owner is None or found.owner is None or is_same_process(known.owner, found.owner):
        return False
    return known.serves_port and not found.remote_port


def takes_address(found: SnapshotSocket, known: KnownSocket) -> bool:
    """Return whether the local address of a known socket is unknown, and found in the snapshot.

    Its place in the index is the same: only TCP sockets are indexed by local address.
    """
    if known.protocol == TCP or known.local_address != NO_ADDRESS:
        return False
    return known.local_port == found.local_port and known.released_ns is None


def find_sole_owner(sockets: Sequence[KnownSocket]) -> SocketOwner | None:
    """Return the owner that all sockets have; None without one, or with several."""
    owners = [one.owner for one in sockets]
    return owners[0] if owners and all(is_same_process(one, owners[0]) for one in owners) else None


class SnapshotMerge:
    """Whether a snapshot is needed, and which of its sockets may be added.

    At most `max_releases` releases are recorded. A ledger begins with a snapshot in progress.
    """

    def __init__(self, max_releases: int) -> None:
        self._max_releases = max_releases
        self._released: OrderedDict[int, None] | None = OrderedDict()
        """The cookies of unknown sockets, in the order of their releases; None without a snapshot
        in progress."""
        self._losses = self._losses_at_begin = self._losses_repaired = 0
        self._since_ns = 0
        """From when on the sockets of the snapshot are known; 0 for the first snapshot."""

    @property
    def is_needed(self) -> bool:
        """Return whether events were lost that no snapshot has made up for."""
        return self._losses > self._losses_repaired

    @property
    def is_complete(self) -> bool:
        """Return whether no events were lost since the snapshot began."""
        return self._losses == self._losses_at_begin

    def record_loss(self) -> None:
        """Record that events were lost."""
        self._losses += 1

    def record_release(self, cookie: int) -> None:
        """Record that an unknown socket was released."""
        if self._released is None:
            return
        self._released[cookie] = None
        if len(self._released) > self._max_releases:
            self._released.popitem(last=False)

    def is_open(self, found: SnapshotSocket) -> bool:
        """Return whether a socket of the snapshot has not been released meanwhile."""
        return self._released is None or found.cookie not in self._released

    def begin(self, lost_until_ns: int) -> None:
        """Begin a snapshot after a loss of events that ended at `lost_until_ns`.

        An unknown socket was made before that, or its event would be known.
        """
        self._released = OrderedDict()
        self._since_ns = lost_until_ns
        self._losses_at_begin = self._losses

    def make_known(self, found: SnapshotSocket) -> KnownSocket:
        """Return a socket of the snapshot as the ledger keeps it.

        If events were lost since the snapshot began, another socket may have replaced it.
        """
        return KnownSocket(
            found.cookie,
            found.namespace_cookie,
            found.protocol,
            found.owner,
            Quality.EXACT,
            found.local_address,
            found.local_port,
            found.remote_address if found.remote_port else NO_ADDRESS,
            found.remote_port,
            since_ns=self._since_ns,
            complete_until_ns=None if self.is_complete else self._since_ns,
            from_snapshot=True,
        )

    def finish(self) -> None:
        """End the snapshot: its sockets are merged."""
        self._released = None
        self._losses_repaired = self._losses_at_begin

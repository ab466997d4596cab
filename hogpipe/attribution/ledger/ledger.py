"""Keeps what happened to sockets, and says from it whose a flow is.

Pure: events, flows and the time (seconds, of any clock that only grows) come in as arguments. When
packets passed is told in the time of events (nanoseconds since boot). For one thread at a time.

The end of a TCP connection is told only where it says something new (it would cost as much as its
beginning), so a connection is forgotten `grace` seconds after it was last told of: of one that
lives on /proc tells, too. Sockets from before are the exception (`ingest_snapshot`): their end is
told, and until then they are kept.

A flow is first looked for by both its ends: a connection, or an exchange of datagrams that was seen
to begin. Else by its local port: the sockets that are bound most closely to the local address, if
they have one owner. Each has the packets of the time in which it was there: of those that passed
while several were, one after the other, none is told. One that was released still answers for
`grace` seconds: packets are looked up later than they pass, and a closed TCP connection sends on.

Answers can be overtaken: an accepted connection belongs to the owner of its listening socket until
the process that served it lets go of it, and a port that is free passes on. The flows to ask for
again are added to a `StaleFlows`.
"""

from collections.abc import Iterable

import msgspec

from hogpipe.attribution.ledger.invalidation import InvalidationIndex
from hogpipe.attribution.ledger.known_socket import (
    KnownSocket,
    socket_after,
    take_over,
)
from hogpipe.attribution.ledger.retention import RetainedSockets
from hogpipe.attribution.ledger.snapshot_merge import Seeding, is_shared, says_less, the_owner
from hogpipe.attribution.ledger.socket_events import SocketEvent
from hogpipe.attribution.ledger.socket_index import SocketIndex
from hogpipe.attribution.ledger.socket_lookup import Doubt, find_socket, is_lasting
from hogpipe.attribution.stale_flows import StaleFlows
from hogpipe.linux.bpf.shapes import EventKind
from hogpipe.model import (
    CONTESTED,
    MAX_SOCKETS,
    SERVICE_MANAGER,
    Contested,
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


class Ledger:
    """The sockets of all network namespaces, `max_sockets` at the most."""

    def __init__(
        self,
        stale: StaleFlows | None = None,
        *,
        grace: float = 60.0,
        max_sockets: int = MAX_SOCKETS,
    ) -> None:
        self.stale = StaleFlows() if stale is None else stale
        """The flows whose answers may be others now."""
        self._places = SocketIndex()
        self._sockets = RetainedSockets(self._places, grace=grace, most=max_sockets)
        self._seeding = Seeding(max_sockets)
        self._answers = InvalidationIndex(self.stale)
        self._counts = LedgerCounts()
        self._lost_until_ns = -1

    def note(self, event: SocketEvent, owner: SocketOwner | None, now: float) -> None:
        """Take in what happened; `owner` is the process that the event names, if any."""
        self._counts.events += 1
        self._sockets.forget_ended(now)
        if event.kind is EventKind.RELEASED:
            self._release(event, owner, now)
            return
        known = self._sockets.get(event.cookie)
        if (not event.namespace and known is None) or says_less(event, owner, known):
            return  # of one whose place is not known /proc has to tell
        socket = self._renew(known, event, owner)
        socket.told_at = now
        if event.boot_ns <= self._lost_until_ns:
            socket.sure_ns = event.boot_ns
        if (
            event.kind in {EventKind.BOUND, EventKind.LISTENING, EventKind.SENT}
            and socket.local_port
        ):
            self._place_at_port(socket)
        if event.kind not in {EventKind.BOUND, EventKind.LISTENING}:
            self._place_at_ends(socket)
            if socket.protocol == TCP:
                self._sockets.end(socket, now)
        self._counts.evicted += self._sockets.make_room()

    def ingest_snapshot(self, seeds: Iterable[SnapshotSocket], now: float) -> None:
        """Take in the sockets that are there; `seeds` were read after events began to come.

        Once, and after a loss of events, with `begin_snapshot` before they are read. What events
        have told meanwhile stands. Where they are too many the last are left out: those that take
        what comes to a port should come first.
        """
        self._sockets.forget_ended(now)
        for seed in seeds:
            if self._seeding.admits(seed):
                self._sow(seed)
        doubtful = [one for one in self._sockets if one.is_doubtful and self._seeding.is_sure]
        for socket in doubtful:  # it is gone, or out of sight
            self._sockets.forget(socket)
            self._counts.evicted += 1
        for socket in self._sockets:
            self._adopt(socket)  # what was accepted before its listening socket was known
        self._seeding.end()
        self._counts.snapshots += 1

    @property
    def needs_snapshot(self) -> bool:
        """Return whether events were lost, and sockets were not read since."""
        return self._seeding.is_wanted

    def begin_snapshot(self) -> None:
        """Get ready for `ingest_snapshot`: the sockets that are there will be read."""
        self._seeding.begin(self._lost_until_ns)

    def doubt(self, since_ns: int, until_ns: int) -> None:
        """Note that events were lost between these times, and may have told otherwise.

        What was told holds for packets from before. Of later ones /proc tells, until it is seeded.
        """
        self._seeding.note_loss()
        self._lost_until_ns = until_ns
        for socket in self._sockets:
            self._answers.withdraw(socket)
            if socket.sure_ns is None:
                socket.sure_ns = max(since_ns, socket.told_ns)

    def owner_of(
        self, flow: FlowKey, namespace: int | None, span: Span, now: float
    ) -> LedgerEntry | Contested | None:
        """Return whose the packets of `flow` were that passed in `span`, nanoseconds since boot.

        None where that is not known, or several own what it may be of. `namespace` is the cookie of
        the network namespace that the flow's local address is in, None where it may be any.
        """
        self._sockets.forget_ended(now)
        places = self._sockets.namespaces if namespace is None else (namespace,)
        found = [find_socket(self._places, flow, place, span) for place in places]
        found = [one for one in found if one is not Doubt.UNKNOWN]
        if any(isinstance(one, Doubt) for one in found):
            self._counts.contested += 1
        if len(found) != 1 or found[0] is Doubt.SHARED:
            return None
        if isinstance(found[0], Doubt):
            self._answers.give_once(flow)
            return CONTESTED
        return self._answer(flow, *found[0], now)

    def withdraw(self, cookies: Iterable[int]) -> None:
        """Take the answers from these sockets for such as may be others now."""
        for socket in filter(None, map(self._sockets.get, cookies)):
            self._answers.withdraw(socket)

    def counts(self) -> LedgerCounts:
        """Return the counters as they stand."""
        counts = msgspec.structs.replace(self._counts, sockets=len(self._sockets))
        counts.evicted += self._answers.forgotten
        return counts

    def _renew(
        self, known: KnownSocket | None, event: SocketEvent, owner: SocketOwner | None
    ) -> KnownSocket:
        """Return the socket of an event, as it is after it."""
        socket = socket_after(event, owner, known)
        if known is not None:
            self._answers.withdraw(known)
            self._sockets.forget(known)
            if known.by_port and event.kind in {EventKind.CONNECTED, EventKind.SENT}:
                self._place_at_port(socket)
        self._sockets.add(socket)
        self._adopt(socket)
        return socket

    def _sow(self, seed: SnapshotSocket) -> None:
        known = self._sockets.get(seed.cookie)
        if known is not None and known.until_ns is None:
            known.sure_ns = None if self._seeding.is_sure else known.sure_ns  # where it was
        if known is None and self._sockets.is_full:
            self._counts.evicted += 1
        elif known is None or is_shared(known, seed):
            if known is not None:
                self._answers.withdraw(known)
                self._sockets.forget(known)
            socket = self._seeding.socket_of(seed)
            self._sockets.add(socket)
            if seed.remote_port:
                self._places.put_at_free_ends(socket)
            else:
                self._place_at_port(socket)
        elif known.owner is None:
            self._answers.withdraw(known)
            known.owner, known.quality, known.seeded = seed.owner, Quality.EXACT, True

    def _adopt(self, socket: KnownSocket) -> None:
        """Give an accepted connection without an owner to that of its listening socket.

        Of one that came from a socket which events told of the owner is told, too.
        """
        if socket.owner is None and socket.quality is Quality.LISTENER:
            socket.owner = the_owner(self._places.listening_before(socket))

    def _place_at_port(self, socket: KnownSocket) -> None:
        for former in self._places.put_at_port(socket):
            self._answers.withdraw(former)

    def _place_at_ends(self, socket: KnownSocket) -> None:
        former = self._places.put_at_ends(socket)
        if socket.protocol != TCP:
            for other in self._places.others_at_port(socket):
                self._answers.withdraw_towards(socket.remote_port, other)
        if former is None:
            return
        self._answers.withdraw(former)
        if socket.protocol == TCP:
            take_over(socket, former)

    def _release(self, event: SocketEvent, owner: SocketOwner | None, now: float) -> None:
        socket = self._sockets.get(event.cookie)
        if socket is None:
            self._counts.unknown_releases += 1
            self._seeding.note_release(event.cookie)
            return
        if not socket.local_port and socket.remote_port and event.local_port:
            self._places.take_out(socket)
            socket.local_port = event.local_port
            if event.remote_port == socket.remote_port:
                self._place_at_ends(socket)
        if socket.quality is Quality.LISTENER and owner is not None:
            if not is_same_process(socket.owner, owner):
                self._answers.withdraw(socket)
            socket.owner, socket.quality = owner, Quality.EXACT
        if socket.protocol != TCP or socket.by_port:
            self._answers.withdraw(socket)  # the port is free for others
            socket.until_ns = event.boot_ns
        socket.released_ns = socket.told_ns = event.boot_ns
        socket.told_at = now
        self._sockets.end(socket, now)

    def _answer(
        self, flow: FlowKey, quality: Quality, socket: KnownSocket, now: float
    ) -> LedgerEntry | None:
        if socket.owner is None or (quality is Quality.LISTENER and _is_manager(socket.owner)):
            return None
        if socket.until_ns is None or (socket.protocol == TCP and socket.by_port):
            self._answers.give(flow, socket)  # the next connection begins with a SYN
        else:
            self._answers.give_once(flow)  # the place is free: what comes next may be another's
        is_over = socket.released_ns is not None
        may_outlive_owner = is_lasting(socket, now)
        return LedgerEntry(quality, socket.owner, socket.cookie, may_outlive_owner, is_over)


def _is_manager(owner: SocketOwner | None) -> bool:
    return owner is not None and owner.command == SERVICE_MANAGER

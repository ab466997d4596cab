"""Keeps what happened to sockets, and says from it whose a flow is.

Pure: events, flows and the time (seconds, of any clock that only grows) come in as arguments. For
one thread at a time.

The end of a TCP connection is told only where it says something new (it would cost as much as its
beginning), so a connection is forgotten `grace` seconds after it was last told of: of one that
lives on /proc tells, too. Sockets from before are the exception (`seed`): their end is told, and
until then they are kept.

A flow is first looked for by both its ends: a connection, or an exchange of datagrams that was seen
to begin. Else by its local port: the sockets that are bound most closely to the local address, if
they have one owner. A socket that was released still answers for `grace` seconds, unless another
one took its place; for packets are looked up later than they pass, and a closed TCP connection
sends on.

Answers can be overtaken: an accepted connection belongs to the owner of its listening socket until
the process that served it lets go of it, and a port that is free passes on. `take_stale` tells for
which flows to ask again.
"""

from collections.abc import Iterable

import msgspec

from hogpipe.ledger.contract import (
    MANAGER,
    MOST_SOCKETS,
    LedgerCounts,
    LedgerEntry,
    Owner,
    SocketSeed,
    is_same,
)
from hogpipe.ledger.events import Kind, SocketEvent
from hogpipe.ledger.finding import find_candidates, is_lasting, is_recent
from hogpipe.ledger.keeping import KeptSockets
from hogpipe.ledger.places import ANYWHERE, TCP, KnownSocket, Places
from hogpipe.ledger.seeding import Seeding, is_shared, says_less, socket_of
from hogpipe.model import FlowKey, Quality

_ANSWERS_KEPT = 1024


class Ledger:
    """The sockets of all network namespaces, `max_sockets` at the most."""

    def __init__(self, *, grace: float = 60.0, max_sockets: int = MOST_SOCKETS) -> None:
        self._places = Places()
        self._sockets = KeptSockets(self._places, grace=grace, most=max_sockets)
        self._seeding = Seeding(max_sockets)
        self._stale: dict[FlowKey, None] = {}
        self._counts = LedgerCounts()

    def note(self, event: SocketEvent, owner: Owner | None, now: float) -> None:
        """Take in what happened; `owner` is the process that the event names, if any."""
        self._counts.noted += 1
        self._sockets.forget_ended(now)
        if event.kind is Kind.RELEASED:
            self._release(event, owner, now)
            return
        known = self._sockets.get(event.cookie)
        if (not event.namespace and known is None) or says_less(event, owner, known):
            return  # of one whose place is not known /proc has to tell
        socket = self._renew(known, event, owner)
        socket.told_at = now
        if event.kind in {Kind.BOUND, Kind.LISTENING, Kind.SENT} and socket.local_port:
            self._place_at_port(socket)
        if event.kind not in {Kind.BOUND, Kind.LISTENING}:
            self._place_at_ends(socket)
            if socket.protocol == TCP:
                self._sockets.end(socket, now)
        self._counts.forgotten += self._sockets.make_room()

    def seed(self, seeds: Iterable[SocketSeed], now: float) -> None:
        """Take in the sockets from before, once; `seeds` were read after events began to come.

        What events have told meanwhile stands. Where they are too many the last ones are left out:
        those that take what comes to a port should come first.
        """
        self._sockets.forget_ended(now)
        for seed in seeds:
            if self._seeding.admits(seed):
                self._sow(seed)
        for socket in self._sockets:
            self._adopt(socket)  # what was accepted before its listening socket was known
        self._seeding.end()

    def distrust(self, now: float) -> None:
        """Forget what was told some time ago: events were lost, and may have told otherwise.

        What is still so /proc tells, too. What was told just now stays: hardly anything was used
        twice since then, and it may be gone.
        """
        for socket in [one for one in self._sockets if not is_recent(one, now)]:
            self._make_stale(socket)
            self._sockets.forget(socket)
            self._counts.forgotten += 1

    def owner_of(self, flow: FlowKey, namespace: int | None, now: float) -> LedgerEntry | None:
        """Return whose `flow` is; None where that is not known, or more than one is possible.

        `namespace` is the cookie of the network namespace that the flow's local address is in, None
        where it may be any.
        """
        self._sockets.forget_ended(now)
        if namespace is not None:
            return self._answer(flow, self._find(flow, namespace, now), now)
        found = [
            one
            for place in self._sockets.namespaces
            if (one := self._find(flow, place, now)) is not None
        ]
        return self._answer(flow, found[0], now) if len(found) == 1 else None

    def take_stale(self) -> list[FlowKey]:
        """Return the flows whose answers may be others now, and forget that they were given."""
        stale, self._stale = self._stale, {}
        return list(stale)

    def counts(self) -> LedgerCounts:
        """Return the counters as they stand."""
        return msgspec.structs.replace(self._counts, sockets=len(self._sockets))

    # --- taking in

    def _renew(
        self, known: KnownSocket | None, event: SocketEvent, owner: Owner | None
    ) -> KnownSocket:
        """Return the socket of an event, as it is after it."""
        accepted = event.kind is Kind.ACCEPTED
        socket = KnownSocket(
            event.cookie,
            event.namespace,
            event.protocol,
            owner,
            Quality.LISTENER if accepted else Quality.EXACT,
            event.local_address if any(event.local_address) else ANYWHERE,
            event.local_port,
            event.remote_address,
            event.remote_port,
        )
        if event.kind in {Kind.BOUND, Kind.LISTENING}:
            socket.local_address = event.local_address
            socket.remote_address = ANYWHERE
        if known is not None:
            socket.namespace, socket.seeded = known.namespace, known.seeded
            socket.owner = owner or known.owner
            self._make_stale(known)
            self._sockets.forget(known)
            if known.by_port and event.kind in {Kind.CONNECTED, Kind.SENT}:
                socket.local_address = known.local_address
                self._place_at_port(socket)
        self._sockets.add(socket)
        self._adopt(socket)
        return socket

    def _sow(self, seed: SocketSeed) -> None:
        known = self._sockets.get(seed.cookie)
        if known is None and self._sockets.is_full:
            self._counts.forgotten += 1
        elif known is None or is_shared(known, seed):
            if known is not None:
                self._make_stale(known)
                self._sockets.forget(known)
            socket = socket_of(seed)
            self._sockets.add(socket)
            if seed.remote_port:
                self._places.put_at_free_ends(socket)
            else:
                self._place_at_port(socket)
        elif known.owner is None:
            self._make_stale(known)
            known.owner, known.quality, known.seeded = seed.owner, Quality.EXACT, True

    def _adopt(self, socket: KnownSocket) -> None:
        """Give an accepted connection without an owner to that of its listening socket.

        Of one that came from a socket which events told of the owner is told, too.
        """
        if socket.owner is None and socket.quality is Quality.LISTENER:
            owners = [one.owner for one in self._places.listening_before(socket)]
            if owners and all(is_same(one, owners[0]) for one in owners):
                socket.owner = owners[0]

    def _place_at_port(self, socket: KnownSocket) -> None:
        for former in self._places.put_at_port(socket):
            self._make_stale(former)

    def _place_at_ends(self, socket: KnownSocket) -> None:
        former = self._places.put_at_ends(socket)
        if former is not None:
            self._make_stale(former)

    def _release(self, event: SocketEvent, owner: Owner | None, now: float) -> None:
        socket = self._sockets.get(event.cookie)
        if socket is None:
            self._counts.unknown += 1
            self._seeding.note_release(event.cookie)
            return
        if not socket.local_port and socket.remote_port and event.local_port:
            self._places.take_out(socket)
            socket.local_port = event.local_port
            if event.remote_port == socket.remote_port:
                self._place_at_ends(socket)
        if socket.quality is Quality.LISTENER and owner is not None:
            if not is_same(socket.owner, owner):
                self._make_stale(socket)
            socket.owner, socket.quality = owner, Quality.EXACT
        if socket.protocol != TCP:
            self._make_stale(socket)  # the port is free for others
        socket.released, socket.told_at = True, now
        self._sockets.end(socket, now)

    # --- answering

    def _find(
        self, flow: FlowKey, namespace: int, now: float
    ) -> tuple[Quality, KnownSocket] | None:
        quality, sockets = find_candidates(self._places, flow, namespace, now)
        if not sockets:
            return None
        if len(sockets) > 1 and not all(is_same(one.owner, sockets[0].owner) for one in sockets):
            self._counts.shared += 1
            return None
        return quality, sockets[0]

    def _answer(
        self, flow: FlowKey, found: tuple[Quality, KnownSocket] | None, now: float
    ) -> LedgerEntry | None:
        if found is None:
            return None
        quality, socket = found
        if socket.owner is None or (quality is Quality.LISTENER and _is_manager(socket.owner)):
            return None
        if socket.released and socket.protocol != TCP:
            self._stale[flow] = None  # the port is free: what comes next may be another's
        else:
            self._remember_answer(socket, flow)
        return LedgerEntry(quality, socket.owner, socket.cookie, is_lasting(socket, now))

    def _remember_answer(self, socket: KnownSocket, flow: FlowKey) -> None:
        if socket.answered is None:
            socket.answered = {}
        socket.answered[flow] = None
        if len(socket.answered) > _ANSWERS_KEPT:
            del socket.answered[next(iter(socket.answered))]
            self._counts.forgotten += 1

    def _make_stale(self, socket: KnownSocket) -> None:
        if socket.answered:
            self._stale.update(socket.answered)
            socket.answered = None


def _is_manager(owner: Owner | None) -> bool:
    return owner is not None and owner.command == MANAGER

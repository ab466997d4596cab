"""Keeps what happened to sockets, and says from it whose a flow is.

Pure: events, flows and the time (seconds, of any clock that only grows) come in as arguments. For
one thread at a time.

The end of a TCP connection is told only where it says something new (it would cost as much as its
beginning), so a connection is forgotten `grace` seconds after it was last told of: of one that
lives on /proc tells, too.

A flow is first looked for by both its ends: a connection, or an exchange of datagrams that was seen
to begin. Else by its local port: the sockets that are bound most closely to the local address, if
they have one owner. A socket that was released still answers for `grace` seconds, unless another
one took its place; for packets are looked up later than they pass, and a closed TCP connection
sends on.

Answers can be overtaken: an accepted connection belongs to the owner of its listening socket until
the process that served it lets go of it, and a port that is free passes on. `take_stale` tells for
which flows to ask again.
"""

from collections import deque

import msgspec

from hogpipe.ledger.contract import LedgerCounts, LedgerEntry, Owner, is_same
from hogpipe.ledger.events import Kind, SocketEvent
from hogpipe.ledger.places import ANYWHERE, TCP, KnownSocket, Places
from hogpipe.model import FlowKey, Quality

_ANSWERS_KEPT = 1024
_SPARED = 16
# Seconds from a packet to the question whose it is, at the most where nothing is overloaded.
_LATENCY = 0.1
# It binds sockets for the services that it starts, and moves none of their bytes (kinship.py).
_MANAGER = "systemd"


class Ledger:
    """The sockets of all network namespaces, `max_sockets` at the most."""

    def __init__(self, *, grace: float = 60.0, max_sockets: int = 32_768) -> None:
        self._grace = grace
        self._max_sockets = max_sockets
        self._sockets: dict[int, KnownSocket] = {}
        """By cookie, the oldest first."""
        self._places = Places()
        self._namespaces: dict[int, int] = {}
        """How many sockets are in each namespace."""
        self._ending: deque[tuple[float, int]] = deque()
        self._stale: dict[FlowKey, None] = {}
        self._counts = LedgerCounts()

    def note(self, event: SocketEvent, owner: Owner | None, now: float) -> None:
        """Take in what happened; `owner` is the process that the event names, if any."""
        self._counts.noted += 1
        self._forget_ended(now)
        if event.kind is Kind.RELEASED:
            self._release(event, owner, now)
            return
        if not event.namespace:
            return  # a socket from before, whose place is not known: /proc has to tell
        known = self._sockets.get(event.cookie)
        socket = self._renew(known, event, owner)
        if event.kind in {Kind.BOUND, Kind.LISTENING, Kind.SENT} and socket.local_port:
            self._place_at_port(socket)
        if event.kind not in {Kind.BOUND, Kind.LISTENING}:
            self._place_at_ends(socket)
            if socket.protocol == TCP:
                self._end(socket, now)
        if len(self._sockets) > self._max_sockets:
            self._make_room()

    def owner_of(self, flow: FlowKey, namespace: int | None, now: float) -> LedgerEntry | None:
        """Return whose `flow` is; None where that is not known, or more than one is possible.

        `namespace` is the cookie of the network namespace that the flow's local address is in, None
        where it may be any.
        """
        self._forget_ended(now)
        if namespace is not None:
            return self._answer(flow, self._find(flow, namespace, now))
        found = [
            one for place in self._namespaces if (one := self._find(flow, place, now)) is not None
        ]
        return self._answer(flow, found[0]) if len(found) == 1 else None

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
            self._make_stale(known)
            self._forget(known)
            if known.by_port and event.kind in {Kind.CONNECTED, Kind.SENT}:
                socket.local_address = known.local_address
                self._place_at_port(socket)
        self._namespaces[socket.namespace] = self._namespaces.get(socket.namespace, 0) + 1
        self._sockets[event.cookie] = socket
        return socket

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
        socket.released = True
        self._end(socket, now)

    # --- answering

    def _find(
        self, flow: FlowKey, namespace: int, now: float
    ) -> tuple[Quality, KnownSocket] | None:
        socket = self._places.at_ends(flow, namespace)
        if socket is not None:
            quality = socket.quality
        else:
            sockets = self._places.at_port(flow, namespace)
            if not sockets:
                return None
            socket, quality = sockets[0], Quality.LISTENER
            if not all(is_same(one.owner, socket.owner) for one in sockets):
                self._counts.shared += 1
                return None
        return None if self._is_doubtful(socket, flow, now) else (quality, socket)

    def _is_doubtful(self, socket: KnownSocket, flow: FlowKey, now: float) -> bool:
        """Tell whether the port of a released socket may by now be that of another owner's.

        Packets are asked for soon after they passed, so of one that was released just now they are.
        """
        if not socket.released or socket.protocol == TCP or socket.ends_at is None:
            return False
        released_at = socket.ends_at - self._grace
        return released_at <= now - _LATENCY and self._places.has_rival(socket, flow)

    def _answer(
        self, flow: FlowKey, found: tuple[Quality, KnownSocket] | None
    ) -> LedgerEntry | None:
        if found is None:
            return None
        quality, socket = found
        if socket.owner is None:
            return None
        if quality is Quality.LISTENER and socket.owner.command == _MANAGER:
            return None
        if socket.answered is None:
            socket.answered = {}
        socket.answered[flow] = None
        if len(socket.answered) > _ANSWERS_KEPT:
            del socket.answered[next(iter(socket.answered))]
            self._counts.forgotten += 1
        return LedgerEntry(quality, socket.owner, socket.cookie)

    # --- forgetting

    def _make_stale(self, socket: KnownSocket) -> None:
        if socket.answered:
            self._stale.update(socket.answered)
            socket.answered = None

    def _end(self, socket: KnownSocket, now: float) -> None:
        socket.ends_at = now + self._grace
        self._ending.append((socket.ends_at, socket.cookie))

    def _forget_ended(self, now: float) -> None:
        while self._ending and self._ending[0][0] <= now:
            socket = self._sockets.get(self._ending.popleft()[1])
            if socket is not None and socket.ends_at is not None and socket.ends_at <= now:
                self._forget(socket)

    def _make_room(self) -> None:
        """Forget the oldest; a living one that holds a port stays as long as others are found."""
        self._counts.forgotten += 1
        for _ in range(_SPARED):
            socket = next(iter(self._sockets.values()))
            if socket.released or not socket.by_port:
                break
            self._sockets[socket.cookie] = self._sockets.pop(socket.cookie)
        self._forget(next(iter(self._sockets.values())))
        while self._ending and self._ending[0][1] not in self._sockets:
            self._ending.popleft()

    def _forget(self, socket: KnownSocket) -> None:
        del self._sockets[socket.cookie]
        self._places.take_out(socket)
        self._namespaces[socket.namespace] -= 1
        if not self._namespaces[socket.namespace]:
            del self._namespaces[socket.namespace]

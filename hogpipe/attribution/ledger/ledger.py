"""The ledger: records which process used a socket and when, and finds the owners of flows.

PURE. In: socket events with their owners, snapshots of the open sockets, and the current time
(seconds of any monotonic clock). Out: for a flow and a time span (nanoseconds since boot), the
socket with its owner; and in a `StaleFlows` the flows whose owner may have changed since a lookup.

Lookup
------
`socket_lookup` finds the socket by five-tuple: a connection, or an exchange of datagrams whose
beginning was recorded. Otherwise by local port: the sockets bound to the most specific address, if
they have one owner. Each socket has the packets of the time in which it held that. If several
owners held it one after the other during the span, the flow is contested.

Lifetime
--------
- A released socket is kept for `grace` seconds: flows are looked up later than their packets pass,
  and a closed TCP connection goes on transmitting.
- A TCP connection expires `grace` seconds after its last event. Its release is recorded only where
  it adds information, as recording each would cost as much as recording its beginning. /proc shows
  the owner of a connection that lives longer.
- A socket from a snapshot is kept until its release, which is recorded.

Changes of owner
----------------
An accepted connection has the owner of its listening socket until the process that served it
releases it. A port that was released may be bound by another process. In both cases the flows that
were answered before are invalidated.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from hogpipe.attribution.ledger.invalidation import InvalidationIndex
from hogpipe.attribution.ledger.known_socket import (
    KnownSocket,
    LocalPort,
    apply_event,
    open_connections,
    take_five_tuple,
)
from hogpipe.attribution.ledger.retention import RetainedSockets
from hogpipe.attribution.ledger.snapshot_merge import (
    SnapshotMerge,
    find_sole_owner,
    is_from_sharer,
    replaces_sharer,
    takes_address,
)
from hogpipe.attribution.ledger.socket_events import EventBlock, Openings, Release, SocketEvent
from hogpipe.attribution.ledger.socket_index import SocketIndex
from hogpipe.attribution.ledger.socket_lookup import (
    NoMatch,
    SocketMatch,
    find_socket,
    holds_since,
    is_lasting,
    may_outlive_owner,
)
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
    """At most `max_sockets` sockets of all network namespaces. For one thread at a time."""

    def __init__(
        self,
        stale: StaleFlows | None = None,
        *,
        grace: float = 60.0,
        max_sockets: int = MAX_SOCKETS,
    ) -> None:
        self.stale = StaleFlows() if stale is None else stale
        """The flows whose owner may have changed since a lookup."""
        self._index = SocketIndex()
        self._sockets = RetainedSockets(self._index, grace=grace, max_sockets=max_sockets)
        self._snapshot = SnapshotMerge(max_sockets)
        self._invalidation = InvalidationIndex(self.stale)
        self._counts = LedgerCounts()
        self._lost_until_ns = -1

    def ingest_block(
        self, block: EventBlock, owners: Sequence[SocketOwner | None], now: float
    ) -> None:
        """Record a block of events; `owners` has the process that each names.

        The result is as if each was ingested on its own. Openings of connections with a five-tuple
        of which no socket is known change nothing but their own socket, so they are recorded first,
        together.
        """
        self._sockets.expire(now)
        opened = set(self._ingest_openings(block.find_openings(), owners, now))
        releases = block.find_releases()
        for position, owner in enumerate(owners):
            if position in releases:
                self._counts.events += 1
                self._release(releases[position], owner, now)
            elif position not in opened:
                self.ingest(block.decode(position), owner, now)
        self._evict_excess()

    def ingest(self, event: SocketEvent, owner: SocketOwner | None, now: float) -> None:
        """Record an event; `owner` is the process that it names, None if it names none."""
        self._counts.events += 1
        self._sockets.expire(now)
        if event.kind is EventKind.RELEASED:
            release = event.cookie, event.boot_ns, event.local_port, event.remote_port
            self._release(release, owner, now)
            return
        known = self._sockets.get(event.cookie)
        if not event.namespace_cookie and known is None:
            return  # it cannot be matched to flows: left to /proc
        if is_from_sharer(event, owner, known):
            return
        socket = self._update(known, event, owner)
        socket.last_event_at = now
        if event.boot_ns <= self._lost_until_ns:
            socket.complete_until_ns = event.boot_ns
        binds = event.kind in {EventKind.BOUND, EventKind.LISTENING}
        if (binds or event.kind is EventKind.SENT) and socket.local_port:
            self._index_by_port(socket)
        if not binds:
            self._index_by_five_tuple(socket)
            if socket.protocol == TCP:
                self._sockets.start_grace(socket, now)
        self._evict_excess()

    def ingest_snapshot(self, sockets: Iterable[SnapshotSocket], now: float) -> None:
        """Merge a snapshot of the open sockets, read while events were recorded.

        Once at the beginning, and once for each `begin_snapshot`. Sockets beyond the bound are left
        out, so those that serve a port should come first.
        """
        self._sockets.expire(now)
        for found in sockets:
            if self._snapshot.is_open(found):
                self._merge(found)
        if self._snapshot.is_complete:  # those that the snapshot lacks are closed, or invisible
            for socket in [one for one in self._sockets if one.may_be_replaced]:
                self._invalidation.invalidate(socket)
                self._sockets.remove(socket)
                self._counts.evicted += 1
        for socket in self._sockets:
            self._set_owner_by_listener(socket)  # accepted before its listener was known
        self._snapshot.finish()
        self._counts.snapshots += 1

    @property
    def needs_snapshot(self) -> bool:
        """Return whether events were lost since the last snapshot began."""
        return self._snapshot.is_needed

    def begin_snapshot(self) -> None:
        """Prepare for `ingest_snapshot`: the open sockets are read after this call."""
        self._snapshot.begin(self._lost_until_ns)

    def record_loss(self, since_ns: int, until_ns: int) -> None:
        """Record that events between these times were lost.

        What is known stays valid for packets from before. Of later packets the owner is unknown
        until a snapshot confirms the socket.
        """
        self._snapshot.record_loss()
        self._lost_until_ns = until_ns
        for socket in self._sockets:
            self._invalidation.invalidate(socket)
            if socket.complete_until_ns is None:
                socket.complete_until_ns = max(since_ns, socket.last_event_ns)

    def owner_of(
        self,
        flow: FlowKey,
        namespace_cookie: int | None,
        span: Span,
        now: float,
        *,
        is_divisible: bool = False,
    ) -> LedgerEntry | Contested | None:
        """Return the owner of the packets of `flow` that passed in `span`, None if unknown.

        `namespace_cookie` names the network namespace of the flow's local address; None if that may
        be any: then the owner is known if the sockets of one namespace only match. If a divisible
        span is contested, the caller asks for each of its parts: only a part counts as contested.
        """
        self._sockets.expire(now)
        all_cookies = self._sockets.namespace_cookies
        cookies = all_cookies if namespace_cookie is None else (namespace_cookie,)
        found = [find_socket(self._index, flow, one, span) for one in cookies]
        found = [one for one in found if one is not NoMatch.UNKNOWN]
        is_contested = found == [NoMatch.CONTESTED]
        if any(isinstance(one, NoMatch) for one in found) and not (is_contested and is_divisible):
            self._counts.contested += 1
        if is_contested:
            self._invalidation.invalidate_flow(flow)
            return CONTESTED
        if len(found) != 1 or isinstance(found[0], NoMatch):
            return None
        return self._make_entry(flow, found[0], now)

    def owners_of(
        self, flows: Sequence[tuple[FlowKey, Span]], namespace_cookie: int | None, now: float
    ) -> list[LedgerEntry | Contested | None]:
        """Return the owners of several flows, each as `owner_of` does.

        Most flows have one connection that holds their five-tuple since their first packet: for
        these no other socket is looked at.
        """
        self._sockets.expire(now)
        found: list[LedgerEntry | Contested | None] = []
        for flow, span in flows:
            socket = None
            if namespace_cookie is not None and flow.protocol == TCP:
                socket = self._index.find_only(flow, namespace_cookie)
            if socket is not None and holds_since(socket, span.start_ns):
                found.append(self._make_entry(flow, SocketMatch(socket.quality, socket), now))
            else:
                found.append(self.owner_of(flow, namespace_cookie, span, now))
        return found

    def owner_of_socket(self, cookie: int) -> tuple[Quality, SocketOwner] | None:
        """Return the owner of a socket, which may be released, and how it was found."""
        socket = self._sockets.get(cookie)
        return None if socket is None or socket.owner is None else (socket.quality, socket.owner)

    def invalidate(self, cookies: Iterable[int]) -> None:
        """Invalidate the flows that were answered from these sockets."""
        for socket in filter(None, map(self._sockets.get, cookies)):
            self._invalidation.invalidate(socket)

    def counts(self) -> LedgerCounts:
        """Return the counters."""
        counts = msgspec.structs.replace(self._counts, sockets=len(self._sockets))
        counts.evicted += self._invalidation.evicted
        return counts

    def _ingest_openings(
        self, openings: Openings, owners: Sequence[SocketOwner | None], now: float
    ) -> Sequence[int]:
        """Record the connections that concern no other socket; return where their events are."""
        openings = self._select_unrelated(openings)
        if not openings.positions:
            return ()
        self._counts.events += len(openings.positions)
        opened = open_connections(
            openings,
            [owners[position] for position in openings.positions],
            now,
            self._sockets.expiry_from(now),
        )
        self._sockets.add_each(opened, now)
        self._index.add_each_by_five_tuple(openings.five_tuples, opened)
        by_listener = dict[tuple[LocalPort, bytes], SocketOwner | None]()
        for socket in [one for one in opened if one.owner is None]:
            listener = socket.port_key, socket.local_address
            if listener not in by_listener:
                self._set_owner_by_listener(socket)
                by_listener[listener] = socket.owner
            socket.owner = by_listener[listener]
        return openings.positions

    def _select_unrelated(self, openings: Openings) -> Openings:
        """Return the openings with a cookie and a five-tuple that no other, and no socket has."""
        cookies, five_tuples = openings.cookies, openings.five_tuples
        known_cookies, known_tuples = self._sockets.cookies, self._index.five_tuples
        if (
            all(openings.is_whole)
            and len({*cookies}) == len({*five_tuples}) == len(cookies)
            and known_cookies.isdisjoint(cookies)
            and known_tuples.isdisjoint(five_tuples)
            and min(openings.boot_ns, default=0) > self._lost_until_ns
        ):
            return openings
        with_cookie, with_tuple = Counter(cookies), Counter(five_tuples)
        return openings.select(
            [
                is_whole
                and with_cookie[cookie] == with_tuple[five_tuple] == 1
                and cookie not in known_cookies
                and five_tuple not in known_tuples
                and boot_ns > self._lost_until_ns
                for _, cookie, five_tuple, boot_ns, _, is_whole in zip(*openings, strict=True)
            ]
        )

    def _update(
        self, known: KnownSocket | None, event: SocketEvent, owner: SocketOwner | None
    ) -> KnownSocket:
        """Replace a socket by what it is after an event."""
        socket = apply_event(known, event, owner)
        if known is not None:
            self._invalidation.invalidate(known)
            self._sockets.remove(known)
            if known.serves_port and event.kind in {EventKind.CONNECTED, EventKind.SENT}:
                self._index_by_port(socket)
        self._sockets.add(socket)
        self._set_owner_by_listener(socket)
        return socket

    def _merge(self, found: SnapshotSocket) -> None:
        """Merge a socket of a snapshot."""
        known = self._sockets.get(found.cookie)
        if known is not None and known.until_ns is None and self._snapshot.is_complete:
            known.complete_until_ns = None  # no other socket has taken its five-tuple or port
        if known is not None and takes_address(found, known):
            self._invalidation.invalidate(known)
            known.local_address = found.local_address
        if known is None and self._sockets.is_full:
            self._counts.evicted += 1
        elif known is None or replaces_sharer(found, known):
            if known is not None:
                self._invalidation.invalidate(known)
                self._sockets.remove(known)
            socket = self._snapshot.make_known(found)
            self._sockets.add(socket)
            if found.remote_port:
                self._index.add_by_free_five_tuple(socket)
            else:
                self._index_by_port(socket)
        elif known.owner is None:
            self._invalidation.invalidate(known)
            known.owner, known.quality, known.from_snapshot = found.owner, Quality.EXACT, True

    def _set_owner_by_listener(self, socket: KnownSocket) -> None:
        """Give an accepted connection without an owner that of its listening socket.

        Only listening sockets of a snapshot count: events name the owner of any other.
        """
        if socket.owner is None and socket.quality is Quality.LISTENER:
            socket.owner = find_sole_owner(self._index.find_listeners_from_snapshot(socket))

    def _index_by_port(self, socket: KnownSocket) -> None:
        for former in self._index.add_by_port(socket):
            self._invalidation.invalidate(former)

    def _index_by_five_tuple(self, socket: KnownSocket) -> None:
        former = self._index.add_by_five_tuple(socket)
        if socket.protocol != TCP:
            for other in self._index.others_at_port(socket):
                self._invalidation.invalidate_towards(socket.remote_port, other)
        if former is None:
            return
        self._invalidation.invalidate(former)
        if socket.protocol == TCP:
            take_five_tuple(socket, former)

    def _release(self, release: Release, owner: SocketOwner | None, now: float) -> None:
        cookie, boot_ns, local_port, remote_port = release
        socket = self._sockets.get(cookie)
        if socket is None:
            self._counts.unknown_releases += 1
            self._snapshot.record_release(cookie)
            return
        if not socket.local_port and socket.remote_port and local_port:
            self._index.remove(socket)
            socket.local_port = local_port
            if remote_port == socket.remote_port:
                self._index_by_five_tuple(socket)
        if socket.quality is Quality.LISTENER and owner is not None:
            if socket.answered_flows and not is_same_process(socket.owner, owner):
                self._invalidation.invalidate(socket)
            socket.owner, socket.quality = owner, Quality.EXACT
        if socket.protocol != TCP or socket.serves_port:
            self._invalidation.invalidate(socket)  # another socket may take the port
            socket.until_ns = boot_ns
        socket.released_ns = socket.last_event_ns = boot_ns
        socket.last_event_at = now
        self._sockets.start_grace(socket, now)

    def _evict_excess(self) -> None:
        """Keep to the bound. The release of a socket that is evicted will not be noticed."""
        while (evicted := self._sockets.evict_excess()) is not None:
            self._invalidation.invalidate(evicted)
            self._counts.evicted += 1

    def _make_entry(self, flow: FlowKey, match: SocketMatch, now: float) -> LedgerEntry | None:
        quality, socket = match
        owner = socket.owner
        if owner is None or (quality is Quality.LISTENER and owner.command == SERVICE_MANAGER):
            return None
        if socket.until_ns is None or (socket.protocol == TCP and socket.serves_port):
            self._invalidation.record(flow, socket)  # the SYN of the next connection invalidates it
        else:
            self._invalidation.invalidate_flow(flow)  # later packets may belong to another socket
        is_released = socket.released_ns is not None
        is_open = not is_released and socket.until_ns is None
        return LedgerEntry(
            quality,
            owner,
            socket.cookie,
            is_open and may_outlive_owner(socket, now),
            is_released,
            is_open and is_lasting(socket, now),
            socket.last_event_ns,
        )

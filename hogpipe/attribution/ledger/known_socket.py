"""A socket as the ledger knows it, and how an event changes it.

PURE. In: an event with its owner, and the socket as it was known before. Out: the socket as it is
known after the event. Neither step looks at other sockets; `SocketIndex` finds those.

A name that ends in `_ns` is a time of the kernel's clock, in nanoseconds since boot; one that ends
in `_at` is a time of the caller's clock, in seconds.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import repeat

import msgspec

from hogpipe.attribution.ledger.socket_events import FiveTuple, Openings, SocketEvent
from hogpipe.linux.bpf.shapes import EventKind
from hogpipe.model import FlowKey, Quality, SocketOwner, is_same_process
from hogpipe.protocols import NANOSECONDS, TCP

NO_ADDRESS = b""
"""The local address of a socket that has none yet, and the remote address of an unconnected one."""

_MAX_HANDSHAKE_NS = NANOSECONDS

LocalPort = tuple[int, int, int]
"""Namespace cookie, protocol, local port."""
RemoteEndpoint = tuple[int, int, bytes, int]
"""Namespace cookie, protocol, remote address and port."""


class KnownSocket(msgspec.Struct, eq=False, gc=False):
    """A socket as recorded by its events so far, or by a snapshot.

    It holds its five-tuple, or its local port, from `since_ns` until `until_ns`.
    """

    cookie: int
    namespace_cookie: int
    protocol: int
    owner: SocketOwner | None
    quality: Quality
    local_address: bytes = NO_ADDRESS
    local_port: int = 0
    remote_address: bytes = NO_ADDRESS
    remote_port: int = 0
    serves_port: bool = False
    """Whether it receives what arrives at its local port from any remote endpoint."""
    since_ns: int = 0
    """0 if its beginning is not recorded."""
    until_ns: int | None = None
    """None while it may hold its five-tuple or port: a TCP connection until another one takes the
    five-tuple, also when it is closed; a listening socket, and one of datagrams, until its release.
    """
    last_event_ns: int = 0
    last_event_at: float = -math.inf
    """When its last event happened, and when that was ingested; the defaults if it had none."""
    complete_until_ns: int | None = None
    """Until when all events about it are known, as events were lost after that; None if none were
    lost since its last event."""
    from_snapshot: bool = False
    """Whether a snapshot added it, as it was open before events were recorded."""
    released_ns: int | None = None
    """When it was released, None if its release was not recorded."""
    expires_at: float | None = None
    """When the ledger removes it; None while it is open and its release will be recorded."""
    answered_flows: OrderedDict[FlowKey, None] | None = None
    """The flows whose cached owner came from this socket, in the order of the lookups."""

    @property
    def may_be_replaced(self) -> bool:
        """Return whether another socket may have replaced it, with the event lost."""
        return self.complete_until_ns is not None and self.until_ns is None

    @property
    def five_tuple(self) -> FiveTuple:
        """Return the key by which a flow between the same endpoints finds it.

        Without the local address but for TCP: a socket of datagrams may have none until it
        transmits.
        """
        return (
            self.namespace_cookie,
            self.protocol,
            self.local_address if self.protocol == TCP else NO_ADDRESS,
            self.local_port,
            self.remote_address,
            self.remote_port,
        )

    @property
    def port_key(self) -> LocalPort:
        """Return the key by which any flow at its local port finds it."""
        return (self.namespace_cookie, self.protocol, self.local_port)

    @property
    def remote_key(self) -> RemoteEndpoint:
        """Return the key that it has while its local port is unknown."""
        return (self.namespace_cookie, self.protocol, self.remote_address, self.remote_port)


def apply_event(
    known: KnownSocket | None, event: SocketEvent, owner: SocketOwner | None
) -> KnownSocket:
    """Return a socket as it is after an event of `owner`; None if it was not known before."""
    accepted = event.kind is EventKind.ACCEPTED
    socket = KnownSocket(
        event.cookie,
        event.namespace_cookie,
        event.protocol,
        owner,
        Quality.LISTENER if accepted else Quality.EXACT,
        event.local_address if any(event.local_address) else NO_ADDRESS,
        event.local_port,
        event.remote_address,
        event.remote_port,
        since_ns=0 if accepted else event.boot_ns,
        last_event_ns=event.boot_ns,
    )
    if event.kind in {EventKind.BOUND, EventKind.LISTENING}:
        socket.local_address = event.local_address
        socket.remote_address = NO_ADDRESS
    if known is not None:
        _inherit(socket, known, event)
    return socket


def open_connections(
    openings: Openings, owners: Sequence[SocketOwner | None], now: float, expires_at: float
) -> list[KnownSocket]:
    """Return the connections that events of `owners` open, none of which was known before.

    They are as `apply_event` returns them, ingested `now`, and expire at `expires_at`.
    """
    namespaces, protocols, *endpoints = zip(*openings.five_tuples, strict=True)
    accepted, boot_ns = openings.accepted, openings.boot_ns
    return list(
        map(
            KnownSocket,
            openings.cookies,
            namespaces,
            protocols,
            owners,
            [Quality.LISTENER if one else Quality.EXACT for one in accepted],
            *endpoints,
            repeat(False),  # serves_port
            [0 if one else since_ns for one, since_ns in zip(accepted, boot_ns, strict=True)],
            repeat(None),  # until_ns
            boot_ns,
            repeat(now),
            repeat(None),  # complete_until_ns
            repeat(False),  # from_snapshot
            repeat(None),  # released_ns
            repeat(expires_at),
        )
    )


def take_five_tuple(connection: KnownSocket, former: KnownSocket) -> None:
    """Let a TCP connection take over the five-tuple of a former one, from its own beginning.

    An accepted connection is recorded at the end of its handshake. Its beginning is estimated: the
    middle of the time since the last event of the former, but at most `_MAX_HANDSHAKE_NS` earlier.
    """
    if not connection.since_ns:
        middle = (former.last_event_ns + connection.last_event_ns) // 2
        connection.since_ns = max(middle, connection.last_event_ns - _MAX_HANDSHAKE_NS)
    former.until_ns = connection.since_ns


def _inherit(socket: KnownSocket, known: KnownSocket, event: SocketEvent) -> None:
    """Keep of what was known before all that the event does not change."""
    socket.namespace_cookie, socket.from_snapshot = known.namespace_cookie, known.from_snapshot
    socket.owner = socket.owner or known.owner
    # A socket without a port is about to get one, perhaps not its former one. A TCP connection has
    # its five-tuple from its own beginning on.
    keeps_port = event.local_port or known.from_snapshot
    is_new = socket.protocol == TCP and event.kind is EventKind.CONNECTED
    keeps_owner = known.owner is None or is_same_process(socket.owner, known.owner)
    if keeps_port and not is_new and keeps_owner:
        socket.since_ns = known.since_ns
    if event.kind is EventKind.ACCEPTED:  # a simultaneous open: the socket was connected before
        socket.quality = known.quality
    if known.serves_port and event.kind in {EventKind.CONNECTED, EventKind.SENT}:
        socket.local_address = known.local_address

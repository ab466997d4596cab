"""A socket as far as it is known: what an event says of it, and what it was before.

Pure.
"""

import math

import msgspec

from hogpipe.attribution.ledger.socket_events import SocketEvent
from hogpipe.linux.bpf.shapes import EventKind
from hogpipe.model import (
    FlowKey,
    Quality,
    SocketOwner,
    is_same_process,
)
from hogpipe.protocols import TCP

ANYWHERE = b""
"""The address of a socket that has none yet."""

_HANDSHAKE_NS = 1_000_000_000  # it takes no longer than this

Ends = tuple[int, int, bytes, int, bytes, int]
Port = tuple[int, int, int]
Peer = tuple[int, int, bytes, int]


class KnownSocket(msgspec.Struct, eq=False, gc=False):
    """A socket as far as events told of it; `namespace` is a cookie."""

    cookie: int
    namespace: int
    protocol: int
    owner: SocketOwner | None
    quality: Quality
    local_address: bytes = ANYWHERE
    local_port: int = 0
    remote_address: bytes = ANYWHERE
    remote_port: int = 0
    by_port: bool = False
    """Whether it takes what comes to its local port from anywhere."""
    since_ns: int = 0
    """From when on its owner had it, in the kernel's time; 0 for ages ago."""
    until_ns: int | None = None
    """Until when it was in its place; None where it still may be. A TCP connection that was closed
    is, until another takes its ends; one that listened is not."""
    told_ns: int = 0
    told_at: float = -math.inf
    """When the last event told of it, by the kernel and by the caller's clock; of one that was
    there before the ledger, ages ago."""
    sure_ns: int | None = None
    """Until when this is known to be all: events were lost since. None where none were."""
    seeded: bool = False
    """Whether it was there before the ledger."""
    released_ns: int | None = None
    """When it was let go of, None where that was not told."""
    ends_at: float | None = None
    """When it is forgotten; None while it lives, where its end will be told."""
    answered: dict[FlowKey, None] | None = None
    """In the order of the answers."""

    @property
    def is_doubtful(self) -> bool:
        """Return whether another may have taken its place, of which the event was lost."""
        return self.sure_ns is not None and self.until_ns is None

    @property
    def ends(self) -> Ends:
        """Return the key by which it is found by both its ends."""
        return (
            self.namespace,
            self.protocol,
            self.local_address if self.protocol == TCP else ANYWHERE,
            self.local_port,
            self.remote_address,
            self.remote_port,
        )

    @property
    def port(self) -> Port:
        """Return the key by which it is found by its port."""
        return (self.namespace, self.protocol, self.local_port)

    @property
    def peer(self) -> Peer:
        """Return the key by which it is found while its port is not known."""
        return (self.namespace, self.protocol, self.remote_address, self.remote_port)


def socket_after(
    event: SocketEvent, owner: SocketOwner | None, known: KnownSocket | None
) -> KnownSocket:
    """Return a socket as it is after an event of `owner`, in no place yet.

    `known` is what it was before, None where nothing was known of it.
    """
    accepted = event.kind is EventKind.ACCEPTED
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
        since_ns=0 if accepted else event.boot_ns,
        told_ns=event.boot_ns,
    )
    if event.kind in {EventKind.BOUND, EventKind.LISTENING}:
        socket.local_address = event.local_address
        socket.remote_address = ANYWHERE
    if known is not None:
        _keep_known(socket, known, event)
    return socket


def take_over(socket: KnownSocket, former: KnownSocket) -> None:
    """Let a TCP connection have the ends of another from when it began.

    One that was accepted is told of at the end of its handshake, and began some time after the
    former was last heard of.
    """
    if not socket.since_ns:
        middle = (former.told_ns + socket.told_ns) // 2
        socket.since_ns = max(middle, socket.told_ns - _HANDSHAKE_NS)
    former.until_ns = socket.since_ns


def _keep_known(socket: KnownSocket, known: KnownSocket, event: SocketEvent) -> None:
    socket.namespace, socket.seeded = known.namespace, known.seeded
    socket.owner = socket.owner or known.owner
    # A socket without a port is about to get one, which may not be the one that it had; and a
    # connection of TCP has its ends from its own beginning.
    keeps_port = event.local_port or known.seeded
    is_new = socket.protocol == TCP and event.kind is EventKind.CONNECTED
    if (
        keeps_port
        and not is_new
        and (known.owner is None or is_same_process(socket.owner, known.owner))
    ):
        socket.since_ns = known.since_ns
    if event.kind is EventKind.ACCEPTED:  # both ends opened it at the same time
        socket.quality = known.quality
    if known.by_port and event.kind in {EventKind.CONNECTED, EventKind.SENT}:
        socket.local_address = known.local_address

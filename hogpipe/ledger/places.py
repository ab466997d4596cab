"""Sockets by where they are: by both their ends, by local port, and by peer alone.

Pure. A UDP socket is found by its ends whatever local address it has, as that is chosen only when
it sends; but not if it is bound to another one.
"""

import math
from typing import TypeVar

import msgspec

from hogpipe.ledger.contract import Owner, is_same
from hogpipe.model import FlowKey, Quality

TCP = 6
ANYWHERE = b""
"""The address of a socket that has none yet."""
_ANY4, _ANY6 = bytes(4), bytes(16)

_Ends = tuple[int, int, bytes, int, bytes, int]
_Port = tuple[int, int, int]
_Peer = tuple[int, int, bytes, int]
_Place = TypeVar("_Place")


class KnownSocket(msgspec.Struct, eq=False, gc=False):
    """A socket as far as events told of it; `namespace` is a cookie."""

    cookie: int
    namespace: int
    protocol: int
    owner: Owner | None
    quality: Quality
    local_address: bytes = ANYWHERE
    local_port: int = 0
    remote_address: bytes = ANYWHERE
    remote_port: int = 0
    by_port: bool = False
    """Whether it takes what comes to its local port from anywhere."""
    told_at: float = -math.inf
    """When the last event told of it; of one that was there before the ledger, ages ago."""
    seeded: bool = False
    """Whether it was there before the ledger."""
    released: bool = False
    ends_at: float | None = None
    """When it is forgotten; None while it lives, where its end will be told."""
    answered: dict[FlowKey, None] | None = None
    """In the order of the answers."""

    @property
    def ends(self) -> _Ends:
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
    def port(self) -> _Port:
        """Return the key by which it is found by its port."""
        return (self.namespace, self.protocol, self.local_port)

    @property
    def peer(self) -> _Peer:
        """Return the key by which it is found while its port is not known."""
        return (self.namespace, self.protocol, self.remote_address, self.remote_port)


class Places:
    """The sockets of all namespaces, each in the places that it was put into."""

    def __init__(self) -> None:
        self._by_ends: dict[_Ends, KnownSocket] = {}
        self._by_port: dict[_Port, dict[int, KnownSocket]] = {}
        self._portless: dict[_Peer, dict[int, KnownSocket]] = {}

    def put_at_ends(self, socket: KnownSocket) -> KnownSocket | None:
        """Have `socket` found by both its ends, and return which one was until now.

        One without a port is only noted as a possible taker of what its peer sends.
        """
        if not socket.local_port:
            self._portless.setdefault(socket.peer, {})[socket.cookie] = socket
            return None
        ends = socket.ends
        former = self._by_ends.get(ends)
        self._by_ends[ends] = socket
        return former

    def put_at_free_ends(self, socket: KnownSocket) -> None:
        """Have `socket` found by both its ends, unless another one is."""
        self._by_ends.setdefault(socket.ends, socket)

    def put_at_port(self, socket: KnownSocket) -> list[KnownSocket]:
        """Have `socket` found by its port, and return those released that were found until now."""
        at_port = self._by_port.setdefault(socket.port, {})
        released = [other for other in at_port.values() if other.released]
        for other in released:
            if other.local_address == socket.local_address:
                del at_port[other.cookie]  # it is found never again, and there may be thousands
        socket.by_port = True
        at_port[socket.cookie] = socket
        return released

    def take_out(self, socket: KnownSocket) -> None:
        """Have `socket` found no more. What its keys are made of must not have changed."""
        if self._by_ends.get(socket.ends) is socket:
            del self._by_ends[socket.ends]
        _take_out(self._by_port, socket.port, socket.cookie)
        _take_out(self._portless, socket.peer, socket.cookie)

    def at_ends(self, flow: FlowKey, namespace: int) -> KnownSocket | None:
        """Return the socket with both ends of `flow`."""
        here = flow.local_address if flow.protocol == TCP else ANYWHERE
        there = (flow.remote_address, flow.remote_port)
        found = self._by_ends.get((namespace, flow.protocol, here, flow.local_port, *there))
        return found if found is not None and _takes(found, flow) else None

    def at_port(self, flow: FlowKey, namespace: int) -> list[KnownSocket]:
        """Return the sockets that are bound most closely to the local end of `flow`.

        Of those that are released only the last, if there is no other.
        """
        there = self._by_port.get((namespace, flow.protocol, flow.local_port))
        if there is None:
            return []
        address = flow.local_address
        return (
            _closest([one for one in there.values() if not one.released], address)
            or _closest([one for one in there.values() if one.released], address)[-1:]
        )

    def listening_before(self, accepted: KnownSocket) -> list[KnownSocket]:
        """Return the sockets from before the ledger that may have accepted this connection.

        Those are the ones that are bound most closely to its local end.
        """
        there = self._by_port.get(accepted.port, {})
        before = [one for one in there.values() if one.seeded and not one.released]
        return _closest(before, accepted.local_address)

    def has_rival(self, socket: KnownSocket, flow: FlowKey) -> bool:
        """Return whether another owner's socket, of unknown port, talks to the peer of `flow`."""
        peer = (socket.namespace, flow.protocol, flow.remote_address, flow.remote_port)
        others = self._portless.get(peer)
        return others is not None and not all(
            is_same(one.owner, socket.owner) for one in others.values()
        )


def _take_out(table: dict[_Place, dict[int, KnownSocket]], place: _Place, cookie: int) -> None:
    there = table.get(place)
    if there is not None and there.pop(cookie, None) is not None and not there:
        del table[place]


def _takes(socket: KnownSocket, flow: FlowKey) -> bool:
    """Tell whether a socket's own address does not speak against the flow's."""
    bound = socket.local_address
    return bound in {ANYWHERE, _ANY4, _ANY6, flow.local_address}


def _closest(sockets: list[KnownSocket], address: bytes) -> list[KnownSocket]:
    """Return those bound to the address, else to all of its family, else to all."""
    wildcards = ({_ANY4, ANYWHERE}, {_ANY6}) if len(address) == 4 else ({_ANY6, ANYWHERE},)
    for places in ({address}, *wildcards):
        found = [one for one in sockets if one.local_address in places]
        if found:
            return found
    return []

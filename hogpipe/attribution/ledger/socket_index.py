"""Sockets by where they are: by both their ends, by local port, and by peer alone.

Pure. A UDP socket is found by its ends whatever local address it has, as that is chosen only when
it sends; but not if it is bound to another one. Those that were in a place before stay to be found
there, `_FORMER` at the most: packets are asked about later than they pass.
"""

from collections.abc import Iterable
from typing import TypeVar

from hogpipe.attribution.ledger.known_socket import (
    ANYWHERE,
    Ends,
    KnownSocket,
    Peer,
    Port,
)
from hogpipe.model import (
    FlowKey,
    Span,
    is_same_process,
)
from hogpipe.protocols import TCP

_ANY4, _ANY6 = bytes(4), bytes(16)
_FORMER = 32

_Place = TypeVar("_Place")


class SocketIndex:
    """The sockets of all namespaces, each in the places that it was put into."""

    def __init__(self) -> None:
        self._by_ends: dict[Ends, tuple[KnownSocket, ...]] = {}
        """In the order in which they came; nearly always there is but one."""
        self._by_port: dict[Port, dict[int, KnownSocket]] = {}
        self._portless: dict[Peer, dict[int, KnownSocket]] = {}

    def put_at_ends(self, socket: KnownSocket) -> KnownSocket | None:
        """Have `socket` found by both its ends, and return which one was the last until now.

        One without a port is only noted as a possible taker of what its peer sends.
        """
        if not socket.local_port:
            self._portless.setdefault(socket.peer, {})[socket.cookie] = socket
            return None
        ends = socket.ends
        there = self._by_ends.get(ends, ())
        self._by_ends[ends] = (*there[-_FORMER:], socket)
        return there[-1] if there else None

    def put_at_free_ends(self, socket: KnownSocket) -> None:
        """Have `socket` found by both its ends, unless another one is."""
        self._by_ends.setdefault(socket.ends, (socket,))

    def put_at_port(self, socket: KnownSocket) -> list[KnownSocket]:
        """Have `socket` found by its port, and return which were found there until now."""
        at_port = self._by_port.setdefault(socket.port, {})
        others = list(at_port.values())
        released = [other for other in others if other.released_ns is not None]
        for other in released[:-_FORMER]:
            del at_port[other.cookie]  # there may be thousands
        socket.by_port = True
        at_port[socket.cookie] = socket
        return others

    def others_at_port(self, socket: KnownSocket) -> list[KnownSocket]:
        """Return the others that take what comes to the port of `socket` from anywhere."""
        return [one for one in self._by_port.get(socket.port, {}).values() if one is not socket]

    def take_out(self, socket: KnownSocket) -> None:
        """Have `socket` found no more. What its keys are made of must not have changed."""
        ends = socket.ends
        there = self._by_ends.get(ends)
        if there is not None:
            others = tuple(one for one in there if one is not socket)
            if others:
                self._by_ends[ends] = others
            else:
                del self._by_ends[ends]
        _take_out(self._by_port, socket.port, socket.cookie)
        _take_out(self._portless, socket.peer, socket.cookie)

    def near(self, flow: FlowKey, namespace: int) -> Iterable[list[KnownSocket]]:
        """Yield the sockets that may take `flow`, those that come before others first.

        By both its ends; then those on its local port: bound to its address, to all of its family,
        to all. Of each the one that came first is at the head.
        """
        here = flow.local_address if flow.protocol == TCP else ANYWHERE
        there = (flow.remote_address, flow.remote_port)
        by_ends = self._by_ends.get((namespace, flow.protocol, here, flow.local_port, *there))
        yield [one for one in by_ends or () if _takes(one, flow)]
        at_port = self._by_port.get((namespace, flow.protocol, flow.local_port))
        if at_port is not None:
            yield from _ranks(at_port.values(), flow.local_address)

    def listening_before(self, accepted: KnownSocket) -> list[KnownSocket]:
        """Return the sockets from before the ledger that may have accepted this connection.

        Those are the ones that are bound most closely to its local end.
        """
        there = self._by_port.get(accepted.port, {})
        before = [one for one in there.values() if one.seeded and one.released_ns is None]
        return next((rank for rank in _ranks(before, accepted.local_address) if rank), [])

    def has_rival(self, socket: KnownSocket, flow: FlowKey, span: Span) -> bool:
        """Return whether another's socket, of unknown port, talked to the peer of `flow` then."""
        peer = (socket.namespace, flow.protocol, flow.remote_address, flow.remote_port)
        others = self._portless.get(peer)
        return others is not None and any(
            one.since_ns < span.end_ns
            and (one.until_ns is None or one.until_ns >= span.start_ns)
            and not is_same_process(one.owner, socket.owner)
            for one in others.values()
        )


def _take_out(table: dict[_Place, dict[int, KnownSocket]], place: _Place, cookie: int) -> None:
    there = table.get(place)
    if there is not None and there.pop(cookie, None) is not None and not there:
        del table[place]


def _takes(socket: KnownSocket, flow: FlowKey) -> bool:
    """Tell whether a socket's own address does not speak against the flow's."""
    bound = socket.local_address
    return bound in {ANYWHERE, _ANY4, _ANY6, flow.local_address}


def _ranks(sockets: Iterable[KnownSocket], address: bytes) -> Iterable[list[KnownSocket]]:
    """Yield those bound to the address, then to all of its family, then to all."""
    wildcards = ({_ANY4, ANYWHERE}, {_ANY6}) if len(address) == 4 else ({_ANY6, ANYWHERE},)
    for places in ({address}, *wildcards):
        yield [one for one in sockets if one.local_address in places]

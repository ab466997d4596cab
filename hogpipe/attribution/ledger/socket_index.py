"""Finds the sockets that may belong to a flow: by five-tuple, local port or remote endpoint.

PURE. Three tables:

- By five-tuple: connections, and exchanges of datagrams whose beginning was recorded. Datagrams are
  found whatever local address their socket has, as the kernel chooses it when the socket transmits;
  but not if the socket is bound to another address.
- By local port: sockets that receive from any remote endpoint.
- By remote endpoint: connected sockets whose local port is unknown. They answer no flow, but mean
  that the owner of a port that is free may have changed.

A socket stays in the index after another took its five-tuple or port, since flows are looked up
later than their packets pass: at most `_MAX_FORMER` former sockets of each.
"""

from collections.abc import Collection, Iterable
from collections.abc import Set as AbstractSet
from typing import TypeVar

from hogpipe.attribution.ledger.known_socket import (
    NO_ADDRESS,
    KnownSocket,
    LocalPort,
    RemoteEndpoint,
)
from hogpipe.attribution.ledger.socket_events import FiveTuple
from hogpipe.model import FlowKey, Span, is_same_process
from hogpipe.protocols import TCP

_ANY4, _ANY6 = bytes(4), bytes(16)
_MAX_FORMER = 32

_Key = TypeVar("_Key")


class SocketIndex:
    """The sockets of all network namespaces."""

    def __init__(self) -> None:
        self._by_five_tuple: dict[FiveTuple, tuple[KnownSocket, ...]] = {}
        """The oldest first; nearly always there is only one."""
        self._by_port: dict[LocalPort, dict[int, KnownSocket]] = {}
        """By cookie, the oldest first."""
        self._by_remote: dict[RemoteEndpoint, dict[int, KnownSocket]] = {}
        """By cookie; only sockets whose local port is unknown."""

    def add_by_five_tuple(self, socket: KnownSocket) -> KnownSocket | None:
        """Add a socket by its five-tuple and return the socket that held that last, if any.

        A socket without a local port is added by its remote endpoint instead.
        """
        if not socket.local_port:
            self._by_remote.setdefault(socket.remote_key, {})[socket.cookie] = socket
            return None
        five_tuple = socket.five_tuple
        former = self._by_five_tuple.get(five_tuple, ())
        self._by_five_tuple[five_tuple] = (*former[-_MAX_FORMER:], socket)
        return former[-1] if former else None

    @property
    def five_tuples(self) -> AbstractSet[FiveTuple]:
        """Return the five-tuples of which a socket is known."""
        return self._by_five_tuple.keys()

    def add_each_by_five_tuple(
        self, five_tuples: Collection[FiveTuple], sockets: Collection[KnownSocket]
    ) -> None:
        """Add sockets by their five-tuples, of which no socket is known."""
        self._by_five_tuple.update(zip(five_tuples, zip(sockets, strict=True), strict=True))

    def add_by_free_five_tuple(self, socket: KnownSocket) -> None:
        """Add a socket by its five-tuple unless there is one already."""
        self._by_five_tuple.setdefault(socket.five_tuple, (socket,))

    def add_by_port(self, socket: KnownSocket) -> list[KnownSocket]:
        """Add a socket by its local port and return the sockets that were there before."""
        at_port = self._by_port.setdefault(socket.port_key, {})
        others = list(at_port.values())
        released = [other for other in others if other.released_ns is not None]
        for other in released[:-_MAX_FORMER]:
            del at_port[other.cookie]  # there may be thousands
        socket.serves_port = True
        at_port[socket.cookie] = socket
        return others

    def others_at_port(self, socket: KnownSocket) -> list[KnownSocket]:
        """Return the other sockets that were added by the local port of `socket`."""
        at_port = self._by_port.get(socket.port_key, {})
        return [other for other in at_port.values() if other is not socket]

    def remove(self, socket: KnownSocket) -> None:
        """Remove a socket from all tables; its addresses and ports are those it was added with."""
        five_tuple = socket.five_tuple
        there = self._by_five_tuple.get(five_tuple)
        if there is not None and len(there) == 1:
            if there[0] is socket:
                del self._by_five_tuple[five_tuple]
        elif there is not None:
            others = tuple(one for one in there if one is not socket)
            if others:
                self._by_five_tuple[five_tuple] = others
            else:
                del self._by_five_tuple[five_tuple]
        if socket.serves_port:
            _remove(self._by_port, socket.port_key, socket.cookie)
        if not socket.local_port:
            _remove(self._by_remote, socket.remote_key, socket.cookie)

    def find_candidates(self, flow: FlowKey, namespace_cookie: int) -> Iterable[list[KnownSocket]]:
        """Yield the sockets that may belong to `flow`, in groups, the most specific match first.

        First those with its five-tuple, then those at its local port: bound to its local address,
        to all addresses of its family, to all addresses. In a group the oldest comes first.
        """
        address = flow.local_address if flow.protocol == TCP else NO_ADDRESS
        remote = (flow.remote_address, flow.remote_port)
        five_tuple = (namespace_cookie, flow.protocol, address, flow.local_port, *remote)
        yield [one for one in self._by_five_tuple.get(five_tuple, ()) if _can_use(one, flow)]
        at_port = self._by_port.get((namespace_cookie, flow.protocol, flow.local_port))
        if at_port is not None:
            yield from _group_by_binding(at_port.values(), flow.local_address)

    def find_only(self, connection: FlowKey, namespace_cookie: int) -> KnownSocket | None:
        """Return the only socket that is known by the five-tuple of a TCP flow, None if not one."""
        five_tuple = (
            namespace_cookie,
            TCP,
            connection.local_address,
            connection.local_port,
            connection.remote_address,
            connection.remote_port,
        )
        sockets = self._by_five_tuple.get(five_tuple)
        return sockets[0] if sockets is not None and len(sockets) == 1 else None

    def find_listeners_from_snapshot(self, accepted: KnownSocket) -> list[KnownSocket]:
        """Return the listening sockets of a snapshot that may have accepted a connection.

        Those are the ones with the most specific local address.
        """
        at_port = self._by_port.get(accepted.port_key, {}).values()
        listeners = [one for one in at_port if one.from_snapshot and one.released_ns is None]
        return next(filter(None, _group_by_binding(listeners, accepted.local_address)), [])

    def has_rival(self, socket: KnownSocket, flow: FlowKey, span: Span) -> bool:
        """Return whether another process had a socket with the same remote endpoint in `span`.

        Its local port is unknown, so it may have been that of `flow`.
        """
        remote = (socket.namespace_cookie, flow.protocol, flow.remote_address, flow.remote_port)
        others = self._by_remote.get(remote)
        return others is not None and any(
            other.since_ns < span.end_ns
            and (other.until_ns is None or other.until_ns >= span.start_ns)
            and not is_same_process(other.owner, socket.owner)
            for other in others.values()
        )


def _remove(table: dict[_Key, dict[int, KnownSocket]], key: _Key, cookie: int) -> None:
    there = table.get(key)
    if there is not None and there.pop(cookie, None) is not None and not there:
        del table[key]


def _can_use(socket: KnownSocket, flow: FlowKey) -> bool:
    """Return whether a socket's own address permits the local address of a flow."""
    return socket.local_address in {NO_ADDRESS, _ANY4, _ANY6, flow.local_address}


def _group_by_binding(
    sockets: Iterable[KnownSocket], address: bytes
) -> Iterable[list[KnownSocket]]:
    """Yield those bound to the address, to all addresses of its family, to all addresses."""
    wildcards = ({_ANY4, NO_ADDRESS}, {_ANY6}) if len(address) == 4 else ({_ANY6, NO_ADDRESS},)
    for addresses in ({address}, *wildcards):
        yield [one for one in sockets if one.local_address in addresses]

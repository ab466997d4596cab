"""Keeps the known sockets by cookie: how long, and how many.

PURE. A socket expires `grace` seconds after `start_grace`. Beyond the bound the oldest socket is
evicted, but one that is open and serves a port only after `_MAX_SPARED` others have been examined.
Times are seconds of the caller's clock.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Collection, Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import repeat

from hogpipe.attribution.ledger.known_socket import KnownSocket
from hogpipe.attribution.ledger.socket_index import SocketIndex

_MAX_SPARED = 16


class RetainedSockets:
    """Sockets by cookie. A socket that is removed here is removed from `index`, too.

    Call `evict_excess` after each `add` to keep the bound.
    """

    def __init__(self, index: SocketIndex, *, grace: float, max_sockets: int) -> None:
        self._index = index
        self._grace = grace
        self._max_sockets = max_sockets
        self._sockets: OrderedDict[int, KnownSocket] = OrderedDict()
        """The oldest first. To find the first entry of a dict takes longer with each one that was
        removed before it."""
        self._namespaces = Counter[int]()
        """The number of sockets in each network namespace, by its cookie."""
        self._expiries: deque[tuple[float, int]] = deque()
        """Time and cookie, the earliest first. A socket may have several; the last one counts."""

    def __len__(self) -> int:
        return len(self._sockets)

    def __iter__(self) -> Iterator[KnownSocket]:
        return iter(self._sockets.values())

    @property
    def is_full(self) -> bool:
        """Return whether the bound is reached."""
        return len(self._sockets) >= self._max_sockets

    @property
    def namespace_cookies(self) -> Collection[int]:
        """Return the cookies of the network namespaces of all sockets."""
        return self._namespaces.keys()

    @property
    def cookies(self) -> AbstractSet[int]:
        """Return the cookies of all sockets."""
        return self._sockets.keys()

    def get(self, cookie: int) -> KnownSocket | None:
        """Return the socket of a cookie, None if it is unknown."""
        return self._sockets.get(cookie)

    def add(self, socket: KnownSocket) -> None:
        """Add a socket whose cookie is unknown."""
        self._namespaces[socket.namespace_cookie] += 1
        self._sockets[socket.cookie] = socket

    def add_each(self, sockets: Sequence[KnownSocket], now: float) -> None:
        """Add sockets whose cookies are unknown, with the grace time counted from `now`."""
        cookies = [one.cookie for one in sockets]
        self._namespaces.update([one.namespace_cookie for one in sockets])
        self._sockets.update(zip(cookies, sockets, strict=True))
        self._expiries.extend(zip(repeat(self.expiry_from(now)), cookies))

    def remove(self, socket: KnownSocket) -> None:
        """Remove a socket."""
        del self._sockets[socket.cookie]
        self._index.remove(socket)
        namespace = socket.namespace_cookie
        self._namespaces[namespace] -= 1
        if not self._namespaces[namespace]:
            del self._namespaces[namespace]

    def expiry_from(self, now: float) -> float:
        """Return when a socket expires whose grace time is counted from `now`."""
        return now + self._grace

    def start_grace(self, socket: KnownSocket, now: float) -> None:
        """Let a socket expire after the grace time, counted from `now`."""
        socket.expires_at = self.expiry_from(now)
        self._expiries.append((socket.expires_at, socket.cookie))

    def expire(self, now: float) -> None:
        """Remove the sockets that have expired."""
        while self._expiries and self._expiries[0][0] <= now:
            socket = self._sockets.get(self._expiries.popleft()[1])
            if socket is not None and socket.expires_at is not None and socket.expires_at <= now:
                self.remove(socket)

    def evict_excess(self) -> KnownSocket | None:
        """Evict one socket if there are more than the bound, and return it; else None."""
        if len(self._sockets) <= self._max_sockets:
            return None
        for _ in range(_MAX_SPARED):
            socket = next(iter(self._sockets.values()))
            if socket.released_ns is not None or not socket.serves_port:
                break
            self._sockets.move_to_end(socket.cookie)
        evicted = next(iter(self._sockets.values()))
        self.remove(evicted)
        while self._expiries and self._expiries[0][1] not in self._sockets:
            self._expiries.popleft()
        return evicted

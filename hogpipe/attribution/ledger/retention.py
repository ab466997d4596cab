"""The sockets that are known, by their cookies: how long they are kept, and how many.

Pure. Times are seconds of the caller's clock.
"""

from collections import deque
from collections.abc import Collection, Iterator

from hogpipe.attribution.ledger.known_socket import KnownSocket
from hogpipe.attribution.ledger.socket_index import SocketIndex

_SPARED = 16


class RetainedSockets:
    """Sockets, `most` at the most; one that has ended is kept for another `grace` seconds.

    One that is forgotten is taken out of `places`, too. Whoever adds one sees to the bound with
    `make_room`.
    """

    def __init__(self, places: SocketIndex, *, grace: float, most: int) -> None:
        self._places = places
        self._grace = grace
        self._most = most
        self._sockets: dict[int, KnownSocket] = {}
        """The oldest first."""
        self._namespaces: dict[int, int] = {}
        """How many sockets are in each namespace."""
        self._ending: deque[tuple[float, int]] = deque()

    def __len__(self) -> int:
        return len(self._sockets)

    def __iter__(self) -> Iterator[KnownSocket]:
        return iter(self._sockets.values())

    @property
    def is_full(self) -> bool:
        """Return whether there is no room for another one."""
        return len(self._sockets) >= self._most

    @property
    def namespaces(self) -> Collection[int]:
        """Return the cookies of the namespaces that sockets are in."""
        return self._namespaces.keys()

    def get(self, cookie: int) -> KnownSocket | None:
        """Return a socket, None where it is not known."""
        return self._sockets.get(cookie)

    def add(self, socket: KnownSocket) -> None:
        """Keep one whose cookie is not known."""
        self._namespaces[socket.namespace] = self._namespaces.get(socket.namespace, 0) + 1
        self._sockets[socket.cookie] = socket

    def forget(self, socket: KnownSocket) -> None:
        """Keep one no longer."""
        del self._sockets[socket.cookie]
        self._places.take_out(socket)
        self._namespaces[socket.namespace] -= 1
        if not self._namespaces[socket.namespace]:
            del self._namespaces[socket.namespace]

    def end(self, socket: KnownSocket, now: float) -> None:
        """Keep one for the grace time from now on."""
        socket.ends_at = now + self._grace
        self._ending.append((socket.ends_at, socket.cookie))

    def forget_ended(self, now: float) -> None:
        """Forget those whose grace time is over."""
        while self._ending and self._ending[0][0] <= now:
            socket = self._sockets.get(self._ending.popleft()[1])
            if socket is not None and socket.ends_at is not None and socket.ends_at <= now:
                self.forget(socket)

    def make_room(self) -> bool:
        """Forget the oldest one if there are too many; return whether that was so.

        A living one that holds a port stays as long as others are found.
        """
        if len(self._sockets) <= self._most:
            return False
        for _ in range(_SPARED):
            socket = next(iter(self._sockets.values()))
            if socket.released_ns is not None or not socket.by_port:
                break
            self._sockets[socket.cookie] = self._sockets.pop(socket.cookie)
        self.forget(next(iter(self._sockets.values())))
        while self._ending and self._ending[0][1] not in self._sockets:
            self._ending.popleft()
        return True

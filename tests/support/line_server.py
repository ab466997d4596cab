"""A TCP server that keeps its lines, with outages and stalls."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Self

import orjson

_SMALL = 4096  # bytes of a receive buffer: a stall takes effect soon


class LineServer:
    """Listens on loopback within its context; keeps every line that its kernel acknowledged."""

    def __init__(self) -> None:
        self.port = 0
        self.lines: list[bytes] = []
        self._listener: socket.socket | None = None
        self._connections: dict[socket.socket, bytearray] = {}

    async def __aenter__(self) -> Self:
        self._listen()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self._stop()

    async def arrived(self) -> list[Mapping[str, object]]:
        """Return all whole lines so far."""
        return [orjson.loads(line) for line in self.lines]

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        """Close the connections and refuse new ones."""
        self._stop()
        yield
        self._listen()

    @asynccontextmanager
    async def stall(self) -> AsyncIterator[None]:
        """Read and accept nothing."""
        for one in self._sockets():
            asyncio.get_running_loop().remove_reader(one)
        yield
        for one in self._sockets():
            asyncio.get_running_loop().add_reader(one, self._ready, one)

    def answer(self, line: bytes) -> bytes:
        """Keep a line; return the answer."""
        self.lines.append(line)
        return b""

    def _sockets(self) -> list[socket.socket]:
        assert self._listener is not None
        return [self._listener, *self._connections]

    def _listen(self) -> None:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL)
        self._listener.bind(("127.0.0.1", self.port))
        self._listener.listen()
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        asyncio.get_running_loop().add_reader(self._listener, self._ready, self._listener)

    def _stop(self) -> None:
        """Read what has arrived and close everything, without a turn of the event loop."""
        for one in self._sockets():
            asyncio.get_running_loop().remove_reader(one)
        for one in list(self._connections):
            self._read(one)
        for one in self._sockets():
            one.close()
        self._connections.clear()

    def _ready(self, one: socket.socket) -> None:
        if one is self._listener:
            connection, _peer = one.accept()
            connection.setblocking(False)
            self._connections[connection] = bytearray()
            asyncio.get_running_loop().add_reader(connection, self._ready, connection)
        elif not self._read(one):
            asyncio.get_running_loop().remove_reader(one)
            self._connections.pop(one, None)
            one.close()

    def _read(self, one: socket.socket) -> bool:
        """Read what has arrived; return whether the connection is still open."""
        pending = self._connections[one]
        try:
            while data := one.recv(1 << 16):
                pending += data
                *whole, rest = bytes(pending).split(b"\n")
                pending[:] = rest
                if answers := b"".join(map(self.answer, whole)):
                    one.sendall(answers)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        return False

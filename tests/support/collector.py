"""A collector inside the process of the test, which controls it."""

import asyncio
import contextlib
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator


class Collector:
    """A server on loopback that keeps the bytes of each connection."""

    def __init__(self, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.host, self.port = host, 0
        self.tls = tls
        self.received: list[bytearray] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.reading = asyncio.Event()
        self.reading.set()
        self.open = 0
        """How many connections are open."""
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, self.host, self.port, limit=1024, ssl=self.tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = bytearray()
        self.received.append(data)
        self.writers.append(writer)
        self.open += 1
        # asyncio's TLS has no transport to resume once the connection is lost.
        with contextlib.suppress(OSError, AttributeError):
            while True:
                await self.reading.wait()
                piece = await reader.read(1 << 16)
                if not piece:
                    break
                data += piece
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        self.open -= 1

    async def stop(self) -> None:
        """Close the listener and every connection, as the end of a process does."""
        assert self._server is not None
        self._server.close()
        self.reading.set()
        for writer in self.writers:
            writer.close()
        await self._server.wait_closed()

    def reset(self) -> None:
        """Reset the connections."""
        for writer in self.writers:
            sock = writer.get_extra_info("socket")
            if sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    @property
    def accepted(self) -> int:
        """How many connections the server has; from Python 3.12 on, `stop` waits for them."""
        return getattr(self._server, "_active_count", 0)

    @property
    def endpoint(self) -> str:
        """Its name in `endpoints`."""
        return f"{self.host}:{self.port}"

    def sequences(self) -> list[int]:
        """Return the sequence of every whole line, connection by connection."""
        lines = [line for data in self.received for line in bytes(data).split(b"\n")[:-1]]
        return [json.loads(line)["sequence"] for line in lines]


@contextlib.asynccontextmanager
async def collecting(
    host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Collector]:
    """Run a collector."""
    made = Collector(host, tls)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
        async with asyncio.timeout(10):
            # A connection may be accepted, or in its handshake, and not be served yet.
            await asyncio.sleep(0)
            while made.open or made.accepted:
                for writer in made.writers:
                    writer.transport.abort()
                await asyncio.sleep(0.001)

"""The HTTP server: it answers `GET /metrics` and closes the connection.

The page is the WSGI application of prometheus-client, run in a thread so that it does not block the
event loop. The server of prometheus-client has a thread for each connection without a time limit,
and takes half a second to stop. Here connections are bounded in number and time, and stopping waits
for no peer.

Beyond the bound, a new connection replaces the oldest of those that wait for their peer: for the
rest of a request, or until an answer is read. So half-open connections, however many, delay no
scrape that sends its request at once.

Known limit: a peer that makes more than `MOST_CONNECTIONS` connections in the time that a request
takes on its way can have a scrape replaced; Prometheus then tries again at its next interval.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

MOST_CONNECTIONS = 128
"""The most open connections."""
HEAD_SECONDS = 5.0
"""The time limit for a whole request to arrive."""
SECONDS = 10.0
"""The time limit for an answer to be made and read."""
LONGEST_HEAD = 8192
"""The most bytes of a request's line and headers."""

_END = b"\r\n\r\n"

StartResponse = Callable[[str, list[tuple[str, str]]], object]
App = Callable[[dict[str, str], StartResponse], Iterable[bytes]]
"""A WSGI application (PEP 3333) that uses only the request's line and headers."""


class ScrapeServer:
    """Serves `app` at /metrics."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        """Those that have not ended."""
        self._waiting: dict[asyncio.Task[None], None] = {}
        """Those that wait for their peer, the oldest first."""
        self._answering: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> None:
        """Listen on all addresses of `host`; raises OSError."""
        server = await asyncio.start_server(
            self._accept, host, port, limit=LONGEST_HEAD, start_serving=False
        )
        # Stored without an await after it was bound: a cancellation from here on leaks no socket.
        self._server = server
        await server.start_serving()

    async def stop(self) -> None:
        """Stop listening, and close all connections."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in self._connections:
            connection.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # asyncio could make the task itself, but before 3.12 it logs a cancelled one.
        if self._server is None or not self._make_room():
            writer.transport.abort()
            return
        connection = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(connection)
        self._waiting[connection] = None
        connection.add_done_callback(self._forget)

    def _make_room(self) -> bool:
        """Close the oldest connection that waits for its peer, if there is no room for another."""
        if len(self._waiting) + len(self._answering) < MOST_CONNECTIONS:
            return True
        oldest = next(iter(self._waiting), None)
        if oldest is None:
            return False
        del self._waiting[oldest]
        oldest.cancel()
        return True

    def _forget(self, connection: asyncio.Task[None]) -> None:
        self._connections.discard(connection)
        self._answering.discard(connection)
        self._waiting.pop(connection, None)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                head = await reader.readuntil(_END)
            async with asyncio.timeout(SECONDS):
                with self._not_waiting():
                    answer = await asyncio.to_thread(self._answer, head)
                writer.write(answer)
                writer.close()
                await writer.wait_closed()
        except (OSError, EOFError, asyncio.LimitOverrunError):
            # The peer left, was too slow (TimeoutError), or does not use HTTP.
            writer.transport.abort()
        except asyncio.CancelledError:
            writer.transport.abort()
            raise

    @contextmanager
    def _not_waiting(self) -> Iterator[None]:
        """Keep the connection of the current task from being replaced."""
        connection = asyncio.current_task()
        assert connection is not None
        self._waiting.pop(connection, None)
        self._answering.add(connection)
        try:
            yield
        finally:
            self._answering.discard(connection)
            self._waiting[connection] = None

    def _answer(self, head: bytes) -> bytes:
        """Return the response to a request's line and headers."""
        environ = _read_head(head)
        if environ is None:
            return _response("400 Bad Request", [], b"not HTTP\n")
        if environ["PATH_INFO"] != "/metrics":
            return _response("404 Not Found", [], b"the metrics are at /metrics\n")
        response: list[tuple[str, list[tuple[str, str]]]] = []
        body = b"".join(
            self._app(environ, lambda status, headers: response.append((status, headers)))
        )
        ((status, headers),) = response
        return _response(status, headers, body)


def _read_head(head: bytes) -> dict[str, str] | None:
    """Return the WSGI environment of a request (RFC 9112 section 3), None if it is invalid."""
    line, *fields = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    with suppress(ValueError):
        method, target, version = line.split(" ")
        if not version.startswith("HTTP/1."):
            return None
        path, _, query = target.partition("?")
        environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query}
        for field in fields:
            name, colon, value = field.partition(":")
            if not colon:
                return None
            environ["HTTP_" + name.upper().replace("-", "_")] = value.strip()
        return environ
    return None


def _response(status: str, headers: list[tuple[str, str]], body: bytes) -> bytes:
    fields = [*headers, ("Content-Length", str(len(body))), ("Connection", "close")]
    head = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + body

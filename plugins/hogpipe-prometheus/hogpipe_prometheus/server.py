"""The HTTP end: it answers `GET /metrics` and closes.

The pages are prometheus-client's own WSGI application, run in a thread, so that rendering them
holds nothing up. prometheus-client's own server has a thread for each connection for as long as the
peer likes, and takes half a second to stop. Here connections have a bound in number and time, and
stopping waits for nobody.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress

MOST_CONNECTIONS = 32
"""How many may be open at once; more are closed unanswered."""
SECONDS = 10.0
"""How long a connection may last."""
LONGEST_HEAD = 8192
"""Bytes of a request's line and headers at the most."""

_END = b"\r\n\r\n"

StartResponse = Callable[[str, list[tuple[str, str]]], object]
App = Callable[[dict[str, str], StartResponse], Iterable[bytes]]
"""A WSGI application, PEP 3333, of which only the request's line and headers matter."""


class ScrapeServer:
    """Serves `app` at /metrics."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> None:
        """Listen at all addresses of `host`; raises OSError."""
        server = await asyncio.start_server(
            self._accept, host, port, limit=LONGEST_HEAD, start_serving=False
        )
        # Nothing waited since it was bound: a cancellation from here on leaves nobody unclosed.
        self._server = server
        await server.start_serving()

    async def stop(self) -> None:
        """Stop listening and cut off whoever is connected."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in self._connections:
            connection.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # asyncio would make the task itself, but before 3.12 it logs one that is cancelled.
        if self._server is None or len(self._connections) >= MOST_CONNECTIONS:
            writer.transport.abort()
            return
        connection = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(SECONDS):
                head = await reader.readuntil(_END)
                writer.write(await asyncio.to_thread(self._answer, head))
                writer.close()
                await writer.wait_closed()
        except (OSError, EOFError, asyncio.LimitOverrunError):
            # The peer left, was too slow (TimeoutError), or speaks something else.
            writer.transport.abort()
        except asyncio.CancelledError:
            writer.transport.abort()
            raise

    def _answer(self, head: bytes) -> bytes:
        """Return the response to a request's line and headers."""
        environ = _read_head(head)
        if environ is None:
            return _response("400 Bad Request", [], b"not HTTP\n")
        if environ["PATH_INFO"] != "/metrics":
            return _response("404 Not Found", [], b"the metrics are at /metrics\n")
        said: list[tuple[str, list[tuple[str, str]]]] = []
        body = b"".join(self._app(environ, lambda status, headers: said.append((status, headers))))
        ((status, headers),) = said
        return _response(status, headers, body)


def _read_head(head: bytes) -> dict[str, str] | None:
    """Return the WSGI environment of a request (RFC 9112 section 3), None if it is none."""
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

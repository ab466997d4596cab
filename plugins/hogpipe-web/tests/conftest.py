"""A sink as a run makes it, and plain HTTP to it."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from hogpipe import Sink
from hogpipe.testing import free_ports, make_sink
from hogpipe.testing import opened as opened_sink

sys.path.append(str(Path(__file__).parent))  # tests are collected by path, not as a package
from web_support import (
    PATIENCE,
    SINK_TYPE,
    Answer,
    Ask,
    Events,
    Listen,
    OpenSink,
    request,
)


@pytest.fixture
def port() -> int:
    """A port on which nothing listens."""
    return free_ports(1)[0]


@pytest.fixture
def ask(port: int) -> Ask:
    """Send a request, without blocking the event loop."""

    async def send(
        path: str, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await asyncio.to_thread(request, port, method, path, body, named)

    return send


@pytest.fixture
async def opened(port: int) -> AsyncIterator[OpenSink]:
    """Open sinks with the keys of their `[[sinks]]` tables; they are closed when the test ends."""
    async with AsyncExitStack() as stack:

        def open_sink(**keys: object) -> Awaitable[Sink]:
            sink = make_sink(SINK_TYPE, {"listen": f"127.0.0.1:{port}", **keys})
            return stack.enter_async_context(opened_sink(sink))

        yield open_sink


@pytest.fixture
async def listen(port: int) -> AsyncIterator[Listen]:
    """Open streams of events; `buffer` is that of the socket."""
    streams: list[Events] = []

    async def open_stream(question: str = "by=program", **headers: str) -> Events:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 26)
        lines = [f"GET /api/events?{question} HTTP/1.1", "Host: localhost"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        events = Events(reader, writer)
        async with asyncio.timeout(PATIENCE):
            events.status = int((await reader.readline()).split()[1])
            while (await reader.readline()).strip():
                pass
        streams.append(events)
        return events

    yield open_stream
    for stream in streams:
        stream.close()

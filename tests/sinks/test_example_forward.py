"""The sink `forward` keeps its promises with a server that goes down, stalls and refuses."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from example_forward import ForwardSettings, ForwardSink

from hogpipe import Record, SinkType
from hogpipe.testing import PROMISES, SinkCase, check_sink


class Server:
    """Keeps its documents, and answers each line."""

    def __init__(self) -> None:
        self.documents: list[dict[str, object]] = []
        self.refused: Record | None = None
        self.port = 0
        self.going = asyncio.Event()
        self.going.set()
        self.writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self.server.close()
        for writer in self.writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        try:
            token = await reader.readline()
            writer.write(b"ok\n" if token == b"secret\n" else b"no such token\n")
            async for line in reader:
                await self.going.wait()
                writer.write(self.answer(line))
        except ConnectionError:
            pass
        finally:
            self.writers.discard(writer)
            writer.close()

    def answer(self, line: bytes) -> bytes:
        document = json.loads(line)
        if self.refused and document["sequence"] == self.refused["sequence"]:
            return b"no, not that one\n"
        self.documents.append(document)
        return b"ok\n"

    async def arrived(self) -> list[dict[str, object]]:
        return self.documents

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        await self.stop()
        yield
        await self.start()

    @asynccontextmanager
    async def stall(self) -> AsyncIterator[None]:
        self.going.clear()
        yield
        self.going.set()

    @asynccontextmanager
    async def refusal(self, record: Record) -> AsyncIterator[None]:
        self.refused = record
        yield
        self.refused = None


@pytest.fixture
async def case() -> AsyncIterator[SinkCase]:
    server = Server()
    await server.start()
    yield SinkCase(
        sink_type=SinkType("forward", ForwardSettings, ForwardSink),
        keys={"port": server.port, "token": "secret", "write_timeout": 0.5},
        secrets=["secret"],
        arrived=server.arrived,
        outage=server.outage,
        stall=server.stall,
        refusal=server.refusal,
        wrong_keys=[{"token": "wrong"}, {"port": 0}, {"host": ""}],
        largest_window=5_000,
    )
    await server.stop()


@pytest.mark.parametrize("promise", PROMISES)
async def test_forward_keeps_its_promises(case: SinkCase, promise: str) -> None:
    await check_sink(case, [promise])

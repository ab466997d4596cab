"""What the tests of the page share: requests, streams of events, the browser."""

import asyncio
import http.client
import json
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hogpipe_web import hogpipe_sinks

from hogpipe import Record, Sink, load_config

(SINK_TYPE,) = hogpipe_sinks()
PATIENCE = 20.0
TOKEN = "a token that nobody guesses"


@dataclass(frozen=True)
class Answer:
    """What a request was answered with."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Events:
    """The server-sent events of one request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.status = 0

    async def next(self) -> tuple[str, Any]:
        """Return the name and the content of the next event."""
        name = ""
        async with asyncio.timeout(PATIENCE):
            while True:
                line = (await self._reader.readuntil(b"\n")).rstrip(b"\r\n")
                if line.startswith(b"event: "):
                    name = line[7:].decode()
                elif line.startswith(b"data: "):
                    return name, json.loads(line[6:])

    async def wait_for(self, name: str) -> Any:
        """Return the content of the next event of this name."""
        while (event := await self.next())[0] != name:
            pass
        return event[1]

    def close(self) -> None:
        self._writer.transport.abort()


Ask = Callable[..., Awaitable[Answer]]
Listen = Callable[..., Awaitable[Events]]
OpenSink = Callable[..., Awaitable[Sink]]


def request(
    port: int, method: str, path: str, body: bytes | None, headers: dict[str, str]
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, found, answer.read())
    finally:
        connection.close()


def chromium() -> str:
    """Return the browser of the distribution."""
    program = shutil.which("chromium")
    assert program, "chromium is not there: apt-get install --no-install-recommends chromium"
    return program


async def write_history(path: Path, windows: list[list[Record]]) -> None:
    """Write windows with the sink `sqlite`, as a run does."""
    config = path.with_suffix(".toml")
    config.write_text(f'[[sinks]]\ntype = "sqlite"\npath = "{path.name}"\n')
    (choice,) = load_config(config).sinks
    sink = choice.type.create(choice.settings)
    await sink.open()
    for window in windows:
        await sink.write(window)
    await sink.close()

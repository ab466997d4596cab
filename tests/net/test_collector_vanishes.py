"""A collector whose host disappears: the sink detects it and uses the next endpoint."""

import asyncio
import contextlib
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from support.namespaces import Namespace
from support.running import PATIENCE, wait_until
from support.sinks import traffic, until

from hogpipe.delivery.dispatch import Dispatcher
from hogpipe.sinks.tcp.tcp_sink import TcpSettings, TcpSink

SERVE = """
import socket, sys
listener = socket.create_server((sys.argv[1], 6514), family=socket.AF_INET6)
print("listens", flush=True)
while True:
    connection, _ = listener.accept()
    while data := connection.recv(65536):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
"""


@contextlib.contextmanager
def _serving(where: Namespace, address: str, path: Path) -> Iterator[None]:
    """Run a collector in a namespace; `path` has its lines, after a first one of its own."""
    with path.open("wb") as file:
        command = where.command(sys.executable, "-c", SERVE, address)
        process = subprocess.Popen(command, stdout=file)
        try:
            wait_until(lambda: path.read_bytes().startswith(b"listens"))
            yield
        finally:
            process.kill()
            process.wait(PATIENCE)


def test_a_host_that_disappears_is_replaced_by_the_next_endpoint(
    veth: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    left, right = veth
    far, near = tmp_path / "far", tmp_path / "near"
    settings = TcpSettings(
        type="tcp",
        endpoints=("[fd77::2]:6514", "[::1]:6514"),
        connect_timeout=1.0,
        retry_initial=0.01,
        retry_max=0.05,
        write_timeout=1.0,
    )

    async def send() -> None:
        dispatcher = Dispatcher(
            [(TcpSink(settings), settings)], on_output_closed=lambda: None, rng=random.Random(1)
        )
        await dispatcher.open()
        async with asyncio.TaskGroup() as group:
            group.create_task(dispatcher.run())
            await dispatcher.publish([traffic(1)])
            await until(lambda: far.read_bytes().count(b"\n") == 2)
            right.ip("link", "set", "right", "down")
            await dispatcher.publish([traffic(2)])
            await dispatcher.publish([traffic(3)])
            await until(lambda: near.read_bytes().count(b"\n") == 3)
            await dispatcher.drain(5)

    with _serving(right, "fd77::2", far), _serving(left, "::1", near):
        left.call(lambda: asyncio.run(send()))
    assert b'"sequence":1' in far.read_bytes()
    assert [b'"sequence":2' in near.read_bytes(), b'"sequence":3' in near.read_bytes()] == [
        True
    ] * 2

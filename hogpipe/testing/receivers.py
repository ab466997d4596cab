"""What tests of a sink do with a real receiver: run it, suspend it, and send it too much.

A receiver in a process of its own makes the trouble of a `SinkCase` (case.py) real: a suspended
one keeps its connections and answers nothing (`stall`), a killed one is an `outage`, and a record
beyond its size limit a `refusal`. Errors are those of `subprocess` and `os`.
"""

import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path

from hogpipe.records.schema import Record


@contextmanager
def running_program(*command: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run a program with its outputs in pipes; it is killed when the context ends."""
    process = subprocess.Popen(  # noqa: S603 - the command is the test's own
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def suspended(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> Iterator[None]:
    """Suspend a process: its connections stay, and it answers nothing until the context ends."""
    process.send_signal(signal.SIGSTOP)
    # The kernel delivers a signal with a delay.
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def free_ports(count: int) -> Sequence[int]:
    """Return TCP ports of 127.0.0.1 on which nothing listens at the moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def enlarge(record: Record, size: int) -> None:
    """Change a record, in place, so that its JSON is larger than `size` bytes."""
    record["process"] = {"command": "x" * size}  # type: ignore[typeddict-unknown-key]


def oversized(size: int) -> Callable[[Record], AbstractAsyncContextManager[None]]:
    """Return a `refusal` for receivers that take no more than `size` bytes: the record grows."""

    @asynccontextmanager
    async def refusal(record: Record) -> AsyncIterator[None]:
        enlarge(record, size)
        yield

    return refusal

"""Every wait of the sink can be cancelled, and leaves no file descriptor and no task behind."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.certificates import Certificates
from support.collector import collecting
from support.sinks import traffic, until

from hogpipe.sinks.tcp.tcp_sink import TcpSettings, TcpSink
from hogpipe.sinks.tls import TlsSettings

WINDOW = [traffic(sequence) for sequence in range(30_000)]


def _sockets() -> set[str]:
    """Return the sockets that this process has open."""
    names = set()
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one of the listing itself
            names.add(str(fd.readlink()))
    return {name for name in names if name.startswith("socket:")}


@contextlib.asynccontextmanager
async def _nothing_is_left() -> AsyncIterator[None]:
    sockets, tasks = _sockets(), asyncio.all_tasks()
    yield
    await until(lambda: _sockets() <= sockets and asyncio.all_tasks() <= tasks)


async def _cancel(task: "asyncio.Task[None]") -> None:
    await asyncio.sleep(0.05)
    assert not task.done()
    task.cancel()
    await asyncio.wait({task}, timeout=5)
    assert task.cancelled()


@pytest.fixture
def silent() -> Iterator[tuple[str, int]]:
    """A listener that accepts nothing: clients connect, and no data is read or written."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        yield listener.getsockname()


async def test_while_connecting() -> None:
    with socket.socket() as listener, contextlib.ExitStack() as queued:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        host, port = listener.getsockname()
        for _ in range(3):  # the backlog is full: the next SYN is not answered
            one = queued.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex((host, port))
        async with _nothing_is_left():
            sink = TcpSink(TcpSettings(type="tcp", host=host, port=port))
            await _cancel(asyncio.create_task(sink.open()))
            await sink.close()


async def test_in_the_tls_handshake(silent: tuple[str, int], certificates: Certificates) -> None:
    tls = TlsSettings(ca=certificates.path("ca.pem"))
    async with _nothing_is_left():
        sink = TcpSink(TcpSettings(type="tcp", host=silent[0], port=silent[1], tls=tls))
        await _cancel(asyncio.create_task(sink.open()))
        await sink.close()


async def test_while_the_server_may_refuse_the_handshake(certificates: Certificates) -> None:
    tls = TlsSettings(ca=certificates.path("ca.pem"))
    async with collecting(tls=certificates.server_context(tickets=0)) as collector:
        settings = TcpSettings(type="tcp", host=collector.host, port=collector.port, tls=tls)
        sink = TcpSink(settings)
        opening = asyncio.create_task(sink.open())
        await until(lambda: collector.writers)
        before = _sockets()
        await _cancel(opening)
        await sink.close()
        await until(lambda: len(_sockets()) == len(before) - 2)  # both ends are closed


@pytest.mark.parametrize("records", [WINDOW, WINDOW[:300]], ids=["sending", "unacknowledged"])
async def test_while_the_collector_reads_nothing(
    silent: tuple[str, int], records: list[object]
) -> None:
    async with _nothing_is_left():
        sink = TcpSink(TcpSettings(type="tcp", host=silent[0], port=silent[1]))
        await sink.open()
        await _cancel(asyncio.create_task(sink.write(records)))  # type: ignore[arg-type]
        assert sink._link is None
        await sink.close()


async def test_during_the_close_notify_of_tls(certificates: Certificates) -> None:
    tls = TlsSettings(ca=certificates.path("ca.pem"))
    async with collecting(tls=certificates.server_context()) as collector:
        before = _sockets()
        settings = TcpSettings(type="tcp", host=collector.host, port=collector.port, tls=tls)
        sink = TcpSink(settings)
        await sink.open()
        await until(lambda: collector.writers)
        collector.writers[0].transport.pause_reading()
        closing = asyncio.create_task(sink.close())
        await _cancel(closing)
        collector.writers[0].transport.abort()
        await until(lambda: _sockets() == before)


async def test_a_peer_without_close_notify_does_not_delay_the_close(
    certificates: Certificates,
) -> None:
    tls = TlsSettings(ca=certificates.path("ca.pem"))
    async with collecting(tls=certificates.server_context()) as collector:
        settings = TcpSettings(type="tcp", host=collector.host, port=collector.port, tls=tls)
        sink = TcpSink(settings)
        await sink.open()
        await until(lambda: collector.writers)
        collector.writers[0].transport.pause_reading()
        async with asyncio.timeout(5):  # asyncio alone would wait for thirty
            await sink.close()


async def test_repeated_breaks_leave_nothing() -> None:
    async with collecting() as collector, _nothing_is_left():
        sink = TcpSink(TcpSettings(type="tcp", host=collector.host, port=collector.port))
        for sequence in range(20):
            await sink.write([traffic(sequence)])
            await until(lambda: len(collector.writers) > sequence)  # noqa: B023 - called at once
            collector.writers[-1].close()
            await until(lambda: sink._link is not None and sink._link.connection.lost)
        await sink.close()
        await sink.close()

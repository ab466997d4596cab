"""Each line arrives, though the collector dies, restarts, resets, half-closes or stalls."""

import asyncio
import contextlib
import json
import select
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager

import pytest
from msgspec import structs
from support.collector import Collector, collecting
from support.sinks import delivering, traffic, until

from hogpipe.delivery.dispatch import Dispatcher
from hogpipe.errors import ConfigurationError, DeliveryError
from hogpipe.sinks.tcp.tcp_sink import SHORT_CONNECTIONS, TcpSettings, TcpSink
from hogpipe.testing import free_ports, opened


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with collecting() as made:
        yield made


def _settings(collector: Collector, host: str | None = None) -> TcpSettings:
    return TcpSettings(
        type="tcp",
        host=host or collector.host,
        port=collector.port,
        retry_initial=0.001,
        retry_max=0.005,
    )


def _open(settings: TcpSettings) -> AbstractAsyncContextManager[TcpSink]:
    return opened(TcpSink(settings))


@contextlib.contextmanager
def _listening() -> Iterator[socket.socket]:
    """A listener with a small receive buffer, for a test that accepts by hand."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        yield listener


def _towards(listener: socket.socket) -> TcpSettings:
    host, port = listener.getsockname()
    return TcpSettings(type="tcp", host=host, port=port, retry_initial=0.001, retry_max=0.005)


async def _until_stuck(connection: socket.socket) -> None:
    """Wait until the receive buffer is full: it has not grown for a tenth of a second."""
    before = 0
    while True:
        await asyncio.sleep(0.1)
        size = len(connection.recv(1 << 24, socket.MSG_PEEK))
        if size and size == before:
            return
        before = size


async def _accept(listener: socket.socket) -> socket.socket:
    connection, _ = await asyncio.get_running_loop().sock_accept(listener)
    connection.setblocking(False)
    return connection


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


async def test_windows_arrive_as_json_lines(collector: Collector) -> None:
    async with _open(_settings(collector)) as sink:
        await sink.write([traffic(1), traffic(2)])
        await sink.write([traffic(3)])
        await until(lambda: collector.sequences() == [1, 2, 3])
    assert len(collector.received) == 1
    assert json.loads(bytes(collector.received[0]).split(b"\n")[0]) == traffic(1)


@pytest.mark.parametrize("host", ["::1", "[::1]"])
async def test_an_ipv6_address_may_stand_in_brackets(host: str) -> None:
    async with collecting("::1") as collector, _open(_settings(collector, host)) as sink:
        await sink.write([traffic(1)])
        await until(lambda: collector.sequences() == [1])


async def test_a_refused_connection_is_retried() -> None:
    (port,) = free_ports(1)
    with pytest.raises(DeliveryError) as caught:
        async with _open(TcpSettings(type="tcp", host="127.0.0.1", port=port)):
            pass
    assert str(caught.value) == f"no connection to 127.0.0.1 port {port}: Connection refused"


def test_a_host_that_cannot_be_a_name_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match=r"^host: a\.\.b: no name or address$"):
        TcpSink(TcpSettings(type="tcp", host="a..b", port=1))


async def test_a_host_that_does_not_resolve_is_retried() -> None:
    with pytest.raises(DeliveryError, match=r"^no connection to nowhere\.invalid port 1: \w+"):
        async with _open(TcpSettings(type="tcp", host="nowhere.invalid", port=1)):
            pass


async def test_a_collector_that_restarts_misses_no_window(collector: Collector) -> None:
    async with delivering(TcpSink, _settings(collector)) as dispatcher:
        await dispatcher.publish([traffic(1)])
        await until(lambda: collector.sequences() == [1])
        await collector.stop()
        await until(lambda: not collector.open)
        for sequence in range(2, 10):
            await dispatcher.publish([traffic(sequence)])
        await until(lambda: dispatcher.health()[0]["retries"] > 2)
        await collector.start()
        await until(lambda: not dispatcher.health()[0]["queued"])
        await until(lambda: collector.sequences() == list(range(1, 10)))
    assert dispatcher.health()[0]["delivered"] == 9


async def test_a_connection_closed_while_idle_is_replaced_before_writing(
    collector: Collector,
) -> None:
    async with _open(_settings(collector)) as sink:
        await sink.write([traffic(1)])
        await until(lambda: collector.sequences() == [1])
        collector.writers[0].close()
        await until(lambda: sink._link is not None and sink._link.connection.lost)
        await sink.write([traffic(2)])
        await until(lambda: collector.sequences() == [1, 2])
    assert len(collector.received) == 2


async def test_a_peer_that_closes_every_connection_is_reported_once(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    async with _open(_settings(collector)) as sink:
        for sequence in range(1, SHORT_CONNECTIONS + 4):
            await sink.write([traffic(sequence)])
            await until(lambda: collector.writers)
            collector.writers.pop().close()  # as a server does that expected TLS
            await until(lambda: sink._link is not None and sink._link.connection.lost)
    (line,) = caplog.messages
    assert line.startswith(f"sink tcp: 127.0.0.1 port {collector.port} closes each connection")


async def test_a_peer_that_closes_now_and_then_is_not_reported(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    async with _open(_settings(collector)) as sink:
        for sequence in range(1, 2 * SHORT_CONNECTIONS + 3, 2):
            await sink.write([traffic(sequence)])
            await sink.write([traffic(sequence + 1)])
            await until(lambda: collector.writers)
            collector.writers.pop().close()
            await until(lambda: sink._link is not None and sink._link.connection.lost)
    assert not caplog.messages


async def test_a_peer_that_half_closes_gets_a_new_connection(collector: Collector) -> None:
    async with _open(_settings(collector)) as sink:
        await sink.write([traffic(1)])
        await until(lambda: collector.writers)
        collector.writers[0].write_eof()
        await until(lambda: sink._link is not None and sink._link.connection.lost)
        await sink.write([traffic(2)])
        await until(lambda: collector.sequences() == [1, 2])
    assert len(collector.received) == 2


async def test_a_closed_connection_is_detected_before_the_event_loop_reads_it() -> None:
    with _listening() as listener:
        async with _open(_towards(listener)) as sink:
            first, _ = listener.accept()
            first.close()
            # The event loop has not run since.
            assert sink._link is not None
            assert sink._link.connection.lost
            await sink.write([traffic(1)])
            with listener.accept()[0] as second:
                assert json.loads(second.recv(1 << 16)) == traffic(1)


async def test_after_a_reset_exactly_the_unacknowledged_lines_are_sent_again() -> None:
    window = [traffic(sequence) for sequence in range(20_000)]
    loop = asyncio.get_running_loop()
    with _listening() as listener:
        async with delivering(TcpSink, _towards(listener)) as dispatcher:
            connection = await _accept(listener)
            await dispatcher.publish(window)
            await _until_stuck(connection)
            taken = connection.recv(1 << 24, socket.MSG_PEEK)
            _reset(connection)
            connection = await _accept(listener)
            rest = bytearray()
            while rest.count(b"\n") < len(window) - taken.count(b"\n"):
                rest += await loop.sock_recv(connection, 1 << 20)
            await until(lambda: dispatcher.health()[0]["delivered"] == len(window))
            assert not select.select([connection], [], [], 0)[0]
            connection.close()
    acknowledged = taken.count(b"\n")
    assert 0 < acknowledged < len(window)
    assert [json.loads(line)["sequence"] for line in rest.splitlines()] == list(
        range(acknowledged, len(window))
    )
    assert dispatcher.health()[0]["retries"] == 1


async def test_a_retried_write_continues_with_the_unacknowledged_lines() -> None:
    window = [traffic(sequence) for sequence in range(20_000)]
    loop = asyncio.get_running_loop()
    with _listening() as listener:
        async with _open(_towards(listener)) as sink:
            stalled = await _accept(listener)
            write = asyncio.create_task(sink.write(window))
            await _until_stuck(stalled)
            acknowledged = stalled.recv(1 << 24, socket.MSG_PEEK).count(b"\n")
            write.cancel()
            await asyncio.wait({write})
            write = asyncio.create_task(sink.write(window))
            connection = await _accept(listener)
            data = bytearray()
            while data.count(b"\n") < len(window) - acknowledged:
                data += await loop.sock_recv(connection, 1 << 20)
            await write
            connection.close()
            # The kernel still transmits its buffer: no acknowledged line is lost.
            late = bytearray()
            while piece := await loop.sock_recv(stalled, 1 << 20):
                late += piece
            stalled.close()
    assert json.loads(data.split(b"\n", 1)[0])["sequence"] == acknowledged
    lines = [*data.split(b"\n")[:-1], *late.split(b"\n")[:-1]]
    assert {json.loads(line)["sequence"] for line in lines} == set(range(len(window)))


async def test_a_large_window_does_not_block_the_event_loop(
    collector: Collector,
) -> None:
    window = [traffic(sequence) for sequence in range(50_000)]
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with _open(_settings(collector)) as sink:
        counting = asyncio.create_task(count())
        await sink.write(window)
        counting.cancel()
    assert turns > 50_000 / 256


async def test_the_kernel_detects_a_dead_peer(collector: Collector) -> None:
    async with _open(structs.replace(_settings(collector), write_timeout=7.5)) as sink:
        assert sink._link is not None
        probe = sink._link.connection._probe
        assert probe.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_USER_TIMEOUT)
        values = [probe.getsockopt(socket.IPPROTO_TCP, option) for option in options]
    assert values == [15, 5, 7500]


async def test_a_stalled_peer_gets_its_window_on_another_connection(collector: Collector) -> None:
    window = [traffic(sequence) for sequence in range(20_000)]
    collector.reading.clear()
    hasty = structs.replace(_settings(collector), write_timeout=1.0)
    async with delivering(TcpSink, hasty) as dispatcher:
        await dispatcher.publish(window)
        await until(lambda: dispatcher.health()[0]["retries"])
        collector.reading.set()
        await until(lambda: dispatcher.health()[0]["delivered"] == len(window))
    assert "it took longer than" in dispatcher.health()[0]["last_error"]
    assert len(collector.received) >= 2


async def test_closing_does_not_wait_for_a_stalled_peer(collector: Collector) -> None:
    collector.reading.clear()
    settings = _settings(collector)
    dispatcher = Dispatcher([(TcpSink(settings), settings)], on_output_closed=lambda: None)
    await dispatcher.open()
    async with asyncio.TaskGroup() as group:
        group.create_task(dispatcher.run())
        await dispatcher.publish([traffic(sequence) for sequence in range(20_000)])
        (left,) = await dispatcher.drain(0.05)
    assert left.text == "sink tcp: 20000 records not delivered"


async def test_data_of_the_peer_is_read_and_ignored(collector: Collector) -> None:
    async with _open(_settings(collector)) as sink:
        await sink.write([traffic(1)])
        await until(lambda: collector.writers)
        collector.writers[0].write(b"ok\n" * 100_000)
        await collector.writers[0].drain()
        await sink.write([traffic(2)])
        await until(lambda: collector.sequences() == [1, 2])
    assert len(collector.received) == 1

"""The collector may die, come back, reset, half-close or stall: each window gets there whole."""

import asyncio
import contextlib
import json
import random
import socket
import struct
from collections.abc import AsyncIterator

import pytest
from msgspec import structs
from support.sinks import traffic, until

from hogpipe.errors import ConfigurationError, DeliveryError
from hogpipe.sinks.dispatch import Dispatcher
from hogpipe.sinks.tcp import TcpSettings, TcpSink


class Collector:
    """A server on loopback that keeps each connection's bytes."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host, self.port = host, 0
        self.received: list[bytearray] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.reading = asyncio.Event()
        self.reading.set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, self.host, self.port, limit=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = bytearray()
        self.received.append(data)
        self.writers.append(writer)
        with contextlib.suppress(ConnectionError):
            while True:
                await self.reading.wait()
                piece = await reader.read(1 << 16)
                if not piece:
                    break
                data += piece
        writer.close()

    async def stop(self) -> None:
        """Close the listener and every connection, as the end of its process does."""
        assert self._server is not None
        self._server.close()
        self.reading.set()
        for writer in self.writers:
            writer.close()
        await self._server.wait_closed()

    def reset(self) -> None:
        """Break the connections without a word."""
        for writer in self.writers:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def sequences(self) -> list[int]:
        """The sequence of every whole line, connection by connection."""
        lines = [line for data in self.received for line in bytes(data).split(b"\n")[:-1]]
        return [json.loads(line)["sequence"] for line in lines]


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    made = Collector()
    await made.start()
    yield made
    await made.stop()


def _settings(collector: Collector, host: str | None = None) -> TcpSettings:
    return TcpSettings(
        type="tcp",
        host=host or collector.host,
        port=collector.port,
        retry_initial=0.001,
        retry_max=0.005,
    )


@contextlib.asynccontextmanager
async def _open(settings: TcpSettings) -> AsyncIterator[TcpSink]:
    sink = TcpSink(settings)
    try:
        await sink.open()
        yield sink
    finally:
        await sink.close()


@contextlib.asynccontextmanager
async def _running(settings: TcpSettings) -> AsyncIterator[Dispatcher]:
    dispatcher = Dispatcher(
        [(TcpSink(settings), settings)], on_output_closed=lambda: None, rng=random.Random(1)
    )
    await dispatcher.open()
    async with asyncio.TaskGroup() as group:
        group.create_task(dispatcher.run())
        yield dispatcher
        await dispatcher.drain(10)


async def test_windows_arrive_as_json_lines(collector: Collector) -> None:
    async with _open(_settings(collector)) as sink:
        await sink.write([traffic(1), traffic(2)])
        await sink.write([traffic(3)])
        await until(lambda: collector.sequences() == [1, 2, 3])
    assert len(collector.received) == 1
    assert json.loads(bytes(collector.received[0]).split(b"\n")[0]) == traffic(1)


@pytest.mark.parametrize("host", ["::1", "[::1]"])
async def test_an_ipv6_address_may_stand_in_brackets(host: str) -> None:
    collector = Collector("::1")
    try:
        await collector.start()
    except OSError as error:
        pytest.skip(f"no IPv6 on loopback here: {error}")
    async with _open(_settings(collector, host)) as sink:
        await sink.write([traffic(1)])
        await until(lambda: collector.sequences() == [1])
    await collector.stop()


async def test_nobody_listening_is_an_error_to_try_again() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        settings = TcpSettings(type="tcp", host="127.0.0.1", port=port)
        with pytest.raises(DeliveryError) as caught:
            async with _open(settings):
                pass
    assert str(caught.value) == f"no connection to 127.0.0.1 port {port}: Connection refused"


async def test_a_host_that_can_be_no_name_is_a_wrong_configuration() -> None:
    with pytest.raises(ConfigurationError, match=r"^host a\.\.b: "):
        async with _open(TcpSettings(type="tcp", host="a..b", port=1)):
            pass


async def test_a_collector_that_dies_and_comes_back_misses_no_window(collector: Collector) -> None:
    async with _running(_settings(collector)) as dispatcher:
        await dispatcher.publish([traffic(1)])
        await until(lambda: collector.sequences() == [1])
        await collector.stop()
        for sequence in range(2, 10):
            await dispatcher.publish([traffic(sequence)])
        await until(lambda: dispatcher.health()[0]["retries"] > 2)
        await collector.start()
        await until(lambda: not dispatcher.health()[0]["queued"])
        await until(lambda: collector.sequences() == list(range(1, 10)))
    assert dispatcher.health()[0]["delivered"] == 9


async def test_a_peer_that_left_while_we_were_idle_is_noticed_before_writing(
    collector: Collector,
) -> None:
    async with _open(_settings(collector)) as sink:
        await sink.write([traffic(1)])
        await until(lambda: collector.sequences() == [1])
        collector.writers[0].close()
        await until(lambda: sink._connection is None or sink._connection.lost)
        await sink.write([traffic(2)])
        await until(lambda: collector.sequences() == [1, 2])
    assert len(collector.received) == 2


async def test_a_peer_that_half_closes_gets_a_new_connection(collector: Collector) -> None:
    async with _open(_settings(collector)) as sink:
        await sink.write([traffic(1)])
        await until(lambda: collector.writers)
        collector.writers[0].write_eof()
        await until(lambda: sink._connection is not None and sink._connection.lost)
        await sink.write([traffic(2)])
        await until(lambda: collector.sequences() == [1, 2])
    assert len(collector.received) == 2


async def test_after_a_reset_in_the_middle_of_a_window_all_of_it_is_sent_again(
    collector: Collector,
) -> None:
    window = [traffic(sequence) for sequence in range(20_000)]
    collector.reading.clear()
    async with _running(_settings(collector)) as dispatcher:
        await dispatcher.publish(window)
        await until(lambda: collector.writers)
        await asyncio.sleep(0.01)
        assert dispatcher.health()[0]["delivered"] == 0
        collector.reset()
        collector.reading.set()
        await until(lambda: dispatcher.health()[0]["delivered"])
        whole = collector.received[-1]
        await until(lambda: whole.count(b"\n") == len(window))
    assert [json.loads(line)["sequence"] for line in whole.splitlines()] == list(range(20_000))
    assert dispatcher.health()[0]["retries"] >= 1


async def test_a_stalled_peer_is_given_up_and_its_window_sent_anew(collector: Collector) -> None:
    window = [traffic(sequence) for sequence in range(20_000)]
    collector.reading.clear()
    impatient = structs.replace(_settings(collector), write_timeout=1.0)
    async with _running(impatient) as dispatcher:
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
        (line,) = await dispatcher.drain(0.05)
    assert line == "sink tcp: 20000 records not delivered"


async def test_what_the_peer_says_is_read_and_ignored(collector: Collector) -> None:
    async with _open(_settings(collector)) as sink:
        await sink.write([traffic(1)])
        await until(lambda: collector.writers)
        collector.writers[0].write(b"ok\n" * 100_000)
        await collector.writers[0].drain()
        await sink.write([traffic(2)])
        await until(lambda: collector.sequences() == [1, 2])
    assert len(collector.received) == 1

"""Several collectors: the most preferred one that works is used, and each is tried."""

import socket
import threading
from collections.abc import AsyncIterator

import pytest
from support.collector import Collector, collecting
from support.sinks import delivering, traffic, until

from hogpipe.errors import DeliveryError
from hogpipe.sinks.tcp import connector
from hogpipe.sinks.tcp.tcp_sink import RETURN_SECONDS, TcpSettings, TcpSink
from hogpipe.testing import free_ports


def _settings(*endpoints: str, **changes: float) -> TcpSettings:
    waits = {"retry_initial": 0.001, "retry_max": 0.005}
    return TcpSettings(type="tcp", endpoints=endpoints, **waits, **changes)


@pytest.fixture
async def first() -> AsyncIterator[Collector]:
    async with collecting() as made:
        yield made


@pytest.fixture
async def second() -> AsyncIterator[Collector]:
    async with collecting() as made:
        yield made


def _closed_port() -> int:
    return free_ports(1)[0]


async def test_the_first_endpoint_that_works_is_used(first: Collector, second: Collector) -> None:
    async with delivering(TcpSink, _settings(first.endpoint, second.endpoint)) as dispatcher:
        await dispatcher.publish([traffic(1)])
        await until(lambda: first.sequences() == [1])
    assert second.received == []


async def test_an_endpoint_that_is_down_is_skipped(second: Collector) -> None:
    closed = f"127.0.0.1:{_closed_port()}"
    async with delivering(
        TcpSink, _settings("nowhere.invalid:1", closed, second.endpoint)
    ) as dispatcher:
        await dispatcher.publish([traffic(1)])
        await until(lambda: second.sequences() == [1])
        assert dispatcher.health()[0]["retries"] == 0


async def test_the_error_names_every_endpoint_that_failed() -> None:
    one, other = _closed_port(), _closed_port()
    sink = TcpSink(_settings(f"127.0.0.1:{one}", f"[::1]:{other}"))
    with pytest.raises(DeliveryError) as caught:
        await sink.open()
    await sink.close()
    assert str(caught.value) == (
        f"no connection to 127.0.0.1 port {one}: Connection refused; "
        f"[::1] port {other}: Connection refused"
    )


async def test_a_dead_collector_is_replaced_by_the_next_and_no_record_is_lost(
    first: Collector, second: Collector
) -> None:
    async with delivering(TcpSink, _settings(first.endpoint, second.endpoint)) as dispatcher:
        await dispatcher.publish([traffic(1)])
        await until(lambda: first.sequences() == [1])
        await first.stop()
        await until(lambda: not first.open)
        await dispatcher.publish([traffic(2)])
        await until(lambda: second.sequences() == [2])
        await first.start()
        await dispatcher.publish([traffic(3)])
        await until(lambda: second.sequences() == [2, 3])
        await second.stop()
        await until(lambda: not second.open)
        await dispatcher.publish([traffic(4)])
        await until(lambda: first.sequences() == [1, 4])
        await second.start()


async def test_a_collector_that_reads_no_data_does_not_starve_the_next(
    first: Collector, second: Collector
) -> None:
    window = [traffic(sequence) for sequence in range(30_000)]
    first.reading.clear()
    settings = _settings(first.endpoint, second.endpoint, write_timeout=1.0)
    async with delivering(TcpSink, settings) as dispatcher:
        await dispatcher.publish(window)
        await until(lambda: dispatcher.health()[0]["delivered"] == len(window))
        first.reading.set()
        await until(
            lambda: set(first.sequences()) | set(second.sequences()) == set(range(len(window)))
        )
    assert second.received


async def test_the_first_endpoint_is_tried_again_after_five_minutes(
    first: Collector, second: Collector
) -> None:
    now = 0.0
    sink = TcpSink(_settings(first.endpoint, second.endpoint), clock=lambda: now)
    await first.stop()
    await sink.write([traffic(1)])
    now = RETURN_SECONDS
    await sink.write([traffic(2)])  # the first is still down
    await first.start()
    now = RETURN_SECONDS * 2 - 1
    await sink.write([traffic(3)])
    now = RETURN_SECONDS * 2
    await sink.write([traffic(4)])
    await sink.close()
    await until(lambda: second.sequences() == [1, 2, 3])
    await until(lambda: first.sequences() == [4])


async def test_a_change_of_collector_is_logged(
    first: Collector, second: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    sink = TcpSink(_settings(first.endpoint, second.endpoint))
    await sink.write([traffic(1)])
    assert not caplog.messages
    await first.stop()
    await until(lambda: sink._link is not None and sink._link.connection.lost)
    await sink.write([traffic(2)])
    await sink.close()
    assert caplog.messages == [f"sink tcp: sends to 127.0.0.1 port {second.port} now"]
    await first.start()


async def test_a_hanging_name_server_costs_one_thread_and_its_share_of_the_time(
    second: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    real, lookups = connector.find_addresses, []

    def hang(endpoint: object, flags: int = 0) -> object:
        if flags:
            return real(endpoint, flags)  # type: ignore[arg-type]
        lookups.append(endpoint)
        answered.wait(20)
        return real(endpoint)  # type: ignore[arg-type]

    monkeypatch.setattr(connector, "find_addresses", hang)
    sink = TcpSink(_settings("localhost:1", connect_timeout=0.05))
    for _ in range(3):
        with pytest.raises(DeliveryError, match=r"localhost port 1: no answer within 0\.05 s"):
            await sink.open()
    assert len(lookups) == 1
    answered.set()
    await sink.close()
    answered.clear()
    sink = TcpSink(_settings("localhost:1", second.endpoint, connect_timeout=0.2))
    await sink.write([traffic(1)])
    await until(lambda: second.sequences() == [1])
    answered.set()
    await sink.close()


async def test_the_next_address_of_a_name_is_tried(
    second: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = [
        (socket.AF_INET6, ("::1", _closed_port())),
        (socket.AF_INET, (second.host, second.port)),
    ]
    monkeypatch.setattr(connector, "find_addresses", lambda _endpoint: addresses)
    sink = TcpSink(_settings("collector.test:1"))
    await sink.write([traffic(1)])
    await sink.close()
    await until(lambda: second.sequences() == [1])

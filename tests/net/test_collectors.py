"""Real receivers, killed, suspended, half-closed and reset while records are sent.

Every record arrives (identified by run and sequence), and the sums of bytes are those that were
sent. One exception: a receiver that dies loses the lines that its kernel had acknowledged and its
process had not read, right before the connection broke.
"""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from support.certificates import Certificates
from support.receivers import Receiver, install
from support.running import Running, running
from support.sinks import delivering, total_bytes, traffic, until

from hogpipe.delivery.dispatch import Dispatcher
from hogpipe.errors import DeliveryError
from hogpipe.records.schema import Record
from hogpipe.sinks.tcp.tcp_sink import TcpSettings, TcpSink
from hogpipe.sinks.tls import TlsSettings
from hogpipe.testing import free_ports

LISTENER = Path(__file__).parent.parent / "support" / "listener.py"
WINDOWS = 60
RECORDS = 160
"""In a window: about 200 KB, more than a receive buffer of 64 KiB holds; in all so few that no
windows are merged during an outage (coalescing.py)."""


def _window(number: int) -> list[Record]:
    first = number * RECORDS
    return [
        traffic(first + index, pid=index % 7, transmit=first + index, receive=index)
        for index in range(RECORDS)
    ]


SENT = [record for number in range(WINDOWS) for record in _window(number)]


def _settings(port: int, tls: TlsSettings | None = None) -> TcpSettings:
    return TcpSettings(
        type="tcp",
        host="127.0.0.1",
        port=port,
        tls=tls,
        queue_windows=WINDOWS,
        retry_initial=0.01,
        retry_max=0.1,
        write_timeout=3.0,
    )


def _read(folder: Path) -> dict[int, Record]:
    """Return the record of every whole line by its sequence."""
    records: dict[int, Record] = {}
    for path in folder.glob("received*"):
        for line in path.read_bytes().split(b"\n"):
            with contextlib.suppress(ValueError):  # half a line at the end of a connection
                record = json.loads(line)
                records[record["sequence"]] = record
    return records


async def _until_read(folder: Path, condition: Callable[[dict[int, Record]], bool]) -> None:
    """Wait until the records that a receiver wrote meet `condition`."""
    async with asyncio.timeout(30):
        while not condition(_read(folder)):  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.1)


def _listening(
    folder: Path, port: int, receive_buffer: int = 0
) -> "contextlib.AbstractContextManager[Running]":
    return running(
        None, sys.executable, LISTENER, str(port), folder / "received", str(receive_buffer)
    )


async def _publish(dispatcher: Dispatcher, numbers: Sequence[int]) -> None:
    for number in numbers:
        await dispatcher.publish(_window(number))
        await asyncio.sleep(0.005)


def _stall(run: Running) -> None:
    run.process.send_signal(signal.SIGSTOP)


@pytest.mark.parametrize(
    "disturb",
    [
        lambda run: run.process.send_signal(signal.SIGUSR1),
        lambda run: run.process.send_signal(signal.SIGSTOP),
    ],
    ids=["half-closed", "stalled"],
)
async def test_a_half_close_or_a_stall_loses_nothing(
    tmp_path: Path, disturb: Callable[[Running], None]
) -> None:
    (port,) = free_ports(1)
    with _listening(tmp_path, port) as listener:
        listener.wait_for("listens")
        async with delivering(TcpSink, _settings(port), patience=20) as dispatcher:
            await _publish(dispatcher, range(20))
            for round_ in range(2):
                disturb(listener)
                await _publish(dispatcher, range(20 + round_ * 20, 40 + round_ * 20))
                await asyncio.sleep(0.1)
                listener.process.send_signal(signal.SIGCONT)
            await until(lambda: dispatcher.health()[0]["delivered"] == len(SENT))
        await _until_read(tmp_path, lambda read: len(read) == len(SENT))
    assert total_bytes(list(_read(tmp_path).values())) == total_bytes(SENT)


async def test_a_stall_beyond_the_write_timeout_loses_nothing(
    tmp_path: Path,
) -> None:
    (port,) = free_ports(1)
    with _listening(tmp_path, port, 1 << 16) as listener:
        listener.wait_for("listens")
        async with delivering(TcpSink, _settings(port), patience=20) as dispatcher:
            await _publish(dispatcher, range(10))
            _stall(listener)
            await _publish(dispatcher, range(10, WINDOWS))
            await until(lambda: dispatcher.health()[0]["retries"])
            listener.process.send_signal(signal.SIGCONT)
            await until(lambda: dispatcher.health()[0]["delivered"] == len(SENT))
        await _until_read(tmp_path, lambda read: len(read) == len(SENT))
    assert total_bytes(list(_read(tmp_path).values())) == total_bytes(SENT)


@pytest.mark.parametrize("how", ["killed", "reset"])
async def test_a_listener_that_dies_loses_only_lines_that_it_had_not_read(
    tmp_path: Path, how: str
) -> None:
    (port,) = free_ports(1)
    buffer = 1 << 15  # the kernel doubles it: socket(7)
    async with delivering(TcpSink, _settings(port), patience=20) as dispatcher:
        with _listening(tmp_path, port, buffer) as listener:
            listener.wait_for("listens")
            await _publish(dispatcher, range(20))
            if how == "killed":
                listener.process.kill()
                listener.wait()
            else:
                listener.process.send_signal(signal.SIGUSR2)
            await _publish(dispatcher, range(20, 40))
            if how == "reset":
                await _until_read(tmp_path, lambda read: len(read) > 25 * RECORDS)
        with _listening(tmp_path, port) as listener:
            listener.wait_for("listens")
            await _publish(dispatcher, range(40, WINDOWS))
            await until(lambda: dispatcher.health()[0]["delivered"] == len(SENT))
            await _until_read(tmp_path, lambda read: len(SENT) - 1 in read)
    received = _read(tmp_path)
    lost = [record for record in SENT if record["sequence"] not in received]
    assert total_bytes(list(received.values())) == total_bytes(SENT) - total_bytes(lost)
    # A gap for each broken connection, of less than a receive buffer.
    assert sum(len(json.dumps(record)) for record in lost) <= 2 * 2 * buffer


@pytest.fixture(scope="module", params=["rsyslogd", "syslog-ng"])
def installed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A receiver, and the root of its installation."""
    return request.param, install(request.param, tmp_path_factory.mktemp("receiver"))


@pytest.fixture(params=["plain", "tls"])
def receiver(
    request: pytest.FixtureRequest,
    installed: tuple[str, Path],
    certificates: Certificates,
    tmp_path: Path,
) -> Receiver:
    secured = certificates if request.param == "tls" else None
    return Receiver(installed[0], tmp_path, free_ports(1)[0], secured)


def _settings_for(receiver: Receiver, client: str = "client") -> TcpSettings:
    files = receiver.certificates
    tls = None
    if files:
        tls = TlsSettings(
            ca=files.path("ca.pem"),
            certificate=files.path(f"{client}.pem"),
            key=files.path(f"{client}.key"),
        )
    return _settings(receiver.port, tls)


async def test_a_receiver_restarted_between_windows_loses_nothing(
    receiver: Receiver, installed: tuple[str, Path]
) -> None:
    folder = receiver.folder
    async with delivering(TcpSink, _settings_for(receiver), patience=20) as dispatcher:
        with receiver.run(installed[1]) as run:
            await _publish(dispatcher, range(20))
            await _until_read(folder, lambda read: len(read) == 20 * RECORDS)
            run.end(signal.SIGTERM)
        await _publish(dispatcher, range(20, 40))
        with receiver.run(installed[1]):
            await _publish(dispatcher, range(40, WINDOWS))
            await until(lambda: dispatcher.health()[0]["delivered"] == len(SENT))
            await _until_read(folder, lambda read: len(read) == len(SENT))
    assert total_bytes(list(_read(folder).values())) == total_bytes(SENT)


async def test_a_killed_receiver_gets_all_later_records(
    receiver: Receiver, installed: tuple[str, Path]
) -> None:
    folder = receiver.folder
    async with delivering(TcpSink, _settings_for(receiver), patience=20) as dispatcher:
        with receiver.run(installed[1]) as run:
            await _publish(dispatcher, range(20))
            run.process.kill()
            run.wait()
        written = set(_read(folder))
        before = dispatcher.health()[0]["retries"]
        await _publish(dispatcher, range(20, WINDOWS))
        await until(lambda: dispatcher.health()[0]["retries"] > before)
        delivered = dispatcher.health()[0]["delivered"]
        with receiver.run(installed[1]):
            await until(lambda: dispatcher.health()[0]["delivered"] == len(SENT))
            await _until_read(folder, lambda read: set(range(delivered, len(SENT))) <= read.keys())
    received = _read(folder)
    # Only records that it had read and not written when it was killed are lost.
    lost = {record["sequence"] for record in SENT} - set(received)
    assert all(max(written, default=0) < sequence < delivered for sequence in lost)
    assert total_bytes(list(received.values())) == total_bytes(
        [record for record in SENT if record["sequence"] not in lost]
    )


@pytest.mark.parametrize("own", ["untrusted", None])
async def test_a_receiver_that_refuses_the_certificate_costs_no_record(
    installed: tuple[str, Path], certificates: Certificates, tmp_path: Path, own: str | None
) -> None:
    receiver = Receiver(installed[0], tmp_path, free_ports(1)[0], certificates)
    tls = TlsSettings(
        ca=certificates.path("ca.pem"),
        certificate=certificates.path(f"{own}.pem") if own else None,
        key=certificates.path(f"{own}.key") if own else None,
    )
    with receiver.run(installed[1]):
        sink = TcpSink(_settings(receiver.port, tls))
        for _ in range(2):
            with pytest.raises(DeliveryError) as caught:
                await sink.write(_window(0))
            reason = "unknown ca" if own else "certificate required"
            assert str(caught.value) == (
                f"no connection to 127.0.0.1 port {receiver.port}: "
                f"it refuses this host's TLS: {reason}"
            )
        await sink.close()
    assert _read(tmp_path) == {}

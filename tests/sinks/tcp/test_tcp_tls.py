"""TLS: which certificates are accepted, and that a collector that refuses costs no record."""

import asyncio
import socket
import ssl
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from support.certificates import NAME, PASSWORD, Certificates
from support.collector import Collector, collecting
from support.sinks import traffic, until

from hogpipe.errors import ConfigurationError, DeliveryError
from hogpipe.sinks.connections import describe_connection_error
from hogpipe.sinks.tcp.connection import Connection
from hogpipe.sinks.tcp.tcp_sink import TcpSettings, TcpSink
from hogpipe.sinks.tls import TlsSettings, load_tls_context
from hogpipe.testing import opened


def _settings(collector: Collector, tls: TlsSettings) -> TcpSettings:
    return TcpSettings(type="tcp", host=collector.host, port=collector.port, tls=tls)


def _sink(settings: TcpSettings) -> AbstractAsyncContextManager[TcpSink]:
    return opened(TcpSink(settings))


async def _fail(settings: TcpSettings) -> str:
    with pytest.raises(DeliveryError) as caught:
        async with _sink(settings):
            pass
    return str(caught.value).partition(": ")[2]


async def test_windows_arrive_through_tls(certificates: Certificates) -> None:
    tls = TlsSettings(ca=certificates.path("ca.pem"))
    async with (
        collecting(tls=certificates.server_context()) as collector,
        _sink(_settings(collector, tls)) as sink,
    ):
        await sink.write([traffic(sequence) for sequence in range(3000)])
        await sink.write([traffic(3000)])
        await until(lambda: len(collector.sequences()) == 3001)
        assert collector.sequences() == list(range(3001))
    assert len(collector.received) == 1


async def test_a_server_without_session_tickets_is_accepted_after_a_second(
    certificates: Certificates,
) -> None:
    tls = TlsSettings(ca=certificates.path("ca.pem"))
    async with (
        collecting(tls=certificates.server_context(tickets=0)) as collector,
        _sink(_settings(collector, tls)) as sink,
    ):
        await sink.write([traffic(1)])
        await until(lambda: collector.sequences() == [1])


async def test_the_name_of_the_certificate_can_be_configured(certificates: Certificates) -> None:
    tls = TlsSettings(ca=certificates.path("ca.pem"), server_name=NAME)
    async with (
        collecting(tls=certificates.server_context()) as collector,
        _sink(_settings(collector, tls)) as sink,
    ):
        await sink.write([traffic(1)])
        await until(lambda: collector.sequences() == [1])


async def test_a_certificate_for_another_name_is_not_accepted(certificates: Certificates) -> None:
    tls = TlsSettings(ca=certificates.path("ca.pem"), server_name="other.test")
    async with collecting(tls=certificates.server_context()) as collector:
        reason = await _fail(_settings(collector, tls))
    assert reason == (
        "its certificate is not accepted: Hostname mismatch, certificate is not valid for "
        "'other.test'"
    )


@pytest.mark.parametrize("ca", ["untrusted.pem", None])
async def test_a_server_of_another_authority_is_not_accepted(
    certificates: Certificates, ca: str | None
) -> None:
    tls = TlsSettings(ca=certificates.path(ca) if ca else None)
    async with collecting(tls=certificates.server_context()) as collector:
        reason = await _fail(_settings(collector, tls))
        assert collector.sequences() == []
    assert reason.startswith("its certificate is not accepted: unable to get local issuer")


async def test_the_error_of_an_expired_certificate_says_so(certificates: Certificates) -> None:
    tls = TlsSettings(ca=certificates.path("ca.pem"))
    expired = certificates.server_context(certificate="expired.pem")
    async with collecting(tls=expired) as collector:
        reason = await _fail(_settings(collector, tls))
    assert reason == "its certificate is not accepted: certificate has expired"


async def test_tls_below_1_2_is_refused(certificates: Certificates) -> None:
    old = certificates.server_context()
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    context = await load_tls_context(TlsSettings(ca=certificates.path("ca.pem")))
    assert context is not None
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(back, there, server_hostname=NAME)
    server = old.wrap_bio(there, back, server_side=True)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    with pytest.raises(ssl.SSLError):
        server.do_handshake()
    with pytest.raises(ssl.SSLError) as caught:
        client.do_handshake()
    assert describe_connection_error(caught.value) == "it speaks no TLS 1.2 or later"


@pytest.mark.parametrize(("key", "password"), [("client.key", None), ("locked.key", PASSWORD)])
async def test_a_client_with_the_right_certificate_is_accepted(
    certificates: Certificates, key: str, password: str | None
) -> None:
    tls = TlsSettings(
        ca=certificates.path("ca.pem"),
        certificate=certificates.path("client.pem"),
        key=certificates.path(key),
        key_password=password,
    )
    async with (
        collecting(tls=certificates.server_context(ask_client=True)) as collector,
        _sink(_settings(collector, tls)) as sink,
    ):
        await sink.write([traffic(1)])
        await until(lambda: collector.sequences() == [1])


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("own", [None, "untrusted"])
async def test_a_refused_client_sends_nothing_and_keeps_its_window(
    certificates: Certificates, own: str | None, version: ssl.TLSVersion
) -> None:
    tls = TlsSettings(
        ca=certificates.path("ca.pem"),
        certificate=certificates.path(f"{own}.pem") if own else None,
        key=certificates.path(f"{own}.key") if own else None,
    )
    context = certificates.server_context(ask_client=True)
    context.maximum_version = version
    async with collecting(tls=context) as collector:
        sink = TcpSink(_settings(collector, tls))
        with pytest.raises(DeliveryError, match=r"^no connection to .*: \w+"):
            await sink.write([traffic(1)])
        await sink.close()
        assert collector.sequences() == []


async def test_the_error_of_a_server_without_tls_says_so(certificates: Certificates) -> None:
    tls = TlsSettings(ca=certificates.path("ca.pem"))
    async with collecting() as collector:
        settings = _settings(collector, tls)
        opening = asyncio.create_task(_fail(settings))
        await until(lambda: collector.writers)
        collector.writers[0].write(b"220 mail.test ESMTP\r\n")
        assert await opening == "no TLS: wrong version number"


async def test_a_silent_server_fails_by_time_out(certificates: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = TcpSettings(
            type="tcp",
            host="127.0.0.1",
            port=listener.getsockname()[1],
            connect_timeout=0.2,
            tls=TlsSettings(ca=certificates.path("ca.pem")),
        )
        assert await _fail(settings) == "no answer within 0.2 s"


async def test_after_a_reset_acknowledged_slices_are_not_sent_again(
    certificates: Certificates,
) -> None:
    window = [traffic(sequence) for sequence in range(30_000)]
    tls = TlsSettings(ca=certificates.path("ca.pem"))
    async with collecting(tls=certificates.server_context()) as collector:
        sink = TcpSink(_settings(collector, tls))
        await sink.open()
        await until(lambda: collector.writers)
        collector.reading.clear()
        write = asyncio.create_task(sink.write(window))
        assert sink._link is not None
        connection = sink._link.connection
        # Some lines are acknowledged, and the collector has stopped reading the others.
        await until(
            lambda: connection.acknowledged_lines and not connection._peer.writable.is_set()
        )
        collector.reset()
        with pytest.raises(DeliveryError) as caught:
            await write
        await sink.close()
    undelivered = caught.value.undelivered
    assert undelivered
    first = undelivered[0]["sequence"]
    assert first > 0
    assert first % 256 == 0
    assert [record["sequence"] for record in undelivered] == list(range(first, len(window)))


async def test_an_acknowledgement_during_the_count_delays_nothing(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = Connection._pending_bytes
    awaited = []

    def count_slowly(self: Connection) -> int:
        pending, before = count(self), self._acknowledged_bytes()
        if pending:
            awaited.append(pending)
            while self._acknowledged_bytes() == before:
                time.sleep(0.001)
        return pending

    monkeypatch.setattr(Connection, "_pending_bytes", count_slowly)
    tls = TlsSettings(ca=certificates.path("ca.pem"))
    async with (
        collecting(tls=certificates.server_context()) as collector,
        _sink(_settings(collector, tls)) as sink,
    ):
        async with asyncio.timeout(10):
            await sink.write([traffic(1)])
        assert awaited
        await until(lambda: collector.sequences() == [1])


async def test_renewed_files_are_used_for_the_next_connection(
    certificates: Certificates, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(certificates.path("untrusted.pem").read_bytes())
    async with collecting(tls=certificates.server_context()) as collector:
        sink = TcpSink(_settings(collector, TlsSettings(ca=ca)))
        with pytest.raises(DeliveryError, match="not accepted"):
            await sink.write([traffic(1)])
        ca.unlink()
        with pytest.raises(DeliveryError, match=r"tls\.ca: .*: No such file or directory"):
            await sink.write([traffic(1)])
        ca.write_bytes(certificates.path("ca.pem").read_bytes())
        await sink.write([traffic(1)])
        await until(lambda: collector.sequences() == [1])
        await sink.close()


async def test_missing_files_prevent_the_start(tmp_path: Path) -> None:
    settings = TcpSettings(
        type="tcp", host="127.0.0.1", port=1, tls=TlsSettings(ca=tmp_path / "none.pem")
    )
    with pytest.raises(ConfigurationError, match=r"^tls\.ca: .*none\.pem: No such file"):
        async with _sink(settings):
            pass

"""Connections and logins: addresses, certificates, passwords.

The mock cluster supports neither TLS nor SASL: a proxy in front of it does, and forwards the rest.
"""

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from hogpipe_kafka import KafkaSettings, KafkaSink

from hogpipe import ConfigurationError, DeliveryError, TlsSettings
from hogpipe.testing import RecordMaker, opened

HANDSHAKE, API_VERSIONS, AUTHENTICATE = 17, 18, 36  # kafka.apache.org/protocol, API keys
NOT_AUTHENTICATED = 58


class LoginProxy:
    """A proxy to the broker that may require TLS and a password (SASL PLAIN)."""

    def __init__(self, broker: Any, tls: ssl.SSLContext | None, password: str | None) -> None:
        self._broker, self._tls, self.password = broker, tls, password
        self._mechanisms = ("PLAIN",)

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._broker.command("advertise", "127.0.0.1", self.port)

    async def close(self) -> None:
        self._server.close()
        await asyncio.sleep(0.05)  # until the connections have ended

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_broker, to_broker = await asyncio.open_connection("127.0.0.1", self._broker.port)
        logged_in = self.password is None
        try:
            while True:
                request = await _frame(reader)
                key, _version, correlation = struct.unpack_from(">hhi", request)
                if key == HANDSHAKE:
                    answer = struct.pack(">ihih5s", correlation, 0, 1, 5, b"PLAIN")
                elif key == AUTHENTICATE:
                    logged_in = f"\0me\0{self.password}".encode() in request
                    error = 0 if logged_in else NOT_AUTHENTICATED
                    answer = struct.pack(">ihhi", correlation, error, -1, 0)
                elif logged_in or key == API_VERSIONS:
                    to_broker.write(struct.pack(">i", len(request)) + request)
                    answer = await _frame(from_broker)
                    if key == API_VERSIONS:
                        answer = _with_login(answer)
                else:
                    break
                writer.write(struct.pack(">i", len(answer)) + answer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # either side may leave
        finally:
            for end in (writer, to_broker):
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(size)


def _with_login(answer: bytes) -> bytes:
    """Return an answer of version 0 that offers the requests of SASL, too."""
    correlation, error, count = struct.unpack_from(">ihi", answer)
    more = struct.pack(">hhhhhh", HANDSHAKE, 0, 1, AUTHENTICATE, 0, 0)
    return struct.pack(">ihi", correlation, error, count + 2) + answer[10:] + more


@contextlib.asynccontextmanager
async def login_proxy(
    broker: Any, tls: ssl.SSLContext | None = None, password: str | None = None
) -> AsyncIterator[LoginProxy]:
    made = LoginProxy(broker, tls, password)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


def settings_for(place: Any, **changes: Any) -> KafkaSettings:
    return KafkaSettings(**{"type": "kafka", "servers": (place.address,), **changes})


async def delivers(settings: KafkaSettings) -> None:
    async with opened(KafkaSink(settings)) as sink:
        await sink.write(RecordMaker().window(3))


async def fails_for_now(settings: KafkaSettings) -> str:
    """Return the text of the DeliveryError."""
    with pytest.raises(DeliveryError) as caught:
        await delivers(settings)
    text = str(caught.value)
    assert "\n" not in text
    assert "secret" not in text
    return text


@pytest.fixture
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(ca: trustme.CA, tmp_path: Path) -> Iterator[Path]:
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path / "ca.pem"


def context_for(ca: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert(name).configure_cert(context)
    return context


async def test_an_error_names_a_broker_that_is_down(broker: Any) -> None:
    broker.kill()
    assert await fails_for_now(settings_for(broker)) == f"{broker.address}: Connection refused"


async def test_an_error_names_a_host_that_does_not_resolve() -> None:
    settings = KafkaSettings(type="kafka", servers=("nowhere.invalid", "elsewhere.invalid:1"))
    first, second = (await fails_for_now(settings)).split("; ")
    assert first.startswith("nowhere.invalid:9092: ")
    assert second.startswith("elsewhere.invalid:1: ")
    assert "nam" in first.lower()


async def test_a_silent_broker_fails_by_time_out(broker: Any) -> None:
    async with broker.stall():
        text = await fails_for_now(settings_for(broker, connect_timeout=0.1))
    assert text == f"{broker.address}: no answer within 0.1 s"


async def test_the_next_server_is_tried_where_one_is_down(broker: Any) -> None:
    await delivers(settings_for(broker, servers=("127.0.0.1:1", broker.address)))


async def test_a_certificate_of_the_ca_is_accepted(
    broker: Any, ca: trustme.CA, ca_file: Path
) -> None:
    async with login_proxy(broker, context_for(ca)) as proxy:
        await delivers(settings_for(proxy, tls=TlsSettings(ca=ca_file)))


async def test_a_certificate_of_another_ca_or_name_is_refused(
    broker: Any, ca: trustme.CA, ca_file: Path
) -> None:
    async with login_proxy(broker, context_for(trustme.CA())) as proxy:
        text = await fails_for_now(settings_for(proxy, tls=TlsSettings(ca=ca_file)))
        assert text.startswith(f"{proxy.address}: its certificate is not accepted: ")
    async with login_proxy(broker, context_for(ca, "elsewhere.example.org")) as proxy:
        text = await fails_for_now(settings_for(proxy, tls=TlsSettings(ca=ca_file)))
        assert "IP address mismatch" in text


async def test_a_broker_without_tls_is_refused_where_tls_is_configured(
    broker: Any, ca_file: Path
) -> None:
    login = {"user": "me", "password": "secret"}
    text = await fails_for_now(
        settings_for(broker, tls=TlsSettings(ca=ca_file), connect_timeout=0.5, **login)
    )
    assert text.startswith(f"{broker.address}: ")


async def test_a_user_logs_in_with_the_right_password_only(
    broker: Any, ca: trustme.CA, ca_file: Path
) -> None:
    tls = TlsSettings(ca=ca_file)
    async with login_proxy(broker, context_for(ca), "secret") as proxy:
        await delivers(settings_for(proxy, tls=tls, user="me", password="secret"))
        text = await fails_for_now(settings_for(proxy, tls=tls, user="me", password="wrong"))
        assert text == f"{proxy.address}: it refuses user and password"
        login = {"user": "me", "password": "secret", "mechanism": "SCRAM-SHA-256"}
        text = await fails_for_now(settings_for(proxy, tls=tls, **login))
        assert text == f"{proxy.address}: it does not take this mechanism"
        text = await fails_for_now(settings_for(proxy, tls=tls))
        assert "it may want TLS, or user and password" in text


async def test_a_password_corrected_on_the_broker_needs_no_restart(broker: Any) -> None:
    window = RecordMaker().window(3)
    async with login_proxy(broker, password="old") as proxy:
        sink = KafkaSink(settings_for(proxy, user="me", password="new"))
        with pytest.raises(DeliveryError, match="it refuses user and password"):
            await sink.write(window)
        proxy.password = "new"
        await sink.write(window)
        await sink.close()


async def test_an_error_names_a_file_that_cannot_be_used(broker: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"tls\.ca: .*none\.pem: No such file"):
        await delivers(settings_for(broker, tls=TlsSettings(ca=tmp_path / "none.pem")))

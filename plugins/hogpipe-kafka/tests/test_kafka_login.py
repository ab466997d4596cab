"""Who is there, and who may in: addresses, certificates, passwords.

The mock cluster knows neither TLS nor SASL: a gate in front of it does, and hands on the rest.
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
from hogpipe.testing import RecordMaker

HANDSHAKE, API_VERSIONS, AUTHENTICATE = 17, 18, 36  # kafka.apache.org/protocol, API keys
NOT_AUTHENTICATED = 58


class Gate:
    """A door to the broker that may want TLS and a password (SASL PLAIN)."""

    def __init__(self, broker: Any, tls: ssl.SSLContext | None, password: str | None) -> None:
        self._broker, self._tls, self.password = broker, tls, password
        self._mechanisms = ("PLAIN",)

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._broker.tell("advertise", "127.0.0.1", self.port)

    async def close(self) -> None:
        self._server.close()
        await asyncio.sleep(0.05)  # for the connections to end

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", self._broker.port)
        may_pass = self.password is None
        try:
            while True:
                request = await _frame(reader)
                key, _version, correlation = struct.unpack_from(">hhi", request)
                if key == HANDSHAKE:
                    answer = struct.pack(">ihih5s", correlation, 0, 1, 5, b"PLAIN")
                elif key == AUTHENTICATE:
                    may_pass = f"\0me\0{self.password}".encode() in request
                    error = 0 if may_pass else NOT_AUTHENTICATED
                    answer = struct.pack(">ihhi", correlation, error, -1, 0)
                elif may_pass or key == API_VERSIONS:
                    forth.write(struct.pack(">i", len(request)) + request)
                    answer = await _frame(back)
                    if key == API_VERSIONS:
                        answer = _with_login(answer)
                else:
                    break
                writer.write(struct.pack(">i", len(answer)) + answer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # either side may leave
        finally:
            for end in (writer, forth):
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(size)


def _with_login(answer: bytes) -> bytes:
    """Return an answer of version 0 that knows the requests of SASL, too."""
    correlation, error, count = struct.unpack_from(">ihi", answer)
    more = struct.pack(">hhhhhh", HANDSHAKE, 0, 1, AUTHENTICATE, 0, 0)
    return struct.pack(">ihi", correlation, error, count + 2) + answer[10:] + more


@contextlib.asynccontextmanager
async def gate(
    broker: Any, tls: ssl.SSLContext | None = None, password: str | None = None
) -> AsyncIterator[Gate]:
    made = Gate(broker, tls, password)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


def settings_for(place: Any, **changes: Any) -> KafkaSettings:
    return KafkaSettings(**{"type": "kafka", "servers": (place.address,), **changes})


async def delivers(settings: KafkaSettings) -> None:
    """Open and write."""
    sink = KafkaSink(settings)
    try:
        await sink.open()
        await sink.write(RecordMaker().window(3))
    finally:
        await sink.close()


async def why_not(settings: KafkaSettings) -> str:
    """Return why it could not be opened for now."""
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


async def test_a_broker_that_is_down_is_named(broker: Any) -> None:
    broker.end()
    assert await why_not(settings_for(broker)) == f"{broker.address}: Connection refused"


async def test_a_name_that_does_not_resolve_is_named() -> None:
    settings = KafkaSettings(type="kafka", servers=("nowhere.invalid", "elsewhere.invalid:1"))
    first, second = (await why_not(settings)).split("; ")
    assert first.startswith("nowhere.invalid:9092: ")
    assert second.startswith("elsewhere.invalid:1: ")
    assert "nam" in first.lower()


async def test_a_broker_that_says_nothing_is_given_up(broker: Any) -> None:
    broker.pause()
    text = await why_not(settings_for(broker, connect_timeout=0.1))
    assert text == f"{broker.address}: no answer within 0.1 s"


async def test_the_next_server_is_tried_where_one_is_down(broker: Any) -> None:
    await delivers(settings_for(broker, servers=("127.0.0.1:1", broker.address)))


async def test_a_broker_with_a_certificate_of_the_ca_is_talked_to(
    broker: Any, ca: trustme.CA, ca_file: Path
) -> None:
    async with gate(broker, context_for(ca)) as door:
        await delivers(settings_for(door, tls=TlsSettings(ca=ca_file)))


async def test_a_broker_with_another_certificate_is_not(
    broker: Any, ca: trustme.CA, ca_file: Path
) -> None:
    async with gate(broker, context_for(trustme.CA())) as door:
        text = await why_not(settings_for(door, tls=TlsSettings(ca=ca_file)))
        assert text.startswith(f"{door.address}: its certificate is not accepted: ")
    async with gate(broker, context_for(ca, "elsewhere.example.org")) as door:
        text = await why_not(settings_for(door, tls=TlsSettings(ca=ca_file)))
        assert "IP address mismatch" in text


async def test_a_broker_without_tls_is_not_talked_to_where_it_was_asked_for(
    broker: Any, ca_file: Path
) -> None:
    login = {"user": "me", "password": "secret"}
    text = await why_not(
        settings_for(broker, tls=TlsSettings(ca=ca_file), connect_timeout=0.5, **login)
    )
    assert text.startswith(f"{broker.address}: ")


async def test_a_user_gets_in_with_the_right_password_only(
    broker: Any, ca: trustme.CA, ca_file: Path
) -> None:
    tls = TlsSettings(ca=ca_file)
    async with gate(broker, context_for(ca), "secret") as door:
        await delivers(settings_for(door, tls=tls, user="me", password="secret"))
        text = await why_not(settings_for(door, tls=tls, user="me", password="wrong"))
        assert text == f"{door.address}: it refuses user and password"
        login = {"user": "me", "password": "secret", "mechanism": "SCRAM-SHA-256"}
        text = await why_not(settings_for(door, tls=tls, **login))
        assert text == f"{door.address}: it does not take this mechanism"
        text = await why_not(settings_for(door, tls=tls))
        assert "it may want TLS, or user and password" in text


async def test_a_password_that_is_mended_on_the_broker_is_enough(broker: Any) -> None:
    window = RecordMaker().window(3)
    async with gate(broker, password="old") as door:
        sink = KafkaSink(settings_for(door, user="me", password="new"))
        with pytest.raises(DeliveryError, match="it refuses user and password"):
            await sink.write(window)
        door.password = "new"
        await sink.write(window)
        await sink.close()


async def test_a_file_that_cannot_be_used_is_named(broker: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"tls\.ca: .*none\.pem: No such file"):
        await delivers(settings_for(broker, tls=TlsSettings(ca=tmp_path / "none.pem")))

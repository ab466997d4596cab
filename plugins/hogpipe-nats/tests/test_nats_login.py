"""Logins: passwords, tokens, credentials files, certificates."""

import base64
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nkeys
import pytest
import trustme
from hogpipe_nats import NatsSettings, NatsSink

from hogpipe import ConfigurationError, DeliveryError, TlsSettings
from hogpipe.testing import RecordMaker, opened

REFUSED = "the server refuses user, password, token or credentials"


def settings_for(server: Any, **changes: Any) -> NatsSettings:
    return NatsSettings(**{"type": "nats", "servers": (server.url,), **changes})


async def delivers(settings: NatsSettings) -> None:
    async with opened(NatsSink(settings)) as sink:
        await sink.write(RecordMaker().window(3))


async def fails_for_now(settings: NatsSettings) -> str:
    """Return the text of the DeliveryError."""
    with pytest.raises(DeliveryError) as caught:
        await delivers(settings)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def fails_for_good(settings: NatsSettings) -> str:
    """Return the text of the ConfigurationError, with which a run does not start."""
    with pytest.raises(ConfigurationError) as caught:
        await delivers(settings)
    (problem,) = caught.value.problems
    return problem


async def test_a_user_logs_in_with_the_right_password_only(make_server: Any) -> None:
    server = make_server('authorization: {user: "me", password: "secret"}')
    await server.start()
    await delivers(settings_for(server, user="me", password="secret"))
    text = await fails_for_now(settings_for(server, user="me", password="wrong"))
    assert text == f"127.0.0.1:{server.port}: {REFUSED}"
    assert REFUSED in await fails_for_now(settings_for(server))


async def test_a_token_logs_in(make_server: Any) -> None:
    server = make_server('authorization: {token: "secret"}')
    await server.start()
    await delivers(settings_for(server, token="secret"))
    assert REFUSED in await fails_for_now(settings_for(server, token="wrong"))


async def test_a_password_in_the_url_is_in_no_error(make_server: Any) -> None:
    server = make_server('authorization: {user: "me", password: "good"}')
    await server.start()
    await delivers(settings_for(server, servers=(f"nats://me:good@127.0.0.1:{server.port}",)))
    url = f"nats://me:secret@127.0.0.1:{server.port}"
    assert REFUSED in await fails_for_now(settings_for(server, servers=(url,)))


async def test_a_password_corrected_on_the_server_needs_no_restart(make_server: Any) -> None:
    server = make_server('authorization: {user: "me", password: "old"}')
    await server.start()
    sink = NatsSink(settings_for(server, user="me", password="new"))
    window = RecordMaker().window(3)
    with pytest.raises(DeliveryError, match=REFUSED):
        await sink.write(window)
    server.kill()
    server.configure('authorization: {user: "me", password: "new"}')
    await server.start()
    await sink.write(window)
    await sink.close()


# --- TLS


@pytest.fixture
def ca() -> trustme.CA:
    return trustme.CA()


def pem(path: Path, *blobs: Any) -> Path:
    path.write_bytes(b"".join(blob.bytes() for blob in blobs))
    return path


def tls_config(folder: Path, ca: trustme.CA, name: str = "127.0.0.1", more: str = "") -> str:
    issued = ca.issue_cert(name)
    certificate = pem(folder / "server.pem", *issued.cert_chain_pems)
    key = pem(folder / "server.key", issued.private_key_pem)
    pem(folder / "ca.pem", ca.cert_pem)
    files = f'cert_file: "{certificate}", key_file: "{key}", ca_file: "{folder / "ca.pem"}"'
    return f"tls: {{{files}, timeout: 5{more}}}"


async def test_a_certificate_of_the_ca_is_accepted(
    make_server: Any, ca: trustme.CA, tmp_path: Path
) -> None:
    server = make_server(tls_config(tmp_path, ca))
    await server.start()
    await delivers(settings_for(server, tls=TlsSettings(ca=tmp_path / "ca.pem")))


async def test_a_certificate_of_another_ca_is_refused(
    make_server: Any, ca: trustme.CA, tmp_path: Path
) -> None:
    server = make_server(tls_config(tmp_path, ca))
    await server.start()
    other = pem(tmp_path / "other.pem", trustme.CA().cert_pem)
    text = await fails_for_now(settings_for(server, tls=TlsSettings(ca=other)))
    assert "its certificate is not accepted: " in text
    text = await fails_for_now(settings_for(server, servers=(f"tls://127.0.0.1:{server.port}",)))
    assert "its certificate is not accepted: " in text


async def test_a_certificate_for_another_name_is_refused(
    make_server: Any, ca: trustme.CA, tmp_path: Path
) -> None:
    server = make_server(tls_config(tmp_path, ca, name="elsewhere.example.org"))
    await server.start()
    text = await fails_for_now(settings_for(server, tls=TlsSettings(ca=tmp_path / "ca.pem")))
    assert "IP address mismatch" in text


async def test_a_client_certificate_is_presented(
    make_server: Any, ca: trustme.CA, tmp_path: Path
) -> None:
    server = make_server(tls_config(tmp_path, ca, more=", verify: true"))
    await server.start()
    mine = ca.issue_cert("client.example.org")
    certificate = pem(tmp_path / "client.pem", *mine.cert_chain_pems)
    key = pem(tmp_path / "client.key", mine.private_key_pem)
    tls = TlsSettings(ca=tmp_path / "ca.pem", certificate=certificate, key=key)
    await delivers(settings_for(server, tls=tls))
    text = await fails_for_now(settings_for(server, tls=TlsSettings(ca=tmp_path / "ca.pem")))
    assert text.startswith(f"127.0.0.1:{server.port}: ")


async def test_a_password_is_not_sent_unencrypted_where_tls_is_configured(
    make_server: Any, ca: trustme.CA, tmp_path: Path
) -> None:
    server = make_server("trace: true")
    await server.start()
    pem(tmp_path / "ca.pem", ca.cert_pem)
    url = f"tls://127.0.0.1:{server.port}"
    login = {"user": "me", "password": "secret"}
    text = await fails_for_now(settings_for(server, servers=(url,), **login))
    assert text == f"127.0.0.1:{server.port}: the server offers no TLS"
    text = await fails_for_now(
        settings_for(server, tls=TlsSettings(ca=tmp_path / "ca.pem"), **login)
    )
    assert text == f"127.0.0.1:{server.port}: the server offers no TLS"
    async with server.client():
        pass  # a login that the server does trace
    assert server.log.read_text().count("<<- [CONNECT") == 1


async def test_an_error_names_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    tls = TlsSettings(ca=tmp_path / "none")
    settings = NatsSettings(type="nats", servers=("127.0.0.1:1",), tls=tls)
    assert (
        await fails_for_good(settings) == f"tls.ca: {tmp_path / 'none'}: No such file or directory"
    )


# --- credentials files: an operator, an account and a user of its own (docs.nats.io, JWT)


class Identity:
    """A key pair, and what it signs."""

    def __init__(self, prefix: int) -> None:
        seed = bytes(nkeys.encode_seed(os.urandom(32), prefix))
        self.seed = seed.decode()
        self._pair = nkeys.from_seed(bytearray(seed))
        self.public = bytes(self._pair.public_key).decode()

    def sign(self, subject: "Identity", nats: dict[str, Any]) -> str:
        """Return a JWT with claims on `subject`."""
        claims = {
            "iat": int(time.time()),
            "iss": self.public,
            "name": "test",
            "sub": subject.public,
            "nats": {"version": 2, **nats},
        }
        digest = hashlib.sha256(json.dumps(claims).encode()).digest()
        claims["jti"] = base64.b32encode(digest).decode().rstrip("=")
        head = _encode(json.dumps({"typ": "JWT", "alg": "ed25519-nkey"}).encode())
        signed = f"{head}.{_encode(json.dumps(claims).encode())}"
        return f"{signed}.{_encode(bytes(self._pair.sign(signed.encode())))}"


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def write_credentials(path: Path, jwt: str, seed: str) -> Path:
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
    return path


async def test_a_credentials_file_logs_in(make_server: Callable[..., Any], tmp_path: Path) -> None:
    operator = Identity(nkeys.PREFIX_BYTE_OPERATOR)
    account = Identity(nkeys.PREFIX_BYTE_ACCOUNT)
    user = Identity(nkeys.PREFIX_BYTE_USER)
    limits = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
    storage = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
    account_jwt = operator.sign(account, {"type": "account", "limits": {**limits, **storage}})
    user_jwt = account.sign(user, {"type": "user", "subs": -1, "data": -1, "payload": -1})
    system = Identity(nkeys.PREFIX_BYTE_ACCOUNT)
    system_jwt = operator.sign(system, {"type": "account", "limits": limits})
    preload = f"{account.public}: {account_jwt}, {system.public}: {system_jwt}"
    server = make_server(
        f"operator: {operator.sign(operator, {'type': 'operator'})}\n"
        f"system_account: {system.public}\n"
        f"resolver: MEMORY\nresolver_preload: {{{preload}}}"
    )
    await server.start()
    good = write_credentials(tmp_path / "good.creds", user_jwt, user.seed)
    await delivers(settings_for(server, credentials=good))
    other = Identity(nkeys.PREFIX_BYTE_USER)
    bad = write_credentials(tmp_path / "bad.creds", user_jwt, other.seed)
    assert REFUSED in await fails_for_now(settings_for(server, credentials=bad))


@pytest.mark.parametrize("content", ["", "no credentials", "-----BEGIN NATS USER JWT-----\n"])
async def test_an_error_names_a_file_without_credentials(content: str, tmp_path: Path) -> None:
    path = tmp_path / "user.creds"
    path.write_text(content)
    settings = NatsSettings(type="nats", servers=("127.0.0.1:1",), credentials=path)
    assert str(path) in await fails_for_good(settings)
    path.unlink()
    assert await fails_for_good(settings) == f"credentials: {path}: No such file or directory"
    os.mkfifo(path)
    assert await fails_for_good(settings) == f"credentials: {path}: not a regular file"


@pytest.mark.parametrize("seed", ["seed", "\u00e9", "=", ""])
async def test_an_error_names_a_file_with_an_invalid_seed(seed: str, tmp_path: Path) -> None:
    path = write_credentials(tmp_path / "user.creds", "jwt", seed)
    settings = NatsSettings(type="nats", servers=("127.0.0.1:1",), credentials=path)
    assert str(path) in await fails_for_good(settings)

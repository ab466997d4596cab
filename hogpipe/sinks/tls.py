"""TLS for sinks that open connections: the `tls` table, and the client context that it describes.

The context always verifies the peer's certificate and its name. The files are read for each
connection, so certificates can be renewed while hogpipe runs. A file that cannot be read or that
holds something else is a `SettingProblem`: `hogpipe check` reports it, loading raises it.
"""

import asyncio
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from hogpipe.files import read_regular
from hogpipe.sinks.contract import SettingProblem, raise_problems

_NO = "no name or address"


class TlsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The `tls` table of a sink; an empty one means TLS with the system's authorities."""

    ca: Path | None = None
    """The certificates (PEM) of the trusted authorities; the system's if absent."""
    certificate: Path | None = None
    """The certificate (PEM) of this host, with those between it and its authority."""
    key: Path | None = None
    """The private key (PEM) of `certificate`; in the same file if absent."""
    key_password: str | None = None
    """The password of `key`."""
    server_name: Annotated[str, Meta(min_length=1)] | None = None
    """The name that the peer's certificate must have; the host of the connection if absent."""

    def __repr__(self) -> str:
        """Show no value: `key_password` is a secret, and any other may be."""
        return "<TlsSettings>"


def find_tls_problems(tls: TlsSettings | None) -> Sequence[SettingProblem]:
    """Return what is wrong with the files and the name of a `tls` table; reads the files."""
    return () if tls is None else _load_context(tls)[1]


async def load_tls_context(tls: TlsSettings | None) -> ssl.SSLContext | None:
    """Return a client context, None without a `tls` table; a thread reads the files.

    Raises ConfigurationError for a file that cannot be used.
    """
    if tls is None:
        return None
    context, problems = await asyncio.to_thread(_load_context, tls)
    raise_problems(problems)
    return context


def _load_context(tls: TlsSettings) -> tuple[ssl.SSLContext, list[SettingProblem]]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and name; TLS >= 1.2
    problems = [
        _load_authorities(context, tls.ca),
        _load_identity(context, tls),
        _check_name(tls.server_name),
    ]
    return context, [problem for problem in problems if problem is not None]


def _load_authorities(context: ssl.SSLContext, ca: Path | None) -> SettingProblem | None:
    if ca is None:
        context.load_default_certs()
        return None
    if problem := _find_unreadable("ca", ca):
        return problem
    try:
        context.load_verify_locations(ca)
    except (OSError, ValueError):  # ssl.SSLError is an OSError; its text names no file
        return _problem("ca", ca, "holds no certificate (PEM)")
    return None


def _check_name(name: str | None) -> SettingProblem | None:
    """Find a name for which `ssl` would raise ValueError or TypeError when it connects."""
    try:
        usable = name is None or (bool(name.encode("idna")) and "\0" not in name)
    except UnicodeError:
        usable = False
    return None if usable else SettingProblem(("tls", "server_name"), f"{name}: {_NO}", _NO)


def _load_identity(context: ssl.SSLContext, tls: TlsSettings) -> SettingProblem | None:
    if tls.certificate is None:
        alone = "key" if tls.key else "key_password" if tls.key_password else None
        return _problem(alone, None, "only with tls.certificate") if alone else None
    if problem := _find_unreadable("certificate", tls.certificate):
        return problem
    if tls.key and (problem := _find_unreadable("key", tls.key)):
        return problem
    if _load_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), tls.certificate):
        return _problem("certificate", tls.certificate, "holds no certificate (PEM)")
    encrypted = False

    def read_password() -> str:
        nonlocal encrypted
        encrypted = True
        return tls.key_password or ""

    try:
        # Without a function, OpenSSL would prompt on the terminal.
        context.load_cert_chain(tls.certificate, tls.key, read_password)
    except (OSError, ValueError) as error:
        return _describe_key_error(tls, error, encrypted=encrypted)
    return None


def _describe_key_error(tls: TlsSettings, error: Exception, *, encrypted: bool) -> SettingProblem:
    """Return why the key cannot be used with its certificate."""
    if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
        return _problem("key", tls.key or tls.certificate, "is not the key of tls.certificate")
    if encrypted:
        text = "does not decrypt the key" if tls.key_password else "required: the key is encrypted"
        return _problem("key_password", None, text)
    return _problem("key", tls.key or tls.certificate, "holds no private key (PEM)")


def _find_unreadable(key: str, path: Path) -> SettingProblem | None:
    try:
        read_regular(path, 1)
    except OSError as error:
        return _problem(key, path, f"{error.strerror}", colon=":")
    return None


def _problem(key: str, path: Path | None, text: str, *, colon: str = "") -> SettingProblem:
    quoted = f"{path}{colon} {text}" if path else text
    return SettingProblem(("tls", key), quoted, text)

"""The login: from the settings, and the files that they name."""

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nats.aio.client import RawCredentials

from hogpipe import SettingProblem, find_tls_problems, load_tls_context, raise_problems
from hogpipe_nats.settings import NatsSettings

try:
    import nkeys
except ImportError:  # needed for credentials files only
    nkeys = None

_JWT = "-----BEGIN NATS USER JWT-----"
_SEED = "-----BEGIN USER NKEY SEED-----"


@dataclass(frozen=True, slots=True)
class Login:
    """The parts of a login; absent parts are None."""

    user: str | None = None
    password: str | None = None
    token: str | None = None
    credentials: RawCredentials | None = None
    tls: ssl.SSLContext | None = None
    """With a context, the connection must be encrypted."""


async def read_login(settings: NatsSettings) -> Login:
    """Return the login; read for each connection, as certificates are renewed during a run.

    Raises ConfigurationError for files that cannot be used. A thread reads them.
    """
    credentials, problems = await asyncio.to_thread(_load_credentials, settings.credentials)
    raise_problems(problems)
    context = await load_tls_context(settings.encryption)
    return Login(settings.user, settings.password, settings.token, credentials, context)


def find_login_problems(settings: NatsSettings) -> Iterator[SettingProblem]:
    """Find files that cannot be used; reads them."""
    yield from _load_credentials(settings.credentials)[1]
    yield from find_tls_problems(settings.encryption)


def _load_credentials(path: Path | None) -> tuple[RawCredentials | None, list[SettingProblem]]:
    if path is None:
        return None, []
    try:
        return _read_credentials(path), []
    except ValueError as error:
        return None, [SettingProblem(("credentials",), f"{path}: {error}", str(error))]


def _read_credentials(path: Path) -> RawCredentials:
    """Return the content of a credentials file; ValueError for what nats-py cannot use."""
    if nkeys is None:
        raise ValueError("the package nkeys is missing: pip install nkeys")
    if path.exists() and not path.is_file():  # a FIFO, whose reading would wait
        raise ValueError("not a regular file")
    try:
        content = path.read_text()
        content.index(_JWT)  # without it nats-py would search forever
        seed = content.partition(_SEED)[2].split()[0]
        nkeys.from_seed(bytearray(seed.encode())).wipe()
    except OSError as error:
        raise ValueError(error.strerror) from error
    except (ValueError, IndexError, nkeys.NkeysError) as error:
        raise ValueError("it does not hold a user's JWT and seed") from error
    return RawCredentials(content)

"""How to get in: what the settings say, and the files that they name."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from nats.aio.client import RawCredentials

from hogpipe import SettingProblem, load_tls_context
from hogpipe_nats.settings import NatsSettings

try:
    import nkeys
except ImportError:  # only who has a credentials file needs it
    nkeys = None

_JWT = "-----BEGIN NATS USER JWT-----"
_SEED = "-----BEGIN USER NKEY SEED-----"


@dataclass(frozen=True, slots=True)
class Login:
    """What a server may ask for; absent parts are None."""

    user: str | None = None
    password: str | None = None
    token: str | None = None
    credentials: RawCredentials | None = None
    tls: ssl.SSLContext | None = None
    """The connection must be encrypted if there is one."""


def read_login(settings: NatsSettings) -> tuple[Login, list[SettingProblem]]:
    """Return how to log in, and what is wrong with the files: it is of use only if nothing is.

    Files are to be read for each connection: certificates are renewed while a run goes on.
    """
    problems: list[SettingProblem] = []
    credentials, context = None, None
    if settings.credentials is not None:
        try:
            credentials = _read_credentials(settings.credentials)
        except ValueError as error:
            text = f"{settings.credentials}: {error}"
            problems.append(SettingProblem(("credentials",), text, str(error)))
    if (tls := settings.encryption) is not None:
        context, found = load_tls_context(tls)
        problems += found
    login = Login(settings.user, settings.password, settings.token, credentials, context)
    return login, problems


def _read_credentials(path: Path) -> RawCredentials:
    """Return what a credentials file holds; raises ValueError for what nats-py would trip over."""
    if nkeys is None:
        raise ValueError("the package nkeys is missing: pip install nkeys")
    try:
        content = path.read_text()
        content.index(_JWT)  # nats-py would look for it forever
        seed = content.partition(_SEED)[2].split()[0]
        nkeys.from_seed(bytearray(seed.encode())).wipe()
    except OSError as error:
        raise ValueError(error.strerror) from error
    except (ValueError, IndexError, nkeys.NkeysError) as error:
        raise ValueError("it does not hold a user's JWT and seed") from error
    return RawCredentials(content)

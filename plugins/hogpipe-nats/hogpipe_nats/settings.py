"""PURE: what a `[[sinks]]` table of the type `nats` may hold."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from hogpipe import JsonSettings, SettingProblem, TlsSettings

_PART = r"(?:[^\s.*>{}]|\{host\}|\{type\})+"
_SUBJECT = re.compile(rf"{_PART}(?:\.{_PART})*")
_PORT = 4222


class NatsSettings(JsonSettings, frozen=True, kw_only=True):
    """`type = "nats"`."""

    servers: Annotated[tuple[str, ...], Meta(min_length=1)]
    """Servers of one cluster, `nats://HOST[:PORT]` or `tls://HOST[:PORT]`; tried in turn."""
    subject: str = "hogpipe.{host}.{type}"
    """What messages are published to; `{host}` and `{type}` are the record's own."""
    create_stream: bool = True
    """Whether a stream that takes the subject is made if there is none of the name `stream`."""
    stream: Annotated[str, Meta(pattern=r"^[^\s.*>/\\]+$")] = "hogpipe"
    """The name of the stream that is made."""
    stream_mib: Annotated[int, Meta(ge=1)] = 1024
    """How much a stream that is made may hold: the oldest messages go first."""
    replicas: Annotated[int, Meta(ge=1, le=5)] = 1
    """On how many servers of the cluster a stream that is made is kept."""
    duplicate_window: Annotated[float, Meta(gt=0)] = 120.0
    """For how many seconds a stream that is made knows the ids of its messages."""
    user: str | None = None
    password: str | None = None
    token: str | None = None
    credentials: Path | None = None
    """A file with a user's JWT and seed (`.creds`)."""
    tls: TlsSettings | None = None
    """TLS, which a `tls://` server has in any case."""
    connect_timeout: Annotated[float, Meta(gt=0)] = 2.0
    """Seconds that an attempt to reach one server may take, all its steps together."""
    ack_timeout: Annotated[float, Meta(gt=0)] = 5.0
    """Seconds to wait for acknowledgements before what has none is sent again."""

    @property
    def encryption(self) -> TlsSettings | None:
        """TLS, if connections must be encrypted."""
        if any(server.startswith("tls://") for server in self.servers):
            return self.tls or TlsSettings()
        return self.tls

    def subject_of(self, host: str, kind: str) -> str:
        """Return the subject for records of the type `kind` of `host`.

        What would be more than one token, or a wildcard, becomes `_` (docs.nats.io, Subjects).
        """
        subject = self.subject.replace("{host}", _as_token(host))
        return subject.replace("{type}", _as_token(kind))

    @property
    def subjects(self) -> str:
        """The pattern of all subjects that `subject_of` can return."""
        return ".".join("*" if "{" in token else token for token in self.subject.split("."))


def find_problems(settings: NatsSettings) -> Iterator[SettingProblem]:
    """Find what no server could take."""
    for index, server in enumerate(settings.servers):
        try:
            endpoint(server)
        except ValueError as error:  # the URL may hold a password
            yield SettingProblem(("servers", index), str(error), str(error))
    if not _SUBJECT.fullmatch(settings.subject):
        text = (
            "must be tokens with dots between, without blanks and wildcards; {host} and {type} "
            "are the only placeholders"
        )
        yield SettingProblem(("subject",), text, text)
    if (settings.user is None) != (settings.password is None):
        missing = "password" if settings.password is None else "user"
        yield SettingProblem((missing,), "required: user and password go together", "required")
    ways = ("user", "token", "credentials")
    for way in [way for way in ways if getattr(settings, way) is not None][1:]:
        text = "only one of user, token and credentials can be used"
        yield SettingProblem((way,), text, text)


def endpoint(server: str) -> str:
    """Return `HOST:PORT` of a server's URL, which may hold a password; raises ValueError."""
    url = urlsplit(server if "://" in server else f"nats://{server}")
    try:
        port = url.port or _PORT
    except ValueError as error:
        raise ValueError("the port is none: 1 to 65535") from error
    if url.scheme not in {"nats", "tls"} or not url.hostname or url.path not in {"", "/"}:
        raise ValueError("must be nats://HOST[:PORT] or tls://HOST[:PORT]")
    try:
        url.hostname.encode("idna")
    except UnicodeError as error:
        raise ValueError("the host is no name or address") from error
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return f"{host}:{port}"


def _as_token(text: str) -> str:
    return re.sub(r"[\s.*>]", "_", text) or "_"

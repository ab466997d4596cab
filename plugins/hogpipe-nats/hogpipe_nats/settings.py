"""PURE: the settings of the sink type `nats`, and their problems."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from hogpipe import JsonSettings, Seconds, SettingProblem, TlsSettings

_PART = r"(?:[^\s.*>{}]|\{host\}|\{type\})+"
_SUBJECT = re.compile(rf"{_PART}(?:\.{_PART})*")
_PORT = 4222


class NatsSettings(JsonSettings, frozen=True, kw_only=True):
    """`type = "nats"`."""

    servers: Annotated[tuple[str, ...], Meta(min_length=1)]
    """Servers of one cluster, `nats://HOST[:PORT]` or `tls://HOST[:PORT]`; tried in turn."""
    subject: str = "hogpipe.{host}.{type}"
    """The subject of messages; `{host}` and `{type}` are those of the record."""
    create_stream: bool = True
    """Whether a stream for the subject is created if none is named `stream`."""
    stream: Annotated[str, Meta(pattern=r"^[^\s.*>/\\]+$")] = "hogpipe"
    """The name of a created stream."""
    stream_mib: Annotated[int, Meta(ge=1)] = 1024
    """The bound of a created stream, in MiB; the oldest messages are removed first."""
    replicas: Annotated[int, Meta(ge=1, le=5)] = 1
    """On how many servers of the cluster a created stream is stored."""
    duplicate_window: Annotated[Seconds, Meta(gt=0)] = 120.0
    """For how many seconds a created stream keeps the ids of its messages."""
    user: str | None = None
    password: str | None = None
    token: str | None = None
    credentials: Path | None = None
    """A file with a user's JWT and seed (`.creds`)."""
    tls: TlsSettings | None = None
    """TLS; a `tls://` server always has it."""
    connect_timeout: Annotated[Seconds, Meta(gt=0)] = 2.0
    """Seconds that an attempt to reach one server may take, all its steps together."""
    ack_timeout: Annotated[Seconds, Meta(gt=0)] = 5.0
    """Seconds to wait for acknowledgements; messages without one are sent again."""

    @property
    def encryption(self) -> TlsSettings | None:
        """The TLS settings if connections must be encrypted, None otherwise."""
        if any(server.startswith("tls://") for server in self.servers):
            return self.tls or TlsSettings()
        return self.tls

    def subject_of(self, host: str, kind: str) -> str:
        """Return the subject for records of the type `kind` of `host`.

        Characters that separate tokens or are wildcards become `_` (docs.nats.io, Subjects).
        """
        subject = self.subject.replace("{host}", _as_token(host))
        return subject.replace("{type}", _as_token(kind))

    @property
    def subjects(self) -> str:
        """The pattern of all subjects that `subject_of` returns."""
        return ".".join("*" if "{" in token else token for token in self.subject.split("."))


def find_problems(settings: NatsSettings) -> Iterator[SettingProblem]:
    """Find values that no server accepts."""
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

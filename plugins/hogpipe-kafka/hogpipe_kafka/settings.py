"""PURE: the settings of the sink type `kafka`, and their problems."""

from collections.abc import Iterator
from typing import Annotated, Literal
from urllib.parse import urlsplit

from aiokafka import codec
from msgspec import Meta

from hogpipe import JsonSettings, Seconds, SettingProblem, TlsSettings

_PORT = 9092
_CODECS = {
    "none": lambda: True,
    "gzip": codec.has_gzip,
    "snappy": codec.has_snappy,
    "lz4": codec.has_lz4,
    "zstd": codec.has_zstd,
}


class KafkaSettings(JsonSettings, frozen=True, kw_only=True):
    """`type = "kafka"`."""

    servers: Annotated[tuple[str, ...], Meta(min_length=1)]
    """Bootstrap brokers, `HOST[:PORT]`; tried in turn."""
    topic: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,249}$")] = "hogpipe"
    """The topic of the messages."""
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "gzip"
    """The compression of batches."""
    batch_kib: Annotated[int, Meta(ge=1, le=1000)] = 256
    """The size of a batch before compression; brokers and topics have limits."""
    linger: Annotated[Seconds, Meta(ge=0)] = 0.01
    """Seconds for which a batch collects messages."""
    tls: TlsSettings | None = None
    """TLS, where present."""
    user: str | None = None
    password: str | None = None
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    """The SASL mechanism for user and password."""
    connect_timeout: Annotated[Seconds, Meta(gt=0)] = 2.0
    """Seconds that an attempt to reach one broker may take, all its steps together."""
    ack_timeout: Annotated[Seconds, Meta(gt=0)] = 10.0
    """Seconds without any acknowledgement before a write counts as failed."""


def find_problems(settings: KafkaSettings) -> Iterator[SettingProblem]:
    """Find values that no broker accepts."""
    for index, server in enumerate(settings.servers):
        try:
            endpoint(server)
        except ValueError as error:
            yield SettingProblem(("servers", index), f"{server!r} {error}", str(error))
    if not _CODECS[settings.compression]():
        text = "its package is missing: pip install cramjam"
        yield SettingProblem(("compression",), f"{settings.compression}: {text}", text)
    if (settings.user is None) != (settings.password is None):
        missing = "password" if settings.password is None else "user"
        yield SettingProblem((missing,), "required: user and password go together", "required")


def endpoint(server: str) -> tuple[str, int]:
    """Return host and port of `HOST[:PORT]`; raises ValueError."""
    url = urlsplit(f"//{server}")
    if not url.hostname or url.netloc != server or "@" in server:
        raise ValueError("is not HOST[:PORT]")
    try:
        url.hostname.encode("idna")
    except UnicodeError as error:
        raise ValueError("has a host that is no name or address") from error
    try:
        return url.hostname, url.port or _PORT
    except ValueError as error:
        raise ValueError("has no port from 1 to 65535") from error

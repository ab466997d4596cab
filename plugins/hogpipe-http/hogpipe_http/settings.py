"""PURE: the settings of the sink type `http`, and their problems."""

from base64 import b64encode
from collections.abc import Iterator
from typing import Annotated, Literal
from urllib.parse import parse_qsl, urlsplit

import msgspec
from msgspec import Meta, field

from hogpipe import (
    JsonSettings,
    Seconds,
    SettingProblem,
    TlsSettings,
    __version__,
    find_header_problems,
    find_url_problem,
    name_place,
)
from hogpipe_http.compression import Compression, find_compression_problem

PresetName = Literal["ndjson", "elasticsearch", "loki", "splunk", "clickhouse"]
LabelName = Literal[
    "type",
    "program",
    "unit",
    "user",
    "container",
    "pod",
    "namespace",
    "kernel",
    "interface",
    "transport",
    "network",
]
Name = Annotated[str, Meta(min_length=1)]

_GZIP_ONLY = {"elasticsearch", "loki", "splunk"}
_INDEX = Annotated[
    str, Meta(pattern=r"^[^A-Z\x00-\x20\\/*?\"<>|,#:_+-][^A-Z\x00-\x20\\/*?\"<>|,#:]*$")
]
_USER_AGENT = f"hogpipe-http/{__version__}"
_LONG_SEGMENT = 16
"""A segment of a path of this length may be a token."""
_SHORTEST_SECRET = 4
"""Shorter ones are left in texts of servers: they occur in any text."""


class ElasticsearchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The table `elasticsearch`."""

    index: _INDEX = "logs-hogpipe-default"
    """An index, a data stream or an alias."""


class LokiSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The table `loki`."""

    labels: tuple[LabelName, ...] = ()
    """Labels beside `host` and `source`."""
    max_streams: Annotated[int, Meta(ge=1)] = 100
    """The most streams of a run; further ones lose the labels of `labels`."""


class SplunkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The table `splunk`."""

    index: Name | None = None
    """The index of events; that of the token if absent."""
    source: Name = "hogpipe"
    sourcetype: Name = "_json"
    acknowledge: bool = False
    """Whether records are delivered only once an indexer has acknowledged them."""
    acknowledge_interval: Annotated[Seconds, Meta(gt=0)] = 1.0
    """Seconds between two queries for acknowledgements."""


class ClickHouseSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The table `clickhouse`."""

    database: Name = "hogpipe"
    table: Name = "records"


class HttpSettings(JsonSettings, frozen=True, kw_only=True):
    """`type = "http"`."""

    url: str
    """With `ndjson` the whole URL, else that of the server: the preset appends its path."""
    preset: PresetName = "ndjson"
    max_records: Annotated[int, Meta(ge=1)] = 2000
    """The most records in a request."""
    max_mib: Annotated[int, Meta(ge=1)] = 4
    """The most MiB of documents in a request, before compression; one record may be larger."""
    compression: Compression = "gzip"
    request_timeout: Annotated[Seconds, Meta(gt=0)] = 15.0
    """Seconds after which a request without an answer is given up."""
    token: str | None = None
    """For bearer authentication, or that of the HTTP Event Collector."""
    user: str | None = None
    """For basic authentication."""
    password: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with each request."""
    tls: TlsSettings | None = None
    """For a URL with https, which always uses TLS."""
    elasticsearch: ElasticsearchSettings | None = None
    loki: LokiSettings | None = None
    splunk: SplunkSettings | None = None
    clickhouse: ClickHouseSettings | None = None

    @property
    def encryption(self) -> TlsSettings | None:
        """The TLS settings of the connection; None without TLS."""
        return self.tls or TlsSettings() if self.url.startswith("https:") else None

    @property
    def place(self) -> str:
        """HOST:PORT, for messages."""
        return name_place(self.url)

    @property
    def authorization(self) -> str | None:
        """The value of the header Authorization, None without credentials."""
        if self.token is not None:
            return f"{'Splunk' if self.preset == 'splunk' else 'Bearer'} {self.token}"
        if self.user is not None:
            pair = f"{self.user}:{self.password or ''}"
            return f"Basic {b64encode(pair.encode()).decode()}"
        return None

    def make_headers(self) -> dict[str, str]:
        """Return the headers of every request."""
        headers = {**self.headers, "User-Agent": _USER_AGENT}
        if self.authorization is not None:
            headers["Authorization"] = self.authorization
        if self.compression != "none":
            headers["Content-Encoding"] = self.compression
        return headers

    def list_secrets(self) -> list[str]:
        """Return what no text may contain, although a server may repeat it; longest first."""
        url = urlsplit(self.url)
        segments = (one for one in url.path.split("/") if len(one) >= _LONG_SEGMENT)
        values = [value for _name, value in parse_qsl(url.query)]
        found = [self.token, self.password, (self.authorization or "").partition(" ")[2]]
        texts = {*filter(None, found), *self.headers.values(), *segments, *values, url.query}
        return sorted((text for text in texts if len(text) >= _SHORTEST_SECRET), key=len)[::-1]


def find_problems(settings: HttpSettings) -> Iterator[SettingProblem]:
    """Find values that no server accepts; no text quotes a value, which may be a secret."""
    if text := find_url_problem(settings.url):
        yield _problem(text, "url")
    if settings.tls is not None and settings.encryption is None:
        yield _problem("needs a url that begins with https:", "tls")
    if settings.compression == "zstd" and settings.preset in _GZIP_ONLY:
        yield _problem(f"{settings.preset} takes gzip or none", "compression")
    if text := find_compression_problem(settings.compression):
        yield _problem(text, "compression")
    for name in ("elasticsearch", "loki", "splunk", "clickhouse"):
        if name != settings.preset and getattr(settings, name) is not None:
            yield _problem(f"only with the preset {name}", name)
    yield from _find_credential_problems(settings)
    yield from find_header_problems(settings.headers)


def _find_credential_problems(settings: HttpSettings) -> Iterator[SettingProblem]:
    names = {name.lower() for name in settings.headers}
    if settings.token is not None and settings.user is not None:
        yield _problem("either token, or user and password", "token")
    if settings.password is not None and settings.user is None:
        yield _problem("only with user", "password")
    if settings.user is not None and ":" in settings.user:
        yield _problem("may hold no colon", "user")
    if settings.authorization is not None and "authorization" in names:
        yield _problem("either token or user, or this header", "headers", "authorization")
    if settings.token is not None and list(find_header_problems({"x": settings.token})):
        yield _problem("may hold no line end or other control character", "token")


def _problem(text: str, *key_path: str) -> SettingProblem:
    return SettingProblem(key_path, text, text)

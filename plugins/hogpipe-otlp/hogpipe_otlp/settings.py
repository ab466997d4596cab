"""PURE: the settings of the sink type `otlp`, and their problems."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta, field

from hogpipe import SettingProblem, SinkSettings, TlsSettings

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_OWN_HEADERS = {"content-encoding", "content-length", "content-type", "host", "user-agent"}
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # section 5.5


class OtlpSettings(SinkSettings, frozen=True, kw_only=True):
    """`type = "otlp"`."""

    endpoint: str = "http://localhost:4318/v1/metrics"
    """The whole URL, as in OTEL_EXPORTER_OTLP_METRICS_ENDPOINT: no path is added."""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with each request."""
    temporality: Literal["delta", "cumulative"] = "delta"
    """Whether a point has the bytes of a window, or those since the first point of its series."""
    max_points: Annotated[int, Meta(ge=2)] = 2000
    """The most data points in a request."""
    max_series: Annotated[int, Meta(ge=1)] = 10_000
    """The most series with cumulative totals; those with the oldest traffic are evicted first."""
    tls: TlsSettings | None = None
    """For an endpoint with https, which always uses TLS."""

    @property
    def encryption(self) -> TlsSettings | None:
        """The TLS settings of the connection; None without TLS."""
        return self.tls or TlsSettings() if self.endpoint.startswith("https:") else None

    @property
    def place(self) -> str:
        """HOST:PORT of the endpoint, for messages: its path and query may hold secrets."""
        url = urlsplit(self.endpoint)
        host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
        return f"{host}:{url.port or (443 if url.scheme == 'https' else 80)}"


def find_problems(settings: OtlpSettings) -> Iterator[SettingProblem]:
    """Find values that no collector accepts; no text quotes a value, which may be a secret."""
    if text := _find_wrong(settings.endpoint):
        yield SettingProblem(("endpoint",), text, text)
    if settings.tls is not None and settings.encryption is None:
        text = "needs an endpoint that begins with https:"
        yield SettingProblem(("tls",), text, text)
    for name, value in settings.headers.items():
        if not _HEADER_NAME.fullmatch(name):
            text = "a header's name may hold letters, digits and -_ only"
        elif name.lower() in _OWN_HEADERS:
            text = "hogpipe sets this header itself"
        elif not _HEADER_VALUE.fullmatch(value):
            text = "may hold no line end or other control character"
        else:
            continue
        yield SettingProblem(("headers", name), text, text)


def _find_wrong(endpoint: str) -> str | None:
    try:
        url = urlsplit(endpoint)
        valid = url.scheme in {"http", "https"} and url.hostname and url.port != 0
        (url.hostname or "").encode("idna")
    except ValueError:  # of which UnicodeError is one
        valid = False
    if not valid or not endpoint.isprintable() or " " in endpoint:
        return "must be http:// or https://, HOST[:PORT] and a path"
    if "@" in url.netloc:
        return "must hold no user or password: put them into headers"
    return None

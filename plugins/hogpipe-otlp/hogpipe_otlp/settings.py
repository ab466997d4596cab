"""PURE: the settings of the sink type `otlp`, and their problems."""

from collections.abc import Iterator
from typing import Annotated, Literal

from msgspec import Meta, field

from hogpipe import (
    SettingProblem,
    SinkSettings,
    TlsSettings,
    find_header_problems,
    find_url_problem,
)
from hogpipe_otlp.metrics import MOST


class OtlpSettings(SinkSettings, frozen=True, kw_only=True):
    """`type = "otlp"`."""

    endpoint: str = "http://localhost:4318/v1/metrics"
    """The whole URL, as in OTEL_EXPORTER_OTLP_METRICS_ENDPOINT: no path is added."""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with each request."""
    temporality: Literal["delta", "cumulative"] = "delta"
    """Whether a point has the growth of a window, or that since the first point of its series."""
    max_points: Annotated[int, Meta(ge=MOST)] = 2000
    """The most data points in a request, of which one record may need as many as the minimum."""
    max_series: Annotated[int, Meta(ge=1)] = 10_000
    """The most series with cumulative totals; those with the oldest traffic are evicted first."""
    tls: TlsSettings | None = None
    """For an endpoint with https, which always uses TLS."""

    @property
    def encryption(self) -> TlsSettings | None:
        """The TLS settings of the connection; None without TLS."""
        return self.tls or TlsSettings() if self.endpoint.startswith("https:") else None


def find_problems(settings: OtlpSettings) -> Iterator[SettingProblem]:
    """Find values that no collector accepts; no text quotes a value, which may be a secret."""
    if text := find_url_problem(settings.endpoint):
        yield SettingProblem(("endpoint",), text, text)
    if settings.tls is not None and settings.encryption is None:
        text = "needs an endpoint that begins with https:"
        yield SettingProblem(("tls",), text, text)
    yield from find_header_problems(settings.headers)

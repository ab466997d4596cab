"""PURE: the settings of the sink type `prometheus`, and their problems."""

from collections.abc import Iterator
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from hogpipe import Seconds, SettingProblem, SinkSettings
from hogpipe_prometheus.labels import LabelName


class PrometheusSettings(SinkSettings, frozen=True, kw_only=True):
    """`type = "prometheus"`."""

    listen: str = "127.0.0.1:9750"
    """The address to scrape, HOST:PORT, `[::1]:9750` for IPv6; readable by all who can connect."""
    labels: tuple[LabelName, ...] = ("program", "unit", "container")
    """The labels of a series, beside the direction."""
    max_series: Annotated[int, Meta(ge=1)] = 1000
    """The most label sets with series of their own; the others are summed as `other`."""
    stale_after: Annotated[Seconds, Meta(gt=0)] = 3600.0
    """Seconds without traffic after which a label set is removed."""


def find_problems(settings: PrometheusSettings) -> Iterator[SettingProblem]:
    """Find an invalid address, and labels that are given twice."""
    try:
        endpoint(settings.listen)
    except ValueError as error:
        yield SettingProblem(("listen",), f"{settings.listen}: {error}", str(error))
    for index, name in enumerate(settings.labels):
        if name in settings.labels[:index]:
            text = "named before"
            yield SettingProblem(("labels", index), f"{name}: {text}", text)


def endpoint(listen: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`; raises ValueError."""
    try:
        url = urlsplit(f"//{listen}")
        host, port = url.hostname, url.port
        (host or "").encode("idna")
    except ValueError:  # of which UnicodeError is one
        host = port = None
    if not host or not port or url.netloc != listen or "@" in listen:
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:9750 or [::1]:9750")
    return host, port

"""PURE: what a `[[sinks]]` table of the type `prometheus` may hold."""

from collections.abc import Iterator
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from hogpipe import SettingProblem, SinkSettings
from hogpipe_prometheus.labels import LabelName


class PrometheusSettings(SinkSettings, frozen=True, kw_only=True):
    """`type = "prometheus"`."""

    listen: str = "127.0.0.1:9750"
    """HOST:PORT to be scraped at, `[::1]:9750` for IPv6. Whoever can reach it can read it."""
    labels: tuple[LabelName, ...] = ("executable", "unit", "container")
    """What tells series apart, beside the direction."""
    max_series: Annotated[int, Meta(ge=1)] = 1000
    """How many sets of labels have series of their own; the rest is summed up as `other`."""
    stale_after: Annotated[float, Meta(gt=0)] = 3600.0
    """Seconds without traffic after which a set of labels loses its series."""


def find_problems(settings: PrometheusSettings) -> Iterator[SettingProblem]:
    """Find what cannot be listened at, and labels that are named twice."""
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

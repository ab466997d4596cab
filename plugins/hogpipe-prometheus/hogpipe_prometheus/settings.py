"""PURE: the settings of the sink type `prometheus`, and their problems."""

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from hogpipe import Seconds, SettingProblem, SinkSettings, parse_listen
from hogpipe_prometheus.labels import LabelName

PORT = 9750


class PrometheusSettings(SinkSettings, frozen=True, kw_only=True):
    """`type = "prometheus"`."""

    listen: str = f"127.0.0.1:{PORT}"
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
        parse_listen(settings.listen, PORT)
    except ValueError as error:
        yield SettingProblem(("listen",), f"{settings.listen}: {error}", str(error))
    for index, name in enumerate(settings.labels):
        if name in settings.labels[:index]:
            text = "named before"
            yield SettingProblem(("labels", index), f"{name}: {text}", text)

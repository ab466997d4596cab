"""The `prometheus` sink: counters that Prometheus scrapes.

settings.py   what a `[[sinks]]` table may hold
labels.py     PURE: a record's labels
series.py     PURE: totals by labels; their bound, and what becomes of stale ones
pipeline.py   PURE: totals of hogpipe itself, from the stats records
collector.py  both as metric families, for prometheus-client
server.py     the HTTP end: bounded, and never in the way of the event loop
sink.py       windows -> totals
"""

from collections.abc import Iterable

from hogpipe import SinkSettings, SinkType, hookimpl
from hogpipe_prometheus.settings import PrometheusSettings, find_problems
from hogpipe_prometheus.sink import PrometheusSink

__all__ = ["HOGPIPE_API", "PrometheusSettings", "PrometheusSink", "hogpipe_sinks"]

HOGPIPE_API = 1
"""The plugin interface of hogpipe that this was made for."""


@hookimpl
def hogpipe_sinks() -> Iterable[SinkType[SinkSettings]]:
    """Offer the sink type `prometheus`."""
    return [SinkType("prometheus", PrometheusSettings, PrometheusSink, find_problems)]

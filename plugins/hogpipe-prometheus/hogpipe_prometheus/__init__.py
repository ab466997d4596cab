"""The `prometheus` sink: counters that Prometheus scrapes.

settings.py   PURE: the `[[sinks]]` table
labels.py     PURE: the labels of a record
series.py     PURE: totals by labels, their bound, and the removal of stale ones
health.py     PURE: the health of TCP connections, from records to metric families
pipeline.py   PURE: counters of hogpipe itself, from the stats records
collector.py  both as metric families, for prometheus-client
server.py     the HTTP server, bounded
sink.py       windows -> totals
"""

from collections.abc import Iterable

from hogpipe import SinkSettings, SinkType, hookimpl
from hogpipe_prometheus.settings import PrometheusSettings, find_problems
from hogpipe_prometheus.sink import PrometheusSink

__all__ = ["HOGPIPE_API", "PrometheusSettings", "PrometheusSink", "hogpipe_sinks"]

HOGPIPE_API = 1
"""The version of hogpipe's interface for plugins."""


@hookimpl
def hogpipe_sinks() -> Iterable[SinkType[SinkSettings]]:
    """Offer the sink type `prometheus`."""
    return [SinkType("prometheus", PrometheusSettings, PrometheusSink, find_problems)]

"""The `http` sink: records to stores that take HTTP.

A request and its answer are the business of a preset, which is pure; sending is that of the sink.

settings.py       PURE: the `[[sinks]]` table
exchange.py       PURE: batch -> request, answer -> verdict: the types of a preset
statuses.py       PURE: what the status of an answer means, with every preset
presets:
    ndjson.py         PURE: JSON lines
    elasticsearch.py  PURE: the bulk API of Elasticsearch and OpenSearch
    loki.py           PURE: the push API of Grafana Loki
    splunk.py         PURE: Splunk's HTTP Event Collector, and its acknowledgements
    clickhouse.py     PURE: inserts into a table of ClickHouse
presets.py        PURE: the preset that the settings name
compression.py    PURE: bodies, compressed
progress.py       PURE: which records of a window are sent, refused and left
sink.py           windows -> requests, and the outcome of each record
"""

from collections.abc import Iterable

from hogpipe import SettingProblem, SinkSettings, SinkType, find_tls_problems, hookimpl
from hogpipe_http.settings import HttpSettings, find_problems
from hogpipe_http.sink import HttpSink

__all__ = ["HOGPIPE_API", "HttpSettings", "HttpSink", "hogpipe_sinks"]

HOGPIPE_API = 1
"""The version of hogpipe's interface for plugins."""


@hookimpl
def hogpipe_sinks() -> Iterable[SinkType[SinkSettings]]:
    """Offer the sink type `http`."""
    return [SinkType("http", HttpSettings, HttpSink, _check)]


def _check(settings: HttpSettings) -> Iterable[SettingProblem]:
    yield from find_problems(settings)
    yield from find_tls_problems(settings.encryption)

"""The `otlp` sink: OpenTelemetry metrics over OTLP/HTTP.

settings.py    PURE: the `[[sinks]]` table
attributes.py  PURE: records -> attributes
metrics.py     PURE: the metrics, and what a record has of each
reading.py     PURE: records -> data points
points.py      PURE: data points
totals.py      PURE: deltas -> cumulative points, bounded
messages.py    PURE: data points <-> OTLP's protobuf messages
answers.py     PURE: the meaning of a collector's answer
sink.py        windows -> requests, and the outcome of each record
"""

from collections.abc import Iterable

from hogpipe import SettingProblem, SinkSettings, SinkType, find_tls_problems, hookimpl
from hogpipe_otlp.settings import OtlpSettings, find_problems
from hogpipe_otlp.sink import OtlpSink

__all__ = ["HOGPIPE_API", "OtlpSettings", "OtlpSink", "hogpipe_sinks"]

HOGPIPE_API = 1
"""The version of hogpipe's interface for plugins."""


@hookimpl
def hogpipe_sinks() -> Iterable[SinkType[SinkSettings]]:
    """Offer the sink type `otlp`."""
    return [SinkType("otlp", OtlpSettings, OtlpSink, _check)]


def _check(settings: OtlpSettings) -> Iterable[SettingProblem]:
    yield from find_problems(settings)
    yield from find_tls_problems(settings.encryption)

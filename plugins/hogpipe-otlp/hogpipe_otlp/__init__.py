"""The `otlp` sink: OpenTelemetry metrics over OTLP/HTTP.

settings.py  what a `[[sinks]]` table may hold
points.py    PURE: records -> data points
totals.py    PURE: deltas -> cumulative points, bounded
messages.py  PURE: data points <-> OTLP's protobuf messages
answers.py   PURE: what a collector's answer means
client.py    the HTTP end
sink.py      windows -> requests, and what became of each record
"""

from collections.abc import Iterable

from hogpipe import SettingProblem, SinkSettings, SinkType, find_tls_problems, hookimpl
from hogpipe_otlp.settings import OtlpSettings, find_problems
from hogpipe_otlp.sink import OtlpSink

__all__ = ["HOGPIPE_API", "OtlpSettings", "OtlpSink", "hogpipe_sinks"]

HOGPIPE_API = 1
"""The plugin interface of hogpipe that this was made for."""


@hookimpl
def hogpipe_sinks() -> Iterable[SinkType[SinkSettings]]:
    """Offer the sink type `otlp`."""
    return [SinkType("otlp", OtlpSettings, OtlpSink, _check)]


def _check(settings: OtlpSettings) -> Iterable[SettingProblem]:
    yield from find_problems(settings)
    yield from find_tls_problems(settings.encryption)

"""PURE: the metrics, and what a record has of each.

The semantic conventions have no metric for the health of the TCP connections of a process: all but
`process.network.io` are hogpipe's own, in the style of the conventions. Durations are histograms
without buckets, which have a count, a sum and, where it is known, a minimum.
"""

from collections.abc import Iterator
from typing import NamedTuple

from hogpipe import TcpHealth, TrafficRecord, parse_tcp


class Metric(NamedTuple):
    """A metric of OTLP; a duration is a histogram in seconds, anything else a monotonic sum."""

    name: str
    description: str
    unit: str

    @property
    def is_duration(self) -> bool:
        """Whether it is a histogram."""
        return self.unit == "s"


class Observation(NamedTuple):
    """What a record has of a metric: the fields of a Point, and the attribute of its own."""

    metric: str
    attribute: tuple[str, str] | None
    value: int
    observed: int = 0
    least: int = 0


_TCP = "process.network.tcp"
_ALL = (
    # The description of the semantic conventions.
    Metric("process.network.io", "Network bytes transferred.", "By"),
    Metric(
        f"{_TCP}.payload", "Bytes of applications that TCP moved, each once, without headers.", "By"
    ),
    Metric(f"{_TCP}.retransmits", "TCP segments transmitted again.", "{segment}"),
    Metric(f"{_TCP}.rtt", "Samples of TCP's smoothed round-trip time.", "s"),
    Metric(
        f"{_TCP}.connection.opened",
        "TCP connections that the process established.",
        "{connection}",
    ),
    Metric(
        f"{_TCP}.connection.accepted", "TCP connections that peers established.", "{connection}"
    ),
    Metric(f"{_TCP}.connection.closed", "Established TCP connections that ended.", "{connection}"),
    Metric(
        f"{_TCP}.connection.failed",
        "Attempts to connect and TCP connections that failed.",
        "{connection}",
    ),
    Metric(f"{_TCP}.connection.opening", "Time that opened TCP connections took.", "s"),
    Metric(
        f"{_TCP}.connection.duration",
        "Time for which TCP connections that ended were established.",
        "s",
    ),
)
METRICS = {metric.name: metric for metric in _ALL}
"""Each metric by its name."""

_IO, _PAYLOAD, _RETRANSMITS, _RTT, _OPENED, _ACCEPTED, _CLOSED, _FAILED, _OPENING, _DURATION = (
    METRICS
)
_TRANSMIT, _RECEIVE = (("network.io.direction", direction) for direction in ("transmit", "receive"))
_WITH_DIRECTION = 2  # IO and payload

MOST = _WITH_DIRECTION * 2 + len(TcpHealth().failures) + len(METRICS) - 3
"""The most observations of a record."""


def most_observations(record: TrafficRecord) -> int:
    """Return a bound for the observations of a record, without making them."""
    return MOST if "tcp" in record["network"] else 2


def observations_of(record: TrafficRecord) -> Iterator[Observation]:
    """Yield what a record has of each metric; a counter that did not grow has no observation."""
    return (one for one in _observe(record) if one.value or one.observed)


def _observe(record: TrafficRecord) -> Iterator[Observation]:
    network = record["network"]
    yield Observation(_IO, _TRANSMIT, network["io"]["transmit"]["bytes"])
    yield Observation(_IO, _RECEIVE, network["io"]["receive"]["bytes"])
    health = parse_tcp(network)
    if health is None:
        return
    yield Observation(_PAYLOAD, _TRANSMIT, health.transmit_payload_bytes)
    yield Observation(_PAYLOAD, _RECEIVE, health.receive_payload_bytes)
    yield Observation(_RETRANSMITS, None, health.retransmits)
    yield Observation(_RTT, None, health.rtt_sum_us, health.rtt_samples, health.rtt_min_us)
    yield Observation(_OPENED, None, health.opened)
    yield Observation(_ACCEPTED, None, health.accepted)
    yield Observation(_CLOSED, None, health.closed)
    for cause, number in health.failures.items():
        yield Observation(_FAILED, ("error.type", cause), number)
    yield Observation(_OPENING, None, health.opening_us, health.opened)
    yield Observation(_DURATION, None, health.lifetime_us, health.closed)

"""PURE: the health of TCP connections as metric families.

In: records. Out: the sums of their `network.tcp` and payload, and families of these. A label set
none of whose records has health has no samples: its health is unknown, not zero.
"""

from collections.abc import Iterable, Iterator, Sequence
from operator import add
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, Metric, SummaryMetricFamily

from hogpipe import TrafficRecord

_SECOND = 1_000_000  # microseconds
_RESULTS = (
    "opened",
    "accepted",
    "closed",
    "reset",
    "timed_out",
    "refused",
    "unreachable",
    "abandoned",
)


class Health(NamedTuple):
    """Sums over records; the fields of connections have the names of the record's members."""

    transmit_payload_bytes: int = 0
    receive_payload_bytes: int = 0
    retransmits: int = 0
    rtt_samples: int = 0
    rtt_sum_us: int = 0
    opened: int = 0
    accepted: int = 0
    closed: int = 0
    reset: int = 0
    timed_out: int = 0
    refused: int = 0
    unreachable: int = 0
    abandoned: int = 0
    opening_us: int = 0
    lifetime_us: int = 0


def read_health(record: TrafficRecord) -> Health | None:
    """Return the health in a record; None where it is unknown."""
    network = record["network"]
    tcp = network.get("tcp")
    if tcp is None:
        return None
    rtt = tcp.get("rtt")
    return Health(
        transmit_payload_bytes=network["io"]["transmit"].get("payload_bytes", 0),
        receive_payload_bytes=network["io"]["receive"].get("payload_bytes", 0),
        retransmits=tcp["retransmits"],
        rtt_samples=rtt["samples"] if rtt else 0,
        rtt_sum_us=rtt["sum_us"] if rtt else 0,
        **tcp.get("connections", {}),
    )


def join(one: Health | None, other: Health | None) -> Health | None:
    """Return the sum of what is known."""
    if one is None or other is None:
        return one or other
    return Health(*map(add, one, other))


def health_families(
    names: Sequence[str], rows: Iterable[tuple[Sequence[str], Health]]
) -> Iterator[Metric]:
    """Return the families of label sets with health, whose labels have `names`."""
    payload = CounterMetricFamily(
        "hogpipe_network_io_payload_bytes",
        "Bytes of applications that TCP moved, each byte once, without headers.",
        labels=[*names, "direction"],
        unit="bytes",
    )
    connections = CounterMetricFamily(
        "hogpipe_network_tcp_connections",
        "TCP connections that began and ended, by result; closed includes reset ones.",
        labels=[*names, "result"],
    )
    retransmits = CounterMetricFamily(
        "hogpipe_network_tcp_retransmits", "TCP segments transmitted again.", labels=names
    )
    rtt = SummaryMetricFamily(
        "hogpipe_network_tcp_rtt_seconds",
        "Samples of TCP's smoothed round-trip time.",
        labels=names,
        unit="seconds",
    )
    opening = CounterMetricFamily(
        "hogpipe_network_tcp_opening_seconds",
        "Time that opened TCP connections took to be established.",
        labels=names,
        unit="seconds",
    )
    lifetime = CounterMetricFamily(
        "hogpipe_network_tcp_lifetime_seconds",
        "Time for which closed TCP connections were established.",
        labels=names,
        unit="seconds",
    )
    for labels, health in rows:
        payload.add_metric([*labels, "transmit"], health.transmit_payload_bytes)
        payload.add_metric([*labels, "receive"], health.receive_payload_bytes)
        for result in _RESULTS:
            connections.add_metric([*labels, result], getattr(health, result))
        retransmits.add_metric(labels, health.retransmits)
        rtt.add_metric(labels, health.rtt_samples, health.rtt_sum_us / _SECOND)
        opening.add_metric(labels, health.opening_us / _SECOND)
        lifetime.add_metric(labels, health.lifetime_us / _SECOND)
    families = (payload, retransmits, rtt, connections, opening, lifetime)
    yield from (family for family in families if family.samples)

"""PURE: the health of TCP connections as metric families.

In: the sums of each label set. Out: families, without samples of what is unknown: label sets
without health are not here, and one without a connection that began or ended has no counters of
connections. Sums over a label are meaningful, so each event has a counter of its own, and only the
causes of failures, of which a connection has one, are values of a label.
"""

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, Metric, SummaryMetricFamily

from hogpipe import TcpHealth

_SECOND = 1_000_000  # microseconds
_EVENTS = {
    "opened": "TCP connections of this host that were established.",
    "accepted": "TCP connections of peers that were established.",
    "closed": "Established TCP connections that ended, however.",
}

Rows = Sequence[tuple[Sequence[str], TcpHealth]]
"""Labels and health of each label set that has health."""


def health_families(names: Sequence[str], rows: Rows) -> Iterator[Metric]:
    """Return the families of `rows`, whose labels have `names`; empty ones are left out."""
    families = (*_segment_families(names, rows), *_connection_families(names, rows))
    yield from (family for family in families if family.samples)


def _segment_families(names: Sequence[str], rows: Rows) -> Iterable[Metric]:
    payload = CounterMetricFamily(
        "hogpipe_network_io_payload_bytes",
        "Bytes of applications that TCP moved, each byte once, without headers.",
        labels=[*names, "direction"],
        unit="bytes",
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
    for labels, health in rows:
        payload.add_metric([*labels, "transmit"], health.transmit_payload_bytes)
        payload.add_metric([*labels, "receive"], health.receive_payload_bytes)
        retransmits.add_metric(labels, health.retransmits)
        rtt.add_metric(labels, health.rtt_samples, health.rtt_sum_us / _SECOND)
    return payload, retransmits, rtt


def _connection_families(names: Sequence[str], rows: Rows) -> Iterable[Metric]:
    events = {
        event: CounterMetricFamily(f"hogpipe_network_tcp_connections_{event}", text, labels=names)
        for event, text in _EVENTS.items()
    }
    failures = CounterMetricFamily(
        "hogpipe_network_tcp_connections_failed",
        "Attempts to connect and TCP connections that failed, by cause.",
        labels=[*names, "cause"],
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
        if not (health.opened or health.accepted or health.closed or health.failed):
            continue
        for event, family in events.items():
            family.add_metric(labels, getattr(health, event))
        for cause, number in health.failures.items():
            failures.add_metric([*labels, cause], number)
        opening.add_metric(labels, health.opening_us / _SECOND)
        lifetime.add_metric(labels, health.lifetime_us / _SECOND)
    return *events.values(), failures, opening, lifetime

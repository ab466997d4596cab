"""PURE: the health of TCP connections, as a record holds it.

In: `TcpHealth`. Out: `network.tcp`, and `payload_bytes` in both directions of `network.io`; and the
reverse. Where the health is not known both are absent.
"""

from typing import cast

from hogpipe.model import TcpHealth
from hogpipe.records.schema import ConnectionsInfo, NetworkInfo, TcpInfo

CONNECTIONS = (
    "opened",
    "accepted",
    "closed",
    "reset",
    "refused",
    "timed_out",
    "unreachable",
    "abandoned",
    "opening_us",
    "lifetime_us",
)
"""The members of `network.tcp.connections`, which are fields of TcpHealth."""


def add_tcp(network: NetworkInfo, health: TcpHealth) -> None:
    """Add the health of connections to the counters of a record, which are changed."""
    network["io"]["transmit"]["payload_bytes"] = health.transmit_payload_bytes
    network["io"]["receive"]["payload_bytes"] = health.receive_payload_bytes
    network["tcp"] = describe_tcp(health)


def describe_tcp(health: TcpHealth) -> TcpInfo:
    """Return `network.tcp`."""
    tcp: TcpInfo = {"retransmits": health.retransmits}
    if health.rtt_samples:
        tcp["rtt"] = {
            "samples": health.rtt_samples,
            "sum_us": health.rtt_sum_us,
            "min_us": health.rtt_min_us,
        }
    if found := {name: value for name in CONNECTIONS if (value := getattr(health, name))}:
        tcp["connections"] = cast("ConnectionsInfo", found)
    return tcp


def parse_tcp(network: NetworkInfo) -> TcpHealth | None:
    """Return the health in a record; the inverse of `add_tcp`. None where it has none."""
    tcp = network.get("tcp")
    if tcp is None:
        return None
    io = network["io"]
    health = TcpHealth(
        transmit_payload_bytes=io["transmit"].get("payload_bytes", 0),
        receive_payload_bytes=io["receive"].get("payload_bytes", 0),
        retransmits=tcp["retransmits"],
        **tcp.get("connections", {}),
    )
    if (rtt := tcp.get("rtt")) is not None:
        health.rtt_samples = rtt["samples"]
        health.rtt_sum_us = rtt["sum_us"]
        health.rtt_min_us = rtt["min_us"]
    return health

"""The workloads: what each one opens, how fast, and for how long it lives."""

from dataclasses import dataclass
from typing import Any, Literal

NEAR, FAR = "10.78.0.1", "10.78.0.2"  # the measured side and the other one
PREFIX = 24
PORT = 8000
REPLY = 1000
UDP_PORTS = 20_000  # local ports that each process of a UDP workload may count through
TCP, UDP = 6, 17


@dataclass(frozen=True)
class Workload:
    """`rate` is of connections (or datagrams) a second, in sum over all `clients`."""

    name: str
    rate: float
    kind: Literal["connect", "exchange", "stream", "inbound"] = "connect"
    clients: int = 3
    lifetime: float = 0.0
    first_lifetime: float | None = None
    """That of the first client's connections, where it is another one."""
    endpoints: Literal["own", "shared"] = "own"
    """Whether each client has a remote port of its own."""
    connected: bool = True
    idle: tuple[tuple[int, int], ...] = ()
    """Further processes on the measured side, by how many idle sockets and other files each has."""
    seconds: float | None = None
    """How long the load lasts; None for as long as was asked for."""

    @property
    def inbound(self) -> bool:
        return self.kind == "inbound"

    @property
    def protocol(self) -> int:
        return UDP if self.kind in {"exchange", "stream"} else TCP

    def port_of(self, client: int) -> int:
        """Return the port that a client talks to."""
        return PORT + (client if self.endpoints == "own" else 0)

    def client_arguments(self, client: int, seconds: float) -> tuple[str, dict[str, Any]]:
        """Return role and arguments of a client for loads.py.

        Each sends requests of another size, so that bytes of one that are given to another show.
        """
        request = 200 + 100 * client
        common: dict[str, Any] = {
            "remote": NEAR if self.inbound else FAR,
            "port": self.port_of(client),
            "rate": self.rate / self.clients,
            "seconds": seconds,
        }
        own_ports = {"local": NEAR, "first_port": 2000 + UDP_PORTS * client}
        if self.kind == "stream":
            return "stream", {**common, **own_ports, "size": 1000}
        if self.kind == "exchange":
            extra = {"request": request, "connected": self.connected}
            return "exchange", {**common, **own_ports, **extra}
        return "connect", {
            **common,
            "lifetime": self._lifetime_of(client),
            "request": request,
            "reply": REPLY,
            "closes_first": not self.inbound,
        }

    def _lifetime_of(self, client: int) -> float:
        if client == 0 and self.first_lifetime is not None:
            return self.first_lifetime
        return self.lifetime

    def server_arguments(self) -> tuple[str, dict[str, Any]]:
        """Return role and arguments of the server for loads.py."""
        return "serve", {
            "address": NEAR if self.inbound else FAR,
            "ports": sorted({self.port_of(client) for client in range(self.clients)}),
            "udp": self.protocol == UDP,
            "workers": 4 if self.inbound else 2,
            "reply": 0 if self.kind == "stream" else REPLY,
            "closes_first": self.inbound,
        }


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("inbound", 3000, "inbound", clients=2, endpoints="shared"),
        Workload("outbound-100ms", 1000, lifetime=0.1, endpoints="shared"),
        Workload("outbound-30ms", 1000, lifetime=0.03, endpoints="shared"),
        Workload("outbound-1ms-own", 1000, endpoints="own"),
        Workload("outbound-1ms-shared", 1000, endpoints="shared"),
        Workload("outbound-mixed", 1000, first_lifetime=0.1, endpoints="shared"),
        Workload("idle15000", 1000, endpoints="own", idle=((15_000, 0),)),
        Workload("idle15000-few", 1000, endpoints="own", idle=((15_000, 0),), seconds=0.3),
        Workload("big", 200, lifetime=0.1, endpoints="shared", idle=((7_500, 7_500),) * 4),
        Workload("udp-connected", 1000, "exchange"),
        Workload("udp-unconnected", 1000, "exchange", connected=False),
        Workload("bulk", 10_000, "stream", clients=1),
    )
}

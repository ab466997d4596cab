"""The workloads: the connections of each, their rate and their lifetime.

Most measure one side of a wire between two hosts. The two sides of a `veth` are a host and a
container, those of a `bridge` a host and several containers, and its interface shows the local ends
of both.
"""

from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any, Literal

ADDRESSES = {4: ("10.78.0.1/24", "10.78.0.2/24"), 6: ("fd78::1/64", "fd78::2/64")}
"""The measured side and the other one, by the version of IP."""
PORT = 8000
REPLY = 1000
UDP_PORTS = 20_000  # the number of local ports that each process of a UDP workload may use
TCP, UDP = 6, 17


@dataclass(frozen=True)
class Workload:
    """A load; `rate` is the connections or datagrams a second of all `clients` together."""

    name: str
    rate: float
    kind: Literal["connect", "exchange", "stream"] = "connect"
    inbound: bool = False
    """Whether the server is on the measured side, instead of the clients."""
    wire: Literal["hosts", "veth", "bridge"] = "hosts"
    """What joins the two sides; both are measured unless they are two hosts."""
    containers: int = 1
    """On the other side of a bridge, each with the clients of its number."""
    version: Literal[4, 6] = 4
    clients: int = 3
    lifetime: float = 0.0
    first_lifetime: float | None = None
    """The lifetime of the first client's connections, if it differs."""
    endpoints: Literal["own", "shared"] = "own"
    """Whether each client has a remote port of its own."""
    connected: bool = True
    idle: tuple[tuple[int, int], ...] = ()
    """Further processes on the measured side: the idle sockets and other files of each."""
    idle_inside: tuple[tuple[int, int], ...] = ()
    """The same in the first container, or on the other host."""
    crowd: int = 0
    """Processes on the measured side that do nothing."""
    seconds: float | None = None
    """The duration of the load; None for that of the command line."""

    @property
    def addresses(self) -> tuple[str, str]:
        """Return the addresses of the measured and the other side, with prefix lengths."""
        return ADDRESSES[self.version]

    @property
    def near(self) -> str:
        return self.addresses[0].partition("/")[0]

    @property
    def fars(self) -> tuple[str, ...]:
        """Return the addresses of the other side, one of each host or container."""
        first = ip_address(self.addresses[1].partition("/")[0])
        return tuple(str(first + number) for number in range(self.containers))

    @property
    def both_ends(self) -> bool:
        """Return whether the other side is measured as well."""
        return self.wire != "hosts"

    @property
    def measured(self) -> tuple[str, ...]:
        """Return the addresses of the measured sides."""
        return (self.near, *self.fars) if self.both_ends else (self.near,)

    @property
    def peers(self) -> tuple[str, ...]:
        """Return the remote addresses of the measured sides."""
        return (*self.fars, self.near) if self.both_ends else self.fars

    @property
    def server_address(self) -> str:
        return self.near if self.inbound else self.fars[0]

    def client_address(self, client: int) -> str:
        return self.fars[client % self.containers] if self.inbound else self.near

    @property
    def server_closes_first(self) -> bool:
        """Return whether the server ends connections, which then last no longer than the reply."""
        return self.inbound and not self.lifetime

    @property
    def server_ports(self) -> list[int]:
        return sorted({self.port_of(client) for client in range(self.clients)})

    @property
    def protocol(self) -> int:
        return UDP if self.kind in {"exchange", "stream"} else TCP

    def port_of(self, client: int) -> int:
        """Return the remote port of a client."""
        return PORT + (client if self.endpoints == "own" else 0)

    def client_arguments(self, client: int, seconds: float) -> tuple[str, dict[str, Any]]:
        """Return role and arguments of a client for loads.py.

        The size of a request differs between clients, so that swapped owners show in the sums.
        """
        request = 200 + 100 * client
        common: dict[str, Any] = {
            "remote": self.server_address,
            "port": self.port_of(client),
            "rate": self.rate / self.clients,
            "seconds": seconds,
        }
        own_ports = {"local": self.client_address(client), "first_port": 2000 + UDP_PORTS * client}
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
            "closes_first": not self.server_closes_first,
        }

    def _lifetime_of(self, client: int) -> float:
        if client == 0 and self.first_lifetime is not None:
            return self.first_lifetime
        return self.lifetime

    def server_arguments(self) -> tuple[str, dict[str, Any]]:
        """Return role and arguments of the server for loads.py."""
        return "serve", {
            "address": self.server_address,
            "ports": self.server_ports,
            "udp": self.protocol == UDP,
            "workers": 4 if self.inbound else 2,
            "reply": 0 if self.kind == "stream" else REPLY,
            "closes_first": self.server_closes_first,
        }


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("inbound", 3000, inbound=True, clients=2, endpoints="shared"),
        Workload("inbound-v6", 3000, inbound=True, version=6, clients=2, endpoints="shared"),
        Workload("outbound-100ms", 1000, lifetime=0.1, endpoints="shared"),
        Workload("outbound-30ms", 1000, lifetime=0.03, endpoints="shared"),
        Workload("outbound-1ms-own", 1000, endpoints="own"),
        Workload("outbound-1ms-shared", 1000, endpoints="shared"),
        Workload("outbound-1ms-v6", 1000, version=6, endpoints="shared"),
        Workload("outbound-mixed", 1000, first_lifetime=0.1, endpoints="shared"),
        Workload("idle15000", 1000, endpoints="own", idle=((15_000, 0),)),
        Workload("idle15000-few", 1000, endpoints="own", idle=((15_000, 0),), seconds=0.3),
        Workload("big", 200, lifetime=0.1, endpoints="shared", idle=((7_500, 7_500),) * 4),
        Workload("udp-connected", 1000, "exchange"),
        Workload("udp-unconnected", 1000, "exchange", connected=False),
        Workload("udp-connected-v6", 1000, "exchange", version=6),
        Workload("udp-inbound", 1000, "exchange", inbound=True, endpoints="shared"),
        Workload("udp-inbound-v6", 1000, "exchange", inbound=True, version=6, endpoints="shared"),
        Workload("bulk", 10_000, "stream", clients=1),
        *(
            replace(workload, name=workload.name + suffix, wire="veth", idle=idle)
            for suffix, idle in (("", ()), ("-idle15000", ((15_000, 0),)))
            for workload in (
                Workload("veth-100ms", 1000, lifetime=0.1, endpoints="shared"),
                Workload("veth-inbound", 2000, inbound=True, clients=2),
                Workload("veth-outbound", 2000, clients=2),
            )
        ),
        Workload(
            "containers-100ms",
            1000,
            inbound=True,
            wire="bridge",
            containers=20,
            clients=40,
            lifetime=0.1,
            endpoints="shared",
        ),
        Workload(
            "container-inbound-idle15000",
            2000,
            wire="veth",
            clients=2,
            endpoints="shared",
            idle_inside=((15_000, 0),) * 2,
        ),
    )
}

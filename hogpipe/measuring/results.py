"""PURE: what a measurement returns. All of it is frozen; numbers are bytes, packets and seconds.

Bytes of IP packets are those of docs/record.md: with their headers, as the host's stack handles
them. Payload is what programs passed to their sockets: of TCP the bytes of the stream, each once,
however often it was transmitted; of UDP the content of the datagrams.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

SourceName = Literal["ebpf", "pcap"]


@dataclass(frozen=True, slots=True)
class Totals:
    """Traffic in both directions, as seen from the processes that are measured."""

    transmit_bytes: int = 0
    """Bytes of IP packets, headers included."""
    transmit_packets: int = 0
    receive_bytes: int = 0
    receive_packets: int = 0
    transmit_payload_bytes: int | None = 0
    """Application bytes of TCP and UDP; None where the source cannot know them."""
    receive_payload_bytes: int | None = 0

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(
            self.transmit_bytes + other.transmit_bytes,
            self.transmit_packets + other.transmit_packets,
            self.receive_bytes + other.receive_bytes,
            self.receive_packets + other.receive_packets,
            _add(self.transmit_payload_bytes, other.transmit_payload_bytes),
            _add(self.receive_payload_bytes, other.receive_payload_bytes),
        )

    @property
    def bytes(self) -> int:
        """Bytes of IP packets in both directions."""
        return self.transmit_bytes + self.receive_bytes

    @property
    def payload_bytes(self) -> int | None:
        """Application bytes in both directions, None where they are not known."""
        return _add(self.transmit_payload_bytes, self.receive_payload_bytes)


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes of IP packets a second, since the reading before."""

    transmit_bytes: float = 0.0
    receive_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Peer:
    """One service at one remote address: what was exchanged with it."""

    address: str
    """The remote address; empty for traffic of more peers than are kept apart."""
    protocol: str
    """As `network.transport` of records: `tcp`, `udp`, `icmp`, `icmpv6`, …, or its number."""
    port: int | None
    """The remote port, where the peer is the one that serves; None where it has none."""
    local_port: int | None
    """The local port, where the peer connected to it; None else."""
    totals: Totals

    @property
    def endpoint(self) -> str:
        """The address and the port of a peer that serves, `[::1]:443`; else the address."""
        if self.port is None:
            return self.address
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Losses:
    """What the kernel could not count or report; all zero in a complete measurement."""

    packets: int = 0
    """Packets that found no room in the kernel's maps or buffers."""
    sockets: int = 0
    """Times that the owner of a socket could not be recorded."""
    forks: int = 0
    """Times that reports of new processes were lost, so that children may be missing."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the measured processes moved, from the begin of the measurement on."""

    source: SourceName
    seconds: float = 0.0
    """From the begin of the measurement to this reading."""
    totals: Totals = Totals()
    rates: Rates = Rates()
    peers: tuple[Peer, ...] = ()
    """The peer with the most bytes first."""
    quality: Mapping[str, int] = field(default_factory=dict)
    """Bytes of `totals` by how their owner was found (docs/record.md): `exact`, `listener`, …"""
    unattributed_bytes: int = 0
    """Bytes of the host whose process `pcap` could not find; some may be of the measured ones."""
    losses: Losses = Losses()
    follows_children: bool = True
    """Whether the kernel reported each new process; else short-lived children may be missing."""
    is_running: bool = True
    """Whether the measured process, if it is one, still ran."""

    def to_json(self) -> dict[str, object]:
        """Return the same as JSON values."""
        found = asdict(self)
        found["quality"] = dict(self.quality)
        return found


def sort_peers(peers: Iterable[Peer]) -> tuple[Peer, ...]:
    """Return peers with the most bytes first."""
    return tuple(sorted(peers, key=lambda one: (-one.totals.bytes, one.address, one.port or 0)))


def _add(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other

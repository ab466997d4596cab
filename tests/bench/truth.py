"""The truth: the traffic of each process of the load, from tcpdump and the ports they logged."""

import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from support.wire import read_packets

Part = tuple[int, int, int]
"""A connection: protocol, local port, remote port. All have the same two addresses."""


@dataclass(frozen=True)
class Owner:
    """A process, or a server with its workers; `remote_port` None means any."""

    name: str
    pids: frozenset[int]
    protocol: int
    local_ports: Sequence[int]
    remote_port: int | None


@dataclass
class Truth:
    """The traffic on the wire by owner and connection; bytes are those of IP packets."""

    bytes: Counter[tuple[str, Part]] = field(default_factory=Counter)
    packets: Counter[tuple[str, Part]] = field(default_factory=Counter)
    stray_packets: int = 0
    """TCP and UDP packets of connections that no process of the load logged."""


def read_truth(path: Path, near: str, owners: Sequence[Owner]) -> Truth:
    """Join a capture with the logs. Raises ValueError if two processes used the same connection."""
    owner_of = _index(owners)
    address = socket.inet_pton(socket.AF_INET6 if ":" in near else socket.AF_INET, near)
    truth = Truth()
    for packet in read_packets(path):
        if packet.source == address:
            local, remote = packet.source_port, packet.destination_port
        else:
            local, remote = packet.destination_port, packet.source_port
        part = (packet.protocol, local, remote)
        name = owner_of.get(part) or owner_of.get((packet.protocol, local, None))
        if name is None:
            truth.stray_packets += 1
        else:
            truth.bytes[name, part] += packet.size
            truth.packets[name, part] += 1
    return truth


def _index(owners: Sequence[Owner]) -> dict[tuple[int, int, int | None], str]:
    index: dict[tuple[int, int, int | None], str] = {}
    for owner in owners:
        for port in owner.local_ports:
            name = index.setdefault((owner.protocol, port, owner.remote_port), owner.name)
            if name != owner.name:
                raise ValueError(
                    f"{name} and {owner.name} both used port {port}: the truth is ambiguous"
                )
    return index

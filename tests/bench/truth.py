"""The truth: the traffic of each process of the load, from tcpdump and the ports they logged."""

import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from support.wire import read_packets

Part = tuple[int, int, int]
"""An end of a connection: protocol, local port, remote port."""


@dataclass(frozen=True)
class Owner:
    """A process, or a server with its workers; `remote_port` None means any."""

    name: str
    address: str
    pids: frozenset[int]
    protocol: int
    local_ports: Sequence[int]
    remote_port: int | None


@dataclass
class Truth:
    """The traffic on the wire by owner and connection; bytes are those of IP packets.

    A packet with two measured ends counts at each of them.
    """

    bytes: Counter[tuple[str, Part]] = field(default_factory=Counter)
    packets: Counter[tuple[str, Part]] = field(default_factory=Counter)
    stray_packets: int = 0
    """TCP and UDP packets of connections that no process of the load logged."""


def read_truth(path: Path, measured: Sequence[str], owners: Sequence[Owner]) -> Truth:
    """Join a capture with the logs of the processes at the `measured` addresses.

    Raises ValueError if two processes used the same connection.
    """
    owner_of = _index(owners)
    addresses = {_pack(one) for one in measured}
    truth = Truth()
    for packet in read_packets(path):
        source = packet.source, packet.source_port
        destination = packet.destination, packet.destination_port
        known = 0
        for (address, local), (_, remote) in ((source, destination), (destination, source)):
            if address not in addresses:
                continue
            exact, any_remote = ((address, packet.protocol, local, port) for port in (remote, None))
            name = owner_of.get(exact) or owner_of.get(any_remote)
            if name is not None:
                part = packet.protocol, local, remote
                truth.bytes[name, part] += packet.size
                truth.packets[name, part] += 1
                known += 1
        truth.stray_packets += known < len(addresses)
    return truth


def _pack(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _index(owners: Sequence[Owner]) -> dict[tuple[bytes, int, int, int | None], str]:
    index: dict[tuple[bytes, int, int, int | None], str] = {}
    for owner in owners:
        address = _pack(owner.address)
        for port in owner.local_ports:
            key = address, owner.protocol, port, owner.remote_port
            name = index.setdefault(key, owner.name)
            if name != owner.name:
                raise ValueError(
                    f"{name} and {owner.name} both used port {port}: the truth is ambiguous"
                )
    return index

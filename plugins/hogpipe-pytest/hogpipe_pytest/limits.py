"""What a test may move, and what is wrong with what it moved.

In: the arguments of a marker, and measured traffic. Out: the text of a failure, None if all is
within the limits. Only `Limits.resolve` looks anything up: the addresses of names.
"""

import socket
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from hogpipe import Peer, Traffic

Network = IPv4Network | IPv6Network
_DNS = 53
_SHOWN = 20


@dataclass(frozen=True)
class Limits:
    """What a test may move: None is without a limit."""

    max_bytes: int | None = None
    """IP packets of both directions."""
    networks: tuple[Network, ...] | None = None
    """Where peers may be."""
    names: tuple[str, ...] = ()
    """Hosts whose addresses are allowed, too."""
    loopback: bool = False
    """Whether loopback addresses do not count."""
    dns: bool = False
    """Whether what is exchanged with port 53 does not count."""

    def resolve(self) -> "Limits":
        """Return the same with the addresses of the names. Raises OSError."""
        found = {ip_network(info[4][0]) for name in self.names for info in _look_up(name)}
        return replace(self, networks=(*(self.networks or ()), *found), names=()) if found else self


def make_limits(marker: str, args: Sequence[object], kwargs: Mapping[str, object]) -> Limits:
    """Return the limits in the arguments of a marker. Raises TypeError and ValueError."""
    keys = {"loopback", "dns"} | ({"max_bytes", "hosts"} if marker == "network" else set())
    if args or not kwargs.keys() <= keys:
        raise TypeError(f"takes only {', '.join(sorted(keys))}, by name")
    loopback, dns = (kwargs.get(name, False) for name in ("loopback", "dns"))
    if not isinstance(loopback, bool) or not isinstance(dns, bool):
        raise TypeError("loopback and dns are true or false")
    if marker == "no_network":
        return Limits(max_bytes=0, loopback=loopback, dns=dns)
    max_bytes, hosts = kwargs.get("max_bytes"), kwargs.get("hosts")
    if max_bytes is None and hosts is None:
        raise TypeError("needs max_bytes or hosts")
    if max_bytes is not None and (not isinstance(max_bytes, int) or max_bytes < 0):
        raise ValueError("max_bytes is a number of bytes")
    limits = Limits(max_bytes=max_bytes, loopback=loopback, dns=dns)
    if hosts is None:
        return limits
    if isinstance(hosts, str) or not isinstance(hosts, Collection):
        raise TypeError("hosts is a list of addresses, networks and names")
    return add_hosts(limits, [str(host) for host in hosts])


def add_hosts(limits: Limits, hosts: Sequence[str]) -> Limits:
    """Return limits that allow these addresses, networks and names, and no other peer."""
    networks, names = [], []
    for host in hosts:
        try:
            networks.append(ip_network(host, strict=False))
        except ValueError:
            names.append(host)
    return replace(limits, networks=tuple(networks), names=tuple(names))


def find_problem(traffic: Traffic, limits: Limits) -> str | None:
    """Return what exceeds the limits, with the peers."""
    peers = [peer for peer in traffic.peers if not _is_left_out(peer, limits)]
    moved = sum(peer.totals.bytes for peer in peers)
    if limits.networks is not None:
        others = [peer for peer in peers if not _is_allowed(peer, limits.networks)]
        if others:
            return _describe("network traffic with hosts that are not allowed:", others, traffic)
    if limits.max_bytes == 0 and moved:
        return _describe("network traffic, where none is allowed:", peers, traffic)
    if limits.max_bytes is not None and moved > limits.max_bytes:
        head = f"network traffic of {moved:,} bytes, where {limits.max_bytes:,} are allowed:"
        return _describe(head, peers, traffic)
    return None


def find_gap(traffic: Traffic) -> str | None:
    """Return why a measurement that is within limits may lack something."""
    losses, parts = traffic.losses, []
    if losses.packets or losses.sockets or losses.forks:
        parts.append(
            f"the kernel lost {losses.packets} packets, {losses.sockets} owners of sockets and "
            f"{losses.forks} reports of forks"
        )
    if traffic.unattributed_bytes:
        parts.append(f"{traffic.unattributed_bytes:,} B of this host have no known process")
    if not traffic.follows_children:
        parts.append("the kernel reports no forks here")
    return f"the test may have moved more: {'; '.join(parts)}" if parts else None


def _look_up(name: str) -> list[tuple[object, object, int, str, tuple[str, int]]]:
    return socket.getaddrinfo(name, None, proto=socket.IPPROTO_TCP)  # type: ignore[return-value]


def _is_left_out(peer: Peer, limits: Limits) -> bool:
    if limits.dns and _DNS in {peer.port, peer.local_port}:
        return True
    return limits.loopback and peer.address != "" and ip_address(peer.address).is_loopback


def _is_allowed(peer: Peer, networks: Collection[Network]) -> bool:
    return peer.address != "" and any(ip_address(peer.address) in one for one in networks)


def _describe(head: str, peers: Sequence[Peer], traffic: Traffic) -> str:
    lines = [head]
    for peer in peers[:_SHOWN]:
        ends = peer.endpoint or "(others)"
        if peer.local_port is not None:
            ends += f" to port {peer.local_port}"
        totals = peer.totals
        lines.append(
            f"  {peer.protocol} {ends}  "
            f"transmit {totals.transmit_bytes:,} B, receive {totals.receive_bytes:,} B"
        )
    if len(peers) > _SHOWN:
        lines.append(f"  and {len(peers) - _SHOWN} more")
    if traffic.unattributed_bytes:
        lines.append(f"  (and {traffic.unattributed_bytes:,} B of this host without a process)")
    return "\n".join(lines)

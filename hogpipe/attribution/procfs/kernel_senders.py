"""PURE: which part of the kernel has traffic that no process has: tunnels, file systems.

In: flows for which no process was found, with the sockets that match them, and the links of this
network namespace. Out: a name such as `vxlan`, with the quality.

Rules
-----
- Tunnels over UDP (VXLAN, GENEVE, bareudp): rtnetlink shows the port of each such link. What
  arrives at that port is the tunnel's, by its socket (`listener`). What is sent to that port at the
  other end comes from a port that the kernel chose, without a socket (`inferred`).
- WireGuard transmits and receives on one port, whose socket no process holds (`inferred`, if there
  is a link of that kind).
- Tunnels over IP (GRE, IP in IP, SIT) are named by their protocol if there is a link of their kind,
  and IPsec (ESP, AH) by its protocol alone (`inferred`).
- File systems and block devices: a TCP connection whose socket no process holds, at a port of such
  a service (`inferred`).

A socket counts as held by no process if lookups did not find a holder for `UNHELD_SECONDS`.

Known limits: a program that sends datagrams to the port of such a tunnel, each on a socket that
closes before its lookup, is taken for it. Kernel sockets at other ports have only their user.
Tunnels of containers are not known.
"""

from collections.abc import Iterable, Mapping

import msgspec

from hogpipe.linux.rtnetlink import Link
from hogpipe.linux.socket_table import SocketRow
from hogpipe.model import OWN_NAMESPACE, FlowKey, Quality
from hogpipe.protocols import TCP, UDP

UNHELD_SECONDS = 1.0
_IPIP, _IPV6_IN_IP, _GRE, _ESP, _AH = 4, 41, 47, 50, 51
_WIREGUARD = "wireguard"
_NAMES = {_IPIP: "ipip", _IPV6_IN_IP: "sit", _GRE: "gre", _ESP: "esp", _AH: "ah"}
_KINDS: Mapping[int, frozenset[str]] = {
    _IPIP: frozenset({"ipip", "ip6tnl"}),
    _IPV6_IN_IP: frozenset({"sit", "ip6tnl"}),
    _GRE: frozenset({"gre", "gretap", "erspan", "ip6gre", "ip6gretap", "ip6erspan"}),
}
"""The kinds of the links of tunnels over IP; IPsec needs none."""
_SERVICES = {2049: "nfs", 445: "cifs", 3260: "iscsi", 3300: "ceph", 6789: "ceph", 10809: "nbd"}
"""Services whose client, or server, may be the kernel."""


class KernelSender(msgspec.Struct, frozen=True):
    """A part of the kernel, and how sure that is."""

    name: str
    quality: Quality


class KernelSenders:
    """What the links of a network namespace show."""

    def __init__(self, links: Iterable[Link] = ()) -> None:
        self._kinds = {link.kind for link in links}
        self._tunnels = {
            link.tunnel_port: link.kind for link in links if link.tunnel_port and link.kind
        }

    def find(
        self, flow: FlowKey, rows: tuple[SocketRow, ...], *, is_unheld: bool
    ) -> KernelSender | None:
        """Return the part of the kernel that has a flow without a process; None if unknown.

        `rows` are the sockets that match it; `is_unheld`: no process was found to hold them for
        `UNHELD_SECONDS`.
        """
        if flow.protocol == UDP:
            return self._find_tunnel(flow, rows, is_unheld=is_unheld)
        if flow.protocol == TCP:
            port = flow.remote_port if flow.remote_port in _SERVICES else flow.local_port
            name = _SERVICES.get(port) if rows and is_unheld else None
        elif rows:
            return None  # a raw socket, whose holder is not known
        else:
            name = _NAMES.get(flow.protocol)
            kinds = _KINDS.get(flow.protocol)
            if kinds is not None and kinds.isdisjoint(self._kinds):
                return None
        return None if name is None else KernelSender(name, Quality.INFERRED)

    def _find_tunnel(
        self, flow: FlowKey, rows: tuple[SocketRow, ...], *, is_unheld: bool
    ) -> KernelSender | None:
        if rows and (name := self._tunnels.get(flow.local_port)) is not None:
            return KernelSender(name, Quality.LISTENER)
        if not rows and (name := self._tunnels.get(flow.remote_port)) is not None:
            return KernelSender(name, Quality.INFERRED)
        if rows and is_unheld and _WIREGUARD in self._kinds:
            return KernelSender(_WIREGUARD, Quality.INFERRED)
        return None


def may_be_kernels(flow: FlowKey) -> bool:
    """Return whether a rule may name the part of the kernel that a flow is of."""
    if flow.namespace != OWN_NAMESPACE:
        return False
    if flow.protocol == TCP:
        return flow.remote_port in _SERVICES or flow.local_port in _SERVICES
    return flow.protocol == UDP or flow.protocol in _NAMES

"""PURE: the port of the service that a flow belongs to: the local or the remote one.

In: a flow key, with what is known of this host's ports. Out: one of the flow's two ports.

The rule, which needs no state of the flow and no packet
    1. The local port, if a TCP socket of this host listens on it.
    2. If one of both ports is ephemeral, the other one.
    3. The remote port of TCP: no socket listens on the local one, so this host connected.
    4. The lower port: of UDP and SCTP, and where listening sockets are not known, as in the other
       network namespaces.

Known limits: rule 3 names the client's port if the listener of an ephemeral port began to listen
after the ports were read last, or closed long ago. Rule 4 is a guess, and the same at both ends of
a flow: a bound UDP socket looks the same in the kernel's tables whether it serves or asks.
"""

from collections.abc import Set as AbstractSet

import msgspec

from hogpipe.model.flows import OWN_NAMESPACE, FlowKey
from hogpipe.protocols import TCP, WITH_PORTS

EPHEMERAL = (32_768, 60_999)
"""The kernel's default of the ports that it chooses itself, both ends included."""


class ServicePorts(msgspec.Struct, frozen=True):
    """What is known of this host's ports, as of one moment."""

    listening: AbstractSet[int] | None = None
    """The ports on which TCP sockets of our own network namespace listen, or listened a moment ago.
    None if unknown."""
    ephemeral: tuple[int, int] = EPHEMERAL
    """The first and the last port that the kernel chooses itself (ip_local_port_range)."""

    def find(self, flow: FlowKey) -> int:
        """Return the port of the service; 0 if the protocol has no ports, or none is known."""
        if flow.protocol not in WITH_PORTS:
            return 0
        local, remote = flow.local_port, flow.remote_port
        knows_listeners = (
            self.listening is not None and flow.protocol == TCP and flow.namespace == OWN_NAMESPACE
        )
        if knows_listeners and local in (self.listening or ()):
            return local
        if not (local and remote):
            return local or remote
        first, last = self.ephemeral
        local_is_ephemeral = first <= local <= last
        if local_is_ephemeral != (first <= remote <= last):
            return remote if local_is_ephemeral else local
        return remote if knows_listeners else min(local, remote)

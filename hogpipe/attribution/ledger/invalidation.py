"""Records which flows were answered from which socket, and invalidates them when that changes.

PURE. Flows whose cached owner may be wrong are added to a `StaleFlows`. For each socket the last
`_MAX_FLOWS` flows are recorded.

Known limits: a flow evicted from that record keeps its cached owner after the socket has changed.
"""

from collections import OrderedDict

from hogpipe.attribution.ledger.known_socket import KnownSocket
from hogpipe.attribution.stale_flows import StaleFlows
from hogpipe.model import FlowKey

_MAX_FLOWS = 1024


class InvalidationIndex:
    """The flows answered from each socket (`KnownSocket.answered_flows`)."""

    def __init__(self, stale: StaleFlows) -> None:
        self._stale = stale
        self.evicted = 0
        """Flows that were evicted because there were too many."""

    def record(self, flow: FlowKey, socket: KnownSocket) -> None:
        """Record that the owner of `flow` came from `socket`."""
        if socket.answered_flows is None:
            socket.answered_flows = OrderedDict()
        socket.answered_flows[flow] = None
        if len(socket.answered_flows) > _MAX_FLOWS:
            socket.answered_flows.popitem(last=False)
            self.evicted += 1

    def invalidate_flow(self, flow: FlowKey) -> None:
        """Invalidate a flow at once: its owner holds only for the packets that were looked up."""
        self._stale.add(flow)

    def invalidate(self, socket: KnownSocket) -> None:
        """Invalidate all flows that were answered from `socket`."""
        if socket.answered_flows:
            self._stale.add_all(socket.answered_flows)
            socket.answered_flows = None

    def invalidate_towards(self, remote_port: int, socket: KnownSocket) -> None:
        """Invalidate those that go to a remote port."""
        if socket.answered_flows:
            flows = [one for one in socket.answered_flows if one.remote_port == remote_port]
            self._stale.add_all(flows)

"""Which flows were answered from which socket, so that a change of the socket makes them stale.

Pure: stale flows are added to a `StaleFlows`.
"""

from hogpipe.attribution.ledger.known_socket import KnownSocket
from hogpipe.attribution.stale_flows import StaleFlows
from hogpipe.model import FlowKey

_KEPT = 1024


class InvalidationIndex:
    """Answers that were given; of one socket the last `_KEPT` are remembered."""

    def __init__(self, stale: StaleFlows) -> None:
        self._stale = stale
        self.forgotten = 0
        """Answers that were forgotten because there were too many."""

    def give(self, flow: FlowKey, socket: KnownSocket) -> None:
        """Remember that `flow` was answered from `socket`."""
        if socket.answered is None:
            socket.answered = {}
        socket.answered[flow] = None
        if len(socket.answered) > _KEPT:
            del socket.answered[next(iter(socket.answered))]
            self.forgotten += 1

    def give_once(self, flow: FlowKey) -> None:
        """Note that an answer is for the packets that were asked about, and no others."""
        self._stale.add((flow,))

    def withdraw(self, socket: KnownSocket) -> None:
        """Take all answers from `socket` for such as may be others now."""
        if socket.answered:
            self._stale.add(socket.answered)
            socket.answered = None

    def withdraw_towards(self, remote_port: int, socket: KnownSocket) -> None:
        """Take those for flows to a remote port for such as may be others now."""
        if socket.answered:
            self._stale.add([one for one in socket.answered if one.remote_port == remote_port])

"""PURE: ports of datagrams at which lookups have found unconnected sockets alone.

In: the flows of lookups, and whether each had a connected socket of its own. Out: whether a later
lookup of a flow would find the same.

A flow at the port of an unconnected socket may have had a socket of its own that was closed before
the lookup: some servers connect one for each peer. So an early lookup may gain something, until
`_ENOUGH` flows of a port in a row had none. The first one that has one starts the count again, and
so does a pause of more than `_MAX_PAUSE` seconds.

Known limit: where a server begins to connect sockets that live for less than the longest interval
between lookups, flows have the owner of the port until a lookup finds the first such socket.
"""

from collections import OrderedDict

from hogpipe.model import FlowKey

_ENOUGH = 64
_MAX_PAUSE = 10.0
_MAX_PORTS = 1024

_Port = tuple[int | None, int, bytes, int]


class UnconnectedPorts:
    """At most `_MAX_PORTS` ports, the one that was used longest ago is evicted first."""

    def __init__(self) -> None:
        self._runs: OrderedDict[_Port, tuple[int, float]] = OrderedDict()
        """How many flows in a row had no socket of their own, and when the last one was found."""

    def __len__(self) -> int:
        return len(self._runs)

    def record(self, flow: FlowKey, *, is_connected: bool, now: float) -> bool:
        """Record a flow of datagrams that has a socket, found `now`, in seconds.

        Return whether a later lookup would find the same.
        """
        port = (flow.namespace, flow.protocol, flow.local_address, flow.local_port)
        run, at = self._runs.pop(port, (0, now))
        if is_connected:
            return False
        run = run + 1 if now - at <= _MAX_PAUSE else 1
        self._runs[port] = run, now
        if len(self._runs) > _MAX_PORTS:
            self._runs.popitem(last=False)
        return run > _ENOUGH

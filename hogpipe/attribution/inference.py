"""PURE: the owner of sockets that were never seen, by those that were.

A connection that is over before the socket table can be read cannot be found in it. But a process
that talks to a remote endpoint in many short connections is caught at it now and then. The rule:

    If at least `min_sockets` sockets towards the same protocol, remote address and remote port
    were seen within the last `memory` seconds, and all of them had one owner, then the unseen
    ones have that owner, too. Two owners, or a socket whose owner could not be told: none.

What is found so is told as `inferred`. A few sightings are not enough, for several processes that
share an endpoint would each be taken for the only one until the next is seen.
"""

from collections import OrderedDict

from hogpipe.model import FlowKey, Process

Endpoint = tuple[int, bytes, int]
"""Protocol, remote address, remote port."""

_Identity = tuple[int, int]
_MOST_SOCKETS = 64  # that are remembered of an endpoint


def endpoint_of(flow: FlowKey) -> Endpoint:
    """Return what the flow talks to."""
    return flow.protocol, flow.remote_address, flow.remote_port


class EndpointOwners:
    """Remembers which sockets were seen towards which endpoint, at most `max_endpoints`."""

    def __init__(
        self, *, min_sockets: int = 8, memory: float = 30.0, max_endpoints: int = 16_384
    ) -> None:
        self._min_sockets = min_sockets
        self._memory = memory
        self._max_endpoints = max_endpoints
        self._seen: OrderedDict[Endpoint, _Sightings] = OrderedDict()

    def see(self, endpoint: Endpoint, inode: int, owner: Process | None, now: float) -> None:
        """Note that the socket `inode` talks to `endpoint`; `owner` is None if it is in doubt."""
        sightings = self._seen.setdefault(endpoint, _Sightings())
        self._seen.move_to_end(endpoint)
        sightings.add(inode, owner, now)
        if len(self._seen) > self._max_endpoints:
            self._seen.popitem(last=False)

    def infer(self, endpoint: Endpoint, now: float) -> Process | None:
        """Return whose the unseen sockets towards `endpoint` are, None if that does not follow."""
        sightings = self._seen.get(endpoint)
        if sightings is None:
            return None
        sightings.forget(now - self._memory)
        if not sightings.sockets:
            del self._seen[endpoint]
        if len(sightings.sockets) < self._min_sockets:
            return None
        return sightings.only_owner()


class _Sightings:
    """The sockets that were seen towards one endpoint, the latest last."""

    __slots__ = ("sockets",)

    def __init__(self) -> None:
        self.sockets: OrderedDict[int, tuple[Process | None, float]] = OrderedDict()

    def add(self, inode: int, owner: Process | None, now: float) -> None:
        self.sockets[inode] = owner, now
        self.sockets.move_to_end(inode)
        if len(self.sockets) > _MOST_SOCKETS:
            self.sockets.popitem(last=False)

    def forget(self, latest: float) -> None:
        while self.sockets:
            inode, (_owner, seen) = next(iter(self.sockets.items()))
            if seen >= latest:
                return
            del self.sockets[inode]

    def only_owner(self) -> Process | None:
        owners: dict[_Identity | None, Process | None] = {}
        for owner, _seen in self.sockets.values():
            owners[None if owner is None else (owner.pid, owner.start)] = owner
        return owners.popitem()[1] if len(owners) == 1 else None

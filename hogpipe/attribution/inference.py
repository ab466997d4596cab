"""PURE: the owner of sockets that were never seen, by those that were.

A connection that is over before the socket table can be read cannot be found in it. But a process
that talks to a remote endpoint in many short connections is caught at it now and then. The rule:

    If at least `min_sockets` sockets towards the same protocol, remote address and remote port
    were seen within the last `memory` seconds, and all of them had one owner, then the unseen
    ones have that owner, too. Two owners, or a socket that stayed open and whose owner could not
    be told: none.

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
        """Note that the socket `inode` talks to `endpoint`; `owner` is None if it is not known.

        That makes for doubt only when it is noted again: at first the socket may just be closed.
        """
        sightings = self._seen.setdefault(endpoint, _Sightings())
        self._seen.move_to_end(endpoint)
        sightings.forget(now - self._memory)
        sightings.add(inode, owner, now)
        if len(self._seen) > self._max_endpoints:
            self._seen.popitem(last=False)

    def is_settled(self, endpoint: Endpoint, now: float) -> bool:
        """Tell whether enough is known of an endpoint: an owner, or that there is none."""
        sightings = self._seen.get(endpoint)
        if sightings is None:
            return False
        sightings.forget(now - self._memory)
        return len(sightings.sockets) >= self._min_sockets or sightings.is_disputed()

    def infer(self, endpoint: Endpoint, now: float) -> Process | None:
        """Return whose the unseen sockets towards `endpoint` are, None if that does not follow."""
        sightings = self._seen.get(endpoint)
        if sightings is None:
            return None
        sightings.forget(now - self._memory)
        if not sightings.sockets and not sightings.unowned:
            del self._seen[endpoint]
        if len(sightings.sockets) < self._min_sockets:
            return None
        return sightings.only_owner()


class _Sightings:
    """The sockets that were seen towards one endpoint, the latest last."""

    __slots__ = ("_owners", "sockets", "unowned")

    def __init__(self) -> None:
        self._owners: dict[_Identity | None, int] = {}
        """How many of the sockets each has."""
        self.sockets: OrderedDict[int, tuple[Process | None, float]] = OrderedDict()
        self.unowned: OrderedDict[int, float] = OrderedDict()
        """Sockets whose owner was not known when they were seen for the first time, and that."""

    def add(self, inode: int, owner: Process | None, now: float) -> None:
        if owner is None and inode not in self.sockets and inode not in self.unowned:
            self.unowned[inode] = now
            if len(self.unowned) > _MOST_SOCKETS:
                self.unowned.popitem(last=False)
            return
        self.unowned.pop(inode, None)
        self._remove(inode)
        self.sockets[inode] = owner, now
        identity = _identify(owner)
        self._owners[identity] = self._owners.get(identity, 0) + 1
        if len(self.sockets) > _MOST_SOCKETS:
            self._remove(next(iter(self.sockets)))

    def forget(self, latest: float) -> None:
        while self.sockets:
            inode, (_owner, seen) = next(iter(self.sockets.items()))
            if seen >= latest:
                break
            self._remove(inode)
        while self.unowned and next(iter(self.unowned.values())) < latest:
            self.unowned.popitem(last=False)

    def only_owner(self) -> Process | None:
        if len(self._owners) != 1:
            return None
        owner, _seen = self.sockets[next(reversed(self.sockets))]
        return owner

    def is_disputed(self) -> bool:
        return len(self._owners) > 1 or None in self._owners

    def _remove(self, inode: int) -> None:
        if inode not in self.sockets:
            return
        owner, _seen = self.sockets.pop(inode)
        identity = _identify(owner)
        self._owners[identity] -= 1
        if not self._owners[identity]:
            del self._owners[identity]


def _identify(owner: Process | None) -> _Identity | None:
    return None if owner is None else (owner.pid, owner.start)

"""PURE: the owner of sockets that were never seen, by those that were.

A connection that is over before the socket table can be read cannot be found in it. But a process
that talks to a remote endpoint in many short connections is caught at it now and then. The rule:

    If at least `min_sockets` sockets towards the same protocol, remote address and remote port were
    caught within the last `memory` seconds, and all sockets that were seen there had one owner,
    then the unseen ones have that owner, too. Two owners, or a socket that stays open and whose
    owner cannot be told: none.

Caught is a socket that was there when all were looked at, was soon gone, and was never found by the
look-up for its own flow: others like it go unseen. A socket that lives long enough for that says
nothing of those that do not: who keeps connections open need not be who makes the short ones.

What follows is told as `inferred`. A few sightings are not enough, for several processes that share
an endpoint would each be taken for the only one until the next is seen.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping

import msgspec

from hogpipe.model import FlowKey, Process

Endpoint = tuple[int, bytes, int]
"""Protocol, remote address, remote port."""

_Identity = tuple[int, int | None]
_MOST_OPEN = 256  # sockets of an endpoint whose end is waited for
_MOST_CAUGHT, _MOST_OWNERS = 64, 4  # two are as good as many
_SHORT_LIFE = 1.0  # seconds, from when a socket was first seen to when it was gone
_DOUBT = 0.2  # seconds for which a socket may be seen without an owner: it may just be closing


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
        """Note that a flow to `endpoint` has the socket `inode`; `owner` is None if not known."""
        self._touch(endpoint, now).see(inode, owner, now, matched=True)

    def see_all(self, endpoint: Endpoint, owners: Mapping[int, Process | None], now: float) -> None:
        """Note all sockets that talk to `endpoint`, whatever flows they have: there are no others.

        `owners` tells by inode whose they are, None where that is not known.
        """
        sightings = self._touch(endpoint, now)
        for inode, owner in owners.items():
            sightings.see(inode, owner, now, matched=False)
        sightings.end_others(owners, now)

    def is_settled(self, endpoint: Endpoint, now: float) -> bool:
        """Tell whether enough is known of an endpoint: an owner, or that there is none."""
        sightings = self._seen.get(endpoint)
        if sightings is None:
            return False
        sightings.forget(now - self._memory)
        return len(sightings.caught) >= self._min_sockets or sightings.is_disputed()

    def owners_of(self, endpoint: Endpoint) -> set[int]:
        """Return the pids of who was seen to have sockets towards `endpoint`, a few at the most."""
        sightings = self._seen.get(endpoint)
        return set() if sightings is None else sightings.pids()

    def infer(self, endpoint: Endpoint, now: float) -> Process | None:
        """Return whose the unseen sockets towards `endpoint` are, None if that does not follow."""
        sightings = self._seen.get(endpoint)
        if sightings is None:
            return None
        sightings.forget(now - self._memory)
        if sightings.is_empty():
            del self._seen[endpoint]
        return sightings.only_owner() if len(sightings.caught) >= self._min_sockets else None

    def _touch(self, endpoint: Endpoint, now: float) -> "_Sightings":
        sightings = self._seen.setdefault(endpoint, _Sightings())
        self._seen.move_to_end(endpoint)
        sightings.forget(now - self._memory)
        if len(self._seen) > self._max_endpoints:
            self._seen.popitem(last=False)
        return sightings


class _Open(msgspec.Struct, gc=False):
    """A socket that was there when it was seen last."""

    first: float
    last: float
    owned: bool = False
    matched: bool = False
    """Whether its flow was looked up in time."""


class _Sightings:
    """What was seen of the sockets towards one endpoint."""

    __slots__ = ("_open", "_owners", "caught")

    def __init__(self) -> None:
        self._owners: OrderedDict[_Identity | None, tuple[Process | None, float]] = OrderedDict()
        """Who had sockets here, and when last; None stands for a socket in doubt."""
        self._open: OrderedDict[int, _Open] = OrderedDict()
        """By inode, the one that was seen last at the end."""
        self.caught: deque[float] = deque(maxlen=_MOST_CAUGHT)
        """When sockets with an owner were found to be gone: those that were caught."""

    def see(self, inode: int, owner: Process | None, now: float, *, matched: bool) -> None:
        known = self._open.pop(inode, None)
        if known is None:
            known = _Open(now, now)
        known.last = now
        known.matched |= matched
        if owner is not None:
            known.owned = True
            self._note_owner((owner.pid, owner.start), owner, now)
        elif now - known.first >= _DOUBT:
            self._note_owner(None, None, now)
        if len(self._open) < _MOST_OPEN:
            self._open[inode] = known

    def end_others(self, present: Mapping[int, object], now: float) -> None:
        for inode in [inode for inode in self._open if inode not in present]:
            ended = self._open.pop(inode)
            if ended.owned and not ended.matched and now - ended.first <= _SHORT_LIFE:
                self.caught.append(now)

    def forget(self, latest: float) -> None:
        while self._owners and next(iter(self._owners.values()))[1] < latest:
            self._owners.popitem(last=False)
        while self._open and next(iter(self._open.values())).last < latest:
            self._open.popitem(last=False)
        while self.caught and self.caught[0] < latest:
            self.caught.popleft()

    def only_owner(self) -> Process | None:
        if len(self._owners) != 1:
            return None
        owner, _seen = next(iter(self._owners.values()))
        return owner

    def is_disputed(self) -> bool:
        return len(self._owners) > 1 or None in self._owners

    def pids(self) -> set[int]:
        return {identity[0] for identity in self._owners if identity is not None}

    def is_empty(self) -> bool:
        return not (self._owners or self._open or self.caught)

    def _note_owner(self, identity: _Identity | None, owner: Process | None, now: float) -> None:
        self._owners[identity] = owner, now
        self._owners.move_to_end(identity)
        if len(self._owners) > _MOST_OWNERS:
            self._owners.popitem(last=False)

"""PURE: the endpoint heuristic names the owner of flows whose socket closed before the lookup.

A connection that is closed before the socket table is read cannot be found in it. But a process
that opens many short connections to a remote endpoint is seen with some of them. The rule:

    If at least `min_sockets` short-lived sockets to the same protocol, remote address and remote
    port were sampled within the last `max_age` seconds, and all sockets seen there had one owner,
    then flows to that endpoint without a socket have that owner. The heuristic names no owner if
    there were two owners, or if a socket stays open and its owner cannot be determined.

Flows that the heuristic attributes have the quality `inferred`.

Evidence (`EndpointHeuristic`)
------------------------------
Only short-lived sockets count: sockets that a periodic sample saw, that closed within a second, and
that the lookup of their own flow missed. They resemble the sockets that closed unseen. A socket
that lives long enough for its own lookup is no evidence: the process that keeps connections open
need not be the one that makes the short ones. But it counts as an owner, and so can make the
endpoint ambiguous. Few sockets are not enough: with several processes on one endpoint, each would
be named until the next is seen.

Sampling (`SamplingSchedule`)
-----------------------------
A sample reads all sockets to an endpoint. The rule assumes that processes with sockets that live
equally long are found equally often (`FdCache.sample_owners`). An endpoint is sampled only if
several flows to it missed their sockets since its last sample. Until its evidence is conclusive, an
endpoint is sampled at short intervals for a while; after that, at long ones. CPU time for samples
is limited to a share.

Each network namespace has endpoints of its own: equal addresses may lead to different hosts, and
evidence of a container says nothing of another one.

Times are seconds of the caller's clock.
"""

import math
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Mapping
from itertools import islice, takewhile
from typing import NamedTuple

import msgspec

from hogpipe.attribution.procfs.matching import has_endpoint
from hogpipe.model import FlowKey, Process


class Endpoint(NamedTuple):
    """A remote endpoint, as a network namespace sees it."""

    namespace: int
    protocol: int
    address: bytes
    port: int


_Identity = tuple[int, int | None]
_MAX_OPEN = 256  # open sockets of one endpoint whose end is observed
_MAX_SHORT_LIVED = 64
_MAX_OWNERS = 4  # two already make an endpoint ambiguous
_SHORT_LIFE = 1.0  # seconds between the first sample with a socket and the first without it
_OWNERLESS_SECONDS = 0.2  # a socket without an owner may just be closing for so long

_SHORT_INTERVAL = 0.01
_LONG_INTERVAL = 1.0
_SHORT_INTERVALS = 128  # samples of one endpoint before its intervals become long
_CPU_SHARE = 0.25
_MAX_SAMPLED_AT_ONCE = 64  # endpoints: the kernel filters by few ports
_MISS_MAX_AGE = 30.0
_MIN_MISSES = 2  # flows: a single flow says nothing of others to the same endpoint


def endpoint_of(flow: FlowKey) -> Endpoint | None:
    """Return the remote endpoint of a flow; None if the heuristic does not apply to the flow.

    It applies to flows of a protocol with a table by ports, in a network namespace that is known.
    """
    if flow.namespace is None or not has_endpoint(flow):
        return None
    return Endpoint(flow.namespace, flow.protocol, flow.remote_address, flow.remote_port)


class EndpointHeuristic:
    """Collects evidence of at most `max_endpoints` endpoints, and infers owners from it."""

    def __init__(
        self, *, min_sockets: int = 8, max_age: float = 30.0, max_endpoints: int = 16_384
    ) -> None:
        self._min_sockets = min_sockets
        self._max_age = max_age
        self._max_endpoints = max_endpoints
        self._evidence: OrderedDict[Endpoint, _Evidence] = OrderedDict()

    def record_match(
        self, endpoint: Endpoint, inode: int, owner: Process | None, now: float
    ) -> None:
        """Record a socket that the lookup of its own flow found; `owner` is None if unknown."""
        self._touch(endpoint, now).record(inode, owner, now, matched=True)

    def record_sample(
        self, endpoint: Endpoint, owners: Mapping[int, Process | None], now: float
    ) -> None:
        """Record the owners of all sockets to `endpoint` by inode, None if the owner is unknown.

        A socket that an earlier sample had and this one has not is closed.
        """
        evidence = self._touch(endpoint, now)
        for inode, owner in owners.items():
            evidence.record(inode, owner, now, matched=False)
        evidence.close_absent(owners, now)

    def is_conclusive(self, endpoint: Endpoint, now: float) -> bool:
        """Return whether the evidence suffices to name an owner, or to rule one out."""
        evidence = self._evidence.get(endpoint)
        if evidence is None:
            return False
        evidence.expire(now - self._max_age)
        return len(evidence.short_lived) >= self._min_sockets or evidence.is_ambiguous()

    def owner_pids(self, endpoint: Endpoint) -> set[int]:
        """Return the pids of the owners seen with sockets to `endpoint`, at most a few."""
        evidence = self._evidence.get(endpoint)
        return set() if evidence is None else evidence.pids()

    def infer_owner(self, endpoint: Endpoint, now: float) -> Process | None:
        """Return the owner of flows to `endpoint` without a socket; None if the rule names none."""
        evidence = self._evidence.get(endpoint)
        if evidence is None:
            return None
        evidence.expire(now - self._max_age)
        if evidence.is_empty():
            del self._evidence[endpoint]
        enough = len(evidence.short_lived) >= self._min_sockets
        return evidence.only_owner() if enough else None

    def _touch(self, endpoint: Endpoint, now: float) -> "_Evidence":
        evidence = self._evidence.get(endpoint)
        if evidence is None:
            evidence = self._evidence[endpoint] = _Evidence()
        self._evidence.move_to_end(endpoint)
        evidence.expire(now - self._max_age)
        if len(self._evidence) > self._max_endpoints:
            self._evidence.popitem(last=False)
        return evidence


class _OpenSocket(msgspec.Struct, gc=False):
    """A socket that the latest sample or lookup saw open."""

    first_seen: float
    last_seen: float
    has_owner: bool = False
    matched: bool = False
    """Whether the lookup of its own flow found it."""


class _Evidence:
    """The sockets and the owners seen at one endpoint."""

    __slots__ = ("_oldest", "_open", "_owners", "short_lived")

    def __init__(self) -> None:
        self._owners: OrderedDict[_Identity | None, tuple[Process | None, float]] = OrderedDict()
        """Each owner and when it was last seen, the latest last; None: a socket without owner."""
        self._open: OrderedDict[int, _OpenSocket] = OrderedDict()
        """By inode, the socket that was seen latest last."""
        self.short_lived: deque[float] = deque(maxlen=_MAX_SHORT_LIVED)
        """When each short-lived socket with an owner was found closed."""
        self._oldest = -math.inf
        """What was last seen before this has been removed."""

    def record(self, inode: int, owner: Process | None, now: float, *, matched: bool) -> None:
        """Record that a socket is open."""
        socket = self._open.pop(inode, None)
        if socket is None:
            socket = _OpenSocket(now, now)
        socket.last_seen = now
        socket.matched |= matched
        if owner is not None:
            socket.has_owner = True
            self._record_owner((owner.pid, owner.start), owner, now)
        elif now - socket.first_seen >= _OWNERLESS_SECONDS:
            self._record_owner(None, None, now)
        if len(self._open) < _MAX_OPEN:
            self._open[inode] = socket

    def close_absent(self, present: Mapping[int, object], now: float) -> None:
        """Remove the open sockets that are not in `present`, and count the short-lived ones."""
        for inode in [inode for inode in self._open if inode not in present]:
            socket = self._open.pop(inode)
            lifetime = now - socket.first_seen
            if socket.has_owner and not socket.matched and lifetime <= _SHORT_LIFE:
                self.short_lived.append(now)

    def expire(self, oldest: float) -> None:
        """Remove what was last seen before `oldest`."""
        if oldest <= self._oldest:  # as for each flow of a lookup but the first one
            return
        self._oldest = oldest
        while self._owners and next(iter(self._owners.values()))[1] < oldest:
            self._owners.popitem(last=False)
        while self._open and next(iter(self._open.values())).last_seen < oldest:
            self._open.popitem(last=False)
        while self.short_lived and self.short_lived[0] < oldest:
            self.short_lived.popleft()

    def only_owner(self) -> Process | None:
        """Return the owner if there is exactly one."""
        if len(self._owners) != 1:
            return None
        owner, _last_seen = next(iter(self._owners.values()))
        return owner

    def is_ambiguous(self) -> bool:
        """Return whether the sockets have several owners, or one of them none."""
        return len(self._owners) > 1 or None in self._owners

    def pids(self) -> set[int]:
        """Return the pids of the owners."""
        return {identity[0] for identity in self._owners if identity is not None}

    def is_empty(self) -> bool:
        """Return whether everything has expired."""
        return not (self._owners or self._open or self.short_lived)

    def _record_owner(self, identity: _Identity | None, owner: Process | None, now: float) -> None:
        self._owners[identity] = owner, now
        self._owners.move_to_end(identity)
        if len(self._owners) > _MAX_OWNERS:
            self._owners.popitem(last=False)


class _Target(msgspec.Struct):
    """An endpoint to be sampled."""

    last_miss: float
    misses: int = 0
    """Since its last sample."""
    samples: int = 0
    due_at: float = 0.0


class _FirstMisses:
    """When the first flow to an endpoint missed its socket, for at most `size` endpoints.

    In numbers: a flood of endpoints of one flow each would leave objects all over the memory of the
    interpreter. An endpoint replaces another one with the same place.
    """

    def __init__(self, size: int) -> None:
        self._hashes = array("q", bytes(8 * size))
        self._times = array("d", [-math.inf]) * size

    def is_repeated(self, endpoint: Endpoint, now: float) -> bool:
        """Return whether a miss of this endpoint was recorded lately; if not, record this one."""
        number = hash(endpoint)
        place = number % len(self._hashes)
        is_known = self._hashes[place] == number and now - self._times[place] <= _MISS_MAX_AGE
        self._hashes[place], self._times[place] = number, -math.inf if is_known else now
        return is_known


class SamplingSchedule:
    """Plans samples of endpoints that several flows missed, at most `max_endpoints` of them.

    `cpu_share` is the share of one core that samples may take.
    """

    def __init__(self, *, max_endpoints: int = 4096, cpu_share: float = _CPU_SHARE) -> None:
        self._max_endpoints = max_endpoints
        self._cpu_share = cpu_share
        self._first_misses = _FirstMisses(max_endpoints)
        self._targets: OrderedDict[Endpoint, _Target] = OrderedDict()
        """The endpoint with the latest miss last."""
        self._due_at = 0.0

    def record_miss(self, endpoint: Endpoint, now: float) -> None:
        """Record that the lookup of a flow to `endpoint` found no socket."""
        target = self._targets.get(endpoint)
        if target is None:
            if not self._first_misses.is_repeated(endpoint, now):
                return
            target = self._targets[endpoint] = _Target(now, misses=1)
        target.last_miss = now
        target.misses += 1
        self._targets.move_to_end(endpoint)
        if len(self._targets) > self._max_endpoints:
            self._targets.popitem(last=False)

    def candidates(self, now: float) -> list[Endpoint]:
        """Return the endpoints that are due now if their flows miss again, the latest miss first.

        Expires endpoints without a recent miss.
        """
        while self._targets:
            endpoint, target = next(iter(self._targets.items()))
            if now - target.last_miss <= _MISS_MAX_AGE:
                break
            del self._targets[endpoint]
        if now < self._due_at:
            return []
        recent = takewhile(
            lambda item: now - item[1].last_miss <= _LONG_INTERVAL, reversed(self._targets.items())
        )
        return [endpoint for endpoint, target in recent if now >= target.due_at]

    def take_due(
        self, now: float, is_conclusive: Callable[[Endpoint], bool]
    ) -> Collection[Endpoint]:
        """Return the endpoints to sample now, and set when each of them is due next.

        `is_conclusive` returns whether the evidence of an endpoint suffices
        (`EndpointHeuristic.is_conclusive`).
        """
        missed = (one for one in self.candidates(now) if self._targets[one].misses >= _MIN_MISSES)
        due = list(islice(missed, _MAX_SAMPLED_AT_ONCE))
        for endpoint in due:
            target = self._targets[endpoint]
            # Long intervals end for all endpoints at the same time: one sample serves many.
            until_common_end = _LONG_INTERVAL - now % _LONG_INTERVAL
            is_long = target.samples >= _SHORT_INTERVALS or is_conclusive(endpoint)
            target.due_at = now + (until_common_end if is_long else _SHORT_INTERVAL)
            target.samples += 1
            target.misses = 0
        return due

    def record_cost(self, cpu_seconds: float, now: float) -> None:
        """Record the CPU time of a sample, which delays the next one."""
        self._due_at = now + max(_SHORT_INTERVAL, cpu_seconds / self._cpu_share)

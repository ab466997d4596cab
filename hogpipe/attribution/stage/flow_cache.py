"""PURE: the attributions of known flows, and which of them are due for another lookup.

Eviction
--------
Two generations approximate a list by last use: a flow that is used moves to the young generation.
When that is full or old enough, the old generation is evicted and the young one takes its place. So
a hit costs one dict lookup, and eviction costs nothing for each flow.

A flood of flows should leave its memory soon, and is not worth much of it (linux/memory.py). Of
flows without an owner, as those from forged addresses are, at most an eighth of a generation is
cached. A crowded cache, of more than an eighth of its bound or with as many flows without an owner
as may be, has short generations: the flood is evicted half a minute after its end. Flows idle for
as long are due for another lookup anyway.

Validity
--------
An attribution holds for the next packet only as long as the fact it rests on. The cache decides
that for each delta of a known flow, from the delta and what is cached, without a further lookup in
a table (`FlowCache.judge`):

- A flow without connections (UDP, raw, ICMP) whose socket paused for more than `PAUSE_NS` needs a
  lookup: the port may be another process's by now. The pause is that of the local endpoint, so that
  a server with many clients that transmit rarely is not looked up for each.
- So does such a flow whose owner has exited. Packets from before the exit was seen are the former
  owner's, unless the lookup finds another one.
- Any attribution is compared with a lookup one second after the one that found it, then after two
  and four more seconds: until then a socket may have been passed on to another process. After that
  it is rechecked at intervals while packets are attributed by it.

Known limits: a process that closes the port of its datagram socket and lives on, with another
process on the port within the pause, is noticed at the next comparison. Pauses within a delta,
which sums the packets of one batch, are not seen.

Invalidation
------------
A lookup can be overtaken: the owner of a flow changes after the lookup has read it. So a flow that
was invalidated in the current epoch is not cached until the next epoch begins; the attributor
starts one with each lookup.
"""

import math
from collections.abc import Hashable, Iterable
from enum import Enum
from itertools import islice
from typing import Protocol
from weakref import WeakValueDictionary

import msgspec

from hogpipe.model import UNATTRIBUTED, Attribution, FlowDelta, FlowKey, Quality
from hogpipe.protocols import TCP, WITH_PORTS

PAUSE_NS = 500_000_000
"""A flow without connections is looked up after a longer pause; packets of one batch are summed for
less than this."""
FIRST_COMPARISON = 1.0
"""Seconds after which an attribution is compared for the first time."""
_CERTAINTY = {Quality.NONE: 0, Quality.INFERRED: 1, Quality.LISTENER: 2, Quality.EXACT: 3}
_MIN_CROWD = 1024  # flows: a smaller cache is never crowded
_UNKNOWN_TIME_NS = (1 << 63) - 1  # of packets: after any exit


class Validity(Enum):
    """Whether a cached attribution holds for a delta."""

    HOLDS = 1
    RECHECK = 2
    """It is used, and looked up again soon."""
    COMPARE = 3
    """It holds unless a lookup, for which the bytes are kept, finds another owner."""
    ENDED = 4
    """It does not hold: the flow is to be looked up like an unknown one."""


class OwnerLifetime(Protocol):
    """When the owner of a flow has exited."""

    exited_ns: int | None
    """Nanoseconds since the epoch, at the latest; None while it lives."""


class _Unwatched:
    exited_ns: int | None = None


UNWATCHED: OwnerLifetime = _Unwatched()
"""Of an owner that cannot be watched, and of a flow without one: it never ends."""


class LocalActivity(msgspec.Struct, eq=False, weakref=True):
    """When the last packet of a local endpoint passed; its flows share one object."""

    last_ns: int


class CachedFlow(msgspec.Struct, gc=False):
    """The attribution of a flow, and when a lookup was last asked for it."""

    attribution: Attribution
    checked_at: float
    compare_after: float = FIRST_COMPARISON
    """Seconds after `checked_at` from which the attribution is compared or rechecked."""
    activity: LocalActivity | None = None
    """Of a flow without connections."""
    lifetime: OwnerLifetime | None = None
    """Of the owner, once it is watched."""

    def goes_on(self, delta: FlowDelta, now: float) -> bool:
        """Return whether the flow simply goes on with `delta`, so that the attribution holds.

        This is the quick answer for most deltas; without it `FlowCache.judge` decides.
        """
        activity, lifetime = self.activity, self.lifetime
        if activity is not None:
            if delta.first_ns - activity.last_ns > PAUSE_NS:
                return False
            if lifetime is None or lifetime.exited_ns is not None:
                return False
            if delta.last_ns > activity.last_ns:  # noqa: PLR1730 - as in FlowDelta.add
                activity.last_ns = delta.last_ns
        return now - self.checked_at < self.compare_after


def is_as_certain(found: Attribution, known: Attribution) -> bool:
    """Return whether what was found is no less certain than what was known.

    That a flow is translated is certain, as conntrack knows the connection itself.
    """
    return found.is_translated or (
        not known.is_translated and _CERTAINTY[found.quality] >= _CERTAINTY[known.quality]
    )


class FlowCache:
    """At most `max_flows` (2 or more) flows; the half of them that was used last is always kept.

    A flow is evicted when it was idle for `idle` to twice `idle` seconds of the caller's clock, in
    a crowded cache a quarter of that.
    Attributions are compared until they are `recheck_after` seconds old, then rechecked at that
    interval. Without `follows_pauses`, pauses and exits do not matter.
    """

    def __init__(
        self,
        max_flows: int,
        idle: float,
        now: float,
        *,
        recheck_after: float = math.inf,
        follows_pauses: bool = True,
    ) -> None:
        self._recheck_after = recheck_after
        self._follows_pauses = follows_pauses
        self._max_young = max(1, max_flows // 2)
        self._short_generations = 0
        """How many generations, from the present one on, are short."""
        self._crowd = max(_MIN_CROWD, max_flows // 8)
        self._max_unowned = max(_MIN_CROWD, self._max_young // 8)
        self._unowned = 0
        """How many flows without an owner were added to the young generation."""
        self._idle = idle
        self._generation_began = now
        self._young: dict[FlowKey, CachedFlow] = {}
        self._old: dict[FlowKey, CachedFlow] = {}
        self._invalidated: set[FlowKey] = set()
        self._all_invalidated = False
        self._activities: WeakValueDictionary[Hashable, LocalActivity] = WeakValueDictionary()
        """By local endpoint."""
        self.evicted = 0
        """Flows evicted since the last `drain_evicted`."""

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, flow: FlowKey) -> CachedFlow | None:
        """Return what is cached for `flow`; this is a use."""
        cached = self._young.get(flow)
        if cached is None and (cached := self._old.pop(flow, None)) is not None:
            self._keep(flow, cached)
        return cached

    def put(self, flow: FlowKey, cached: CachedFlow, last_ns: int = 0) -> None:
        """Cache `cached`, unless `flow` was invalidated in this epoch.

        `last_ns` is the time of the last packet so far, 0 where packets have no times.
        """
        if self.is_invalidated(flow):
            return
        if flow.protocol != TCP and self._follows_pauses:
            endpoint = _local_endpoint(flow)
            cached.activity = self._activities.get(endpoint)
            if cached.activity is None:
                cached.activity = self._activities[endpoint] = LocalActivity(last_ns)
            cached.activity.last_ns = max(cached.activity.last_ns, last_ns)
        self._old.pop(flow, None)
        self._keep(flow, cached)

    def judge(self, flow: FlowKey, cached: CachedFlow, delta: FlowDelta, now: float) -> Validity:
        """Return whether what is cached for `flow` holds for a delta that came in `now`."""
        activity = cached.activity
        if activity is not None:
            if delta.first_ns - activity.last_ns > PAUSE_NS:
                endpoint = _local_endpoint(flow)
                if self._activities.get(endpoint) is activity:
                    # All flows of the endpoint paused, whichever transmits first.
                    del self._activities[endpoint]
                return Validity.ENDED
            lifetime = cached.lifetime
            if lifetime is not None and lifetime.exited_ns is not None:
                began_ns = delta.first_ns or _UNKNOWN_TIME_NS
                return Validity.ENDED if began_ns >= lifetime.exited_ns else Validity.COMPARE
            if delta.last_ns > activity.last_ns:  # noqa: PLR1730 - as in FlowDelta.add
                activity.last_ns = delta.last_ns
        if now - cached.checked_at < cached.compare_after:
            return Validity.HOLDS
        is_young = cached.compare_after < self._recheck_after
        return Validity.COMPARE if is_young else Validity.RECHECK

    def refresh(self, flow: FlowKey, attribution: Attribution) -> None:
        """Take a new attribution for `flow`, if the flow is cached.

        A TCP connection keeps its owner after its socket is closed: its last packets are still its
        own, though a lookup then finds the listener only. The next connection begins with a SYN.
        """
        cached = self.get(flow)
        if cached is None:
            return
        is_better = is_as_certain(attribution, cached.attribution)
        # An equal attribution keeps the object: others compare by identity.
        if (is_better or flow.protocol != TCP) and attribution != cached.attribution:
            cached.attribution, cached.lifetime = attribution, None

    def discard(self, flow: FlowKey) -> None:
        """Remove `flow`, which does not count as an eviction."""
        young = self._young.pop(flow, None)
        if young is not None and young.attribution == UNATTRIBUTED:
            self._unowned = max(0, self._unowned - 1)
        self._old.pop(flow, None)

    def start_epoch(self) -> None:
        """Cache what is put from now on, whatever was invalidated before."""
        self._invalidated.clear()
        self._all_invalidated = False

    def invalidate(self, flows: Iterable[FlowKey]) -> None:
        """Remove `flows`, and do not cache them in this epoch."""
        for flow in flows:
            self.discard(flow)
            self._invalidated.add(flow)

    def invalidate_all(self) -> None:
        """Remove every flow, and cache none in this epoch."""
        self._young.clear()
        self._old.clear()
        self._unowned = 0
        self._all_invalidated = True

    def is_invalidated(self, flow: FlowKey) -> bool:
        """Return whether `flow` was invalidated in this epoch."""
        return self._all_invalidated or (bool(self._invalidated) and flow in self._invalidated)

    def evict_idle(self, now: float) -> None:
        """Evict the flows that have been idle for long enough."""
        if len(self._young) > self._crowd or self._unowned >= self._max_unowned:
            self._short_generations = 3  # this one and two more, until all of its flows are gone
        if now - self._generation_began >= self._idle / (4 if self._short_generations else 1):
            self._generation_began = now
            self._short_generations = max(0, self._short_generations - 1)
            self._start_generation()

    def drain_evicted(self) -> int:
        """Return how many flows were evicted since the last call."""
        evicted, self.evicted = self.evicted, 0
        return evicted

    def _keep(self, flow: FlowKey, cached: CachedFlow) -> None:
        if flow not in self._young:
            if len(self._young) >= self._max_young:
                self._start_generation()
            if cached.attribution == UNATTRIBUTED:
                if self._unowned >= self._max_unowned:
                    self.evicted += 1
                    return
                self._unowned += 1
        self._young[flow] = cached

    def _start_generation(self) -> None:
        self.evicted += len(self._old)
        self._old, self._young = self._young, {}
        self._unowned = 0


def _local_endpoint(flow: FlowKey) -> Hashable:
    """Return what flows of one socket have in common; the flow itself if there are no ports."""
    if flow.protocol not in WITH_PORTS:
        return flow
    return flow.protocol, flow.local_address, flow.local_port, flow.namespace


class RecheckQueue:
    """Cached flows in use whose attribution is older than `interval` seconds.

    They are looked up together with new flows. Alone they are worth a lookup once in `interval`.
    """

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self._flows: dict[FlowKey, None] = {}
        self._last_lookup = -math.inf
        self._due = math.inf

    def __len__(self) -> int:
        return len(self._flows)

    def add(self, flow: FlowKey) -> None:
        """Add a flow that is due for a recheck."""
        self._flows[flow] = None
        self._due = self._last_lookup + self.interval

    def next_due(self) -> float:
        """Return when the flows are worth a lookup of their own; infinity for never."""
        return self._due

    def take(self, max_flows: int, now: float) -> list[FlowKey]:
        """Return at most `max_flows` flows for a lookup that begins `now`."""
        taken = list(islice(self._flows, max(0, max_flows)))
        for flow in taken:
            del self._flows[flow]
        self._last_lookup = now
        self._due = now if self._flows else math.inf
        return taken

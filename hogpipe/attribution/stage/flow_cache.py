"""PURE: the attributions of known flows, and which of them are due for another lookup.

Eviction
--------
Two generations approximate a list by last use: a flow that is used moves to the young generation.
When that is full or old enough, the old generation is evicted and the young one takes its place. So
a hit costs one dict lookup, and eviction costs nothing for each flow.

Invalidation
------------
A lookup can be overtaken: the owner of a flow changes after the lookup has read it. So a flow that
was invalidated in the current epoch is not cached until the next epoch begins; the attributor
starts one with each lookup.
"""

import math
from collections.abc import Iterable
from itertools import islice

import msgspec

from hogpipe.model import Attribution, FlowKey, Quality
from hogpipe.protocols import TCP

_CERTAINTY = {Quality.NONE: 0, Quality.INFERRED: 1, Quality.LISTENER: 2, Quality.EXACT: 3}


class CachedFlow(msgspec.Struct, gc=False):
    """The attribution of a flow, and when a lookup was last asked for it."""

    attribution: Attribution
    checked_at: float


class FlowCache:
    """At most `max_flows` (2 or more) flows; the half of them that was used last is always kept.

    A flow is evicted when it was idle for `idle` to twice `idle` seconds of the caller's clock.
    """

    def __init__(self, max_flows: int, idle: float, now: float) -> None:
        self._max_young = max(1, max_flows // 2)
        self._idle = idle
        self._generation_began = now
        self._young: dict[FlowKey, CachedFlow] = {}
        self._old: dict[FlowKey, CachedFlow] = {}
        self._invalidated: set[FlowKey] = set()
        self._all_invalidated = False
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

    def put(self, flow: FlowKey, cached: CachedFlow) -> None:
        """Cache `cached`, unless `flow` was invalidated in this epoch."""
        if not self.is_invalidated(flow):
            self._old.pop(flow, None)
            self._keep(flow, cached)

    def refresh(self, flow: FlowKey, attribution: Attribution) -> None:
        """Take a new attribution for `flow`, if the flow is cached.

        A TCP connection keeps its owner after its socket is closed: its last packets are still its
        own, though a lookup then finds the listener only. The next connection begins with a SYN.
        """
        cached = self.get(flow)
        if cached is None:
            return
        is_as_certain = _CERTAINTY[attribution.quality] >= _CERTAINTY[cached.attribution.quality]
        # An equal attribution keeps the object: others compare by identity.
        if (is_as_certain or flow.protocol != TCP) and attribution != cached.attribution:
            cached.attribution = attribution

    def discard(self, flow: FlowKey) -> None:
        """Remove `flow`, which does not count as an eviction."""
        self._young.pop(flow, None)
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
        self._all_invalidated = True

    def is_invalidated(self, flow: FlowKey) -> bool:
        """Return whether `flow` was invalidated in this epoch."""
        return self._all_invalidated or (bool(self._invalidated) and flow in self._invalidated)

    def evict_idle(self, now: float) -> None:
        """Evict the flows that have been idle for long enough."""
        if now - self._generation_began >= self._idle:
            self._generation_began = now
            self._start_generation()

    def drain_evicted(self) -> int:
        """Return how many flows were evicted since the last call."""
        evicted, self.evicted = self.evicted, 0
        return evicted

    def _keep(self, flow: FlowKey, cached: CachedFlow) -> None:
        if flow not in self._young and len(self._young) >= self._max_young:
            self._start_generation()
        self._young[flow] = cached

    def _start_generation(self) -> None:
        self.evicted += len(self._old)
        self._old, self._young = self._young, {}


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

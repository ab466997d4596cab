"""PURE: the attributions of known flows, and whether they hold for the next packets.

A known flow has a lane in the flow table, on which its packets count without being looked at here.
The cache opens the lanes, and judges what the table returns. What both need to know is in the table
alone: the last packet of an endpoint, whether an owner is watched, and when a flow was used last.

Eviction
--------
A flow is cached as long as it has a slot in the table, which evicts idle flows and bounds them
(`FlowTable.evict`); it calls `FlowCache.evict`.

Validity
--------
An attribution holds for the next packet only as long as the fact it rests on (`FlowCache.judge`):

- A flow without connections (UDP, raw, ICMP) whose socket paused for more than `PAUSE_NS` needs a
  lookup: the port may be another process's by now. The pause is that of the local endpoint, so that
  a server with many clients that transmit rarely is not looked up for each. A socket that has been
  open for long is likely to stay so: it may pause for half of that time, up to `_MAX_PAUSE`
  seconds, and so may at once a socket whose release will be reported (`max_pause_ns`). So sockets
  that transmit every second are not looked up for each packet. An endpoint with several sockets may
  pause for as long as each of them.
- So does such a flow whose owner has exited. Packets from before the exit was seen are the former
  owner's, unless the lookup finds another one.
- Any attribution is compared with a lookup one second after the one that found it, then after two
  and four more seconds: until then a socket may have been passed on to another process. After that
  it is rechecked at intervals while packets are attributed by it.

What cannot change is not looked up again (`cannot_change`): that a flow is translated, as conntrack
keeps that for the connection, and the inferred owner of a TCP connection, whose socket is closed.
An exact owner can change, also if the ledger names it: a socket may be passed on at any time.

In a replay the host has one state. Only the creation of the owner matters: packets from before are
not those of the process.

Known limits: a process that closes the port of its datagram socket and lives on, with another
process on the port within the pause that the socket may have, is noticed at the next comparison:
packets of the other process are attributed to the former one for as long, one to ten seconds.
Pauses within a delta, which sums the packets of one batch, are not seen.

Invalidation
------------
A lookup can be overtaken: the owner of a flow changes after the lookup has read it. So a flow that
was invalidated in the current epoch is not cached until the next epoch begins; the attributor
starts one with each lookup.

Threads
-------
The thread of the source invalidates and evicts, with the lock of the table. What the event loop
does in several steps it does with that lock.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from enum import Enum

import msgspec

from hogpipe.attribution.resolver import Resolution
from hogpipe.flows.flow_table import FlowTable
from hogpipe.flows.lanes import PAUSE_NS, NewLane
from hogpipe.model import Attribution, FlowDelta, FlowKey, Quality, owner_at
from hogpipe.protocols import NANOSECONDS, TCP, WITH_PORTS

FIRST_COMPARISON = 1.0
"""Seconds after which an attribution is compared for the first time."""
_MAX_PAUSE = 2.5  # seconds
_PAUSE_SHARE = 0.5  # of the time for which a socket has been open
_CERTAINTY = {Quality.NONE: 0, Quality.INFERRED: 1, Quality.LISTENER: 2, Quality.EXACT: 3}
_UNKNOWN_TIME_NS = (1 << 63) - 1  # of packets: after any exit
ANY_PAUSE_NS = (1 << 63) - 1
"""The pause that a flow may make which will be looked up anyway."""


class Validity(Enum):
    """Whether a cached attribution holds for a delta."""

    HOLDS = 1
    RECHECK = 2
    """It is used, and looked up again soon."""
    COMPARE = 3
    """It holds unless a lookup, for which the bytes are kept, finds another owner."""
    ENDED = 4
    """It does not hold: the flow is to be looked up like an unknown one."""


class CachedFlow(msgspec.Struct, gc=False):
    """The attribution of a flow, and when another lookup is due."""

    attribution: Attribution
    due_at: float
    """When it is compared or rechecked. Infinity: it cannot change, or is queued for a recheck."""
    compare_after: float = FIRST_COMPARISON
    """How many seconds that was after the last lookup."""
    max_pause_ns: int = PAUSE_NS
    """For how long a flow without connections may pause."""


def is_as_certain(found: Attribution, known: Attribution) -> bool:
    """Return whether what was found is no less certain than what was known.

    That a flow is translated is certain, as conntrack knows the connection itself.
    """
    return found.is_translated or (
        not known.is_translated and _CERTAINTY[found.quality] >= _CERTAINTY[known.quality]
    )


def cannot_change(flow: FlowKey, attribution: Attribution) -> bool:
    """Return whether each further lookup of a connection would leave its attribution."""
    is_closed = flow.protocol == TCP and attribution.quality is Quality.INFERRED
    return attribution.is_translated or is_closed


def max_pause_ns(open_for: float) -> int:
    """Return for how long a socket may pause that has been open for so many seconds."""
    return max(PAUSE_NS, round(min(_PAUSE_SHARE * open_for, _MAX_PAUSE) * NANOSECONDS))


class FlowCache:
    """Known flows, with lanes in `table`.

    Attributions are compared until they are `recheck_after` seconds old, then rechecked at that
    interval. Without `follows_pauses`, pauses and exits do not matter. `is_replay`: a process is
    not the owner of packets from before its creation.
    """

    def __init__(
        self,
        table: FlowTable,
        *,
        recheck_after: float = math.inf,
        follows_pauses: bool = True,
        is_replay: bool = False,
    ) -> None:
        self._table = table
        self._recheck_after = recheck_after
        self._follows_pauses = follows_pauses
        self._is_replay = is_replay
        self._flows: dict[FlowKey, CachedFlow] = {}
        self._invalidated: set[FlowKey] = set()
        self._all_invalidated = False
        self._evicted = 0
        table.on_free = self.evict

    def __len__(self) -> int:
        return len(self._flows)

    def get(self, flow: FlowKey) -> CachedFlow | None:
        """Return what is cached for `flow`."""
        return self._flows.get(flow)

    def put(self, flows: Iterable[tuple[FlowKey, CachedFlow, int]], now: float) -> None:
        """Cache distinct flows and open their lanes, but for those invalidated in this epoch.

        With each comes the time of its last packet so far, 0 where packets have no times. Flows
        without a slot, as the table is full, count as evicted.
        """
        with self._table.lock:
            added = [one for one in flows if not self.is_invalidated(one[0])]
            for flow, cached, _last_ns in added:
                if cannot_change(flow, cached.attribution):
                    cached.due_at = math.inf
            has_slot = self._table.open_lanes([self._make_lane(*one, now) for one in added])
            for (flow, cached, _last_ns), is_put in zip(added, has_slot, strict=True):
                if is_put:
                    self._flows[flow] = cached
            self._evicted += len(added) - sum(has_slot)

    def judge(
        self,
        deltas: Sequence[tuple[FlowKey, CachedFlow, FlowDelta]],
        exits: Sequence[int | None],
        now: float,
    ) -> list[Validity]:
        """Return whether what is cached for distinct flows holds for deltas that came in `now`.

        `exits` says when each owner was seen to have exited. Each delta is judged after those
        before it.
        """
        paused = self._judge_pauses(deltas, exits)
        judged = []
        for (flow, cached, delta), exited_ns, has_paused in zip(deltas, exits, paused, strict=True):
            validity = Validity.HOLDS
            if has_paused:
                validity = Validity.ENDED
            elif exited_ns is not None and self._follows_pauses and flow.protocol != TCP:
                began_ns = delta.first_ns or _UNKNOWN_TIME_NS
                validity = Validity.ENDED if began_ns >= exited_ns else Validity.COMPARE
            elif now >= cached.due_at:
                is_young = cached.compare_after < self._recheck_after
                validity = Validity.COMPARE if is_young else Validity.RECHECK
            judged.append(validity)
        return judged

    def _judge_pauses(
        self,
        deltas: Sequence[tuple[FlowKey, CachedFlow, FlowDelta]],
        exits: Sequence[int | None],
    ) -> Sequence[bool]:
        """Return which deltas came after a pause; packets of owners that live are recorded."""
        paused = [False] * len(deltas)
        if not self._follows_pauses:
            return paused
        places = [place for place, (flow, _, _) in enumerate(deltas) if flow.protocol != TCP]
        if places:
            found = self._table.judge_pauses(
                [deltas[place][0] for place in places],
                [deltas[place][2] for place in places],
                [exits[place] is None for place in places],
            )
            for place, has_paused in zip(places, found, strict=True):
                paused[place] = has_paused
        return paused

    def go_on(self, flows: Sequence[tuple[FlowKey, CachedFlow]], now: float) -> None:
        """Open the lanes of distinct flows again, whose attributions hold."""
        if self._is_replay:
            self._table.open_lanes([self._make_lane(*one, 0, now) for one in flows])
        else:
            self._table.reopen_lanes(
                [flow for flow, _ in flows], [cached.due_at for _, cached in flows]
            )

    def refresh(self, found: Iterable[tuple[FlowKey, Resolution]], now: float) -> None:
        """Take new attributions for distinct flows, where the flow is cached.

        A TCP connection keeps its owner after its socket is closed: its last packets are still its
        own, though a lookup then finds the listener only. The next connection begins with a SYN.
        """
        with self._table.lock:
            lanes = []
            for flow, resolution in found:
                cached, attribution = self._flows.get(flow), resolution.attribution
                if cached is None:
                    continue
                is_better = is_as_certain(attribution, cached.attribution)
                # An equal attribution keeps the object: others compare by identity.
                if (is_better or flow.protocol != TCP) and attribution != cached.attribution:
                    cached.attribution = attribution
                elif cached.max_pause_ns != ANY_PAUSE_NS:
                    continue
                cached.max_pause_ns = max_pause_ns(resolution.open_for)
                lanes.append(self._make_lane(flow, cached, 0, now))
            self._table.open_lanes(lanes)

    def postpone(self, flows: Iterable[FlowKey], now: float) -> None:
        """Have distinct flows that were queued for a recheck rechecked after the interval again."""
        with self._table.lock:
            postponed = [(flow, one) for flow in flows if (one := self._flows.get(flow))]
            for flow, cached in postponed:
                cached.compare_after = self._recheck_after
                is_certain = cannot_change(flow, cached.attribution)
                cached.due_at = math.inf if is_certain else now + self._recheck_after
            self.go_on(postponed, now)

    def discard(self, flows: Iterable[FlowKey]) -> None:
        """Remove `flows`, which does not count as evictions."""
        # Others than the event loop only remove, with the lock.
        known = [flow for flow in flows if flow in self._flows]
        if known:
            with self._table.lock:
                self._table.close_lanes([flow for flow in known if self._flows.pop(flow, None)])

    def start_epoch(self) -> None:
        """Cache what is put from now on, whatever was invalidated before."""
        with self._table.lock:
            self._invalidated.clear()
            self._all_invalidated = False

    def invalidate(self, flows: Iterable[FlowKey]) -> None:
        """Remove `flows`, and do not cache them in this epoch."""
        with self._table.lock:
            stale = list(flows)
            self.discard(stale)
            self._invalidated.update(stale)

    def invalidate_all(self) -> None:
        """Remove every flow, and cache none in this epoch."""
        with self._table.lock:
            self._table.close_lanes(self._flows)
            self._flows.clear()
            self._all_invalidated = True

    def is_invalidated(self, flow: FlowKey) -> bool:
        """Return whether `flow` was invalidated in this epoch."""
        return self._all_invalidated or (bool(self._invalidated) and flow in self._invalidated)

    def evict(self, flows: Iterable[FlowKey]) -> None:
        """Remove flows that have no slot any more (the table calls this)."""
        before = len(self._flows)
        for flow in flows:
            self._flows.pop(flow, None)
        evicted = before - len(self._flows)
        self._evicted += evicted
        if evicted > len(self._flows):  # a dict never shrinks
            self._flows = dict(self._flows)

    def drain_evicted(self) -> int:
        """Return how many flows were evicted since the last call."""
        with self._table.lock:
            evicted, self._evicted = self._evicted, 0
            return evicted

    def _make_lane(self, flow: FlowKey, cached: CachedFlow, last_ns: int, now: float) -> NewLane:
        owner, due_at = cached.attribution, cached.due_at
        if self._is_replay:
            owner, until = owner_at(owner, now)
            due_at = min(due_at, until)
        follows_pauses = self._follows_pauses and flow.protocol != TCP
        endpoint = _local_endpoint(flow) if follows_pauses else None
        return NewLane(flow, owner, due_at, endpoint, last_ns, cached.max_pause_ns)


def _local_endpoint(flow: FlowKey) -> Hashable:
    """Return what flows of one socket have in common; the flow itself if there are no ports."""
    if flow.protocol not in WITH_PORTS:
        return flow
    return flow.protocol, flow.local_address, flow.local_port, flow.namespace

"""Known flows: what of them passes, what is looked up again, and what ends.

In: deltas of known flows that the flow table does not count, what has changed on the host, and the
answers to rechecks. Out: bytes with their owners, to the flow table; questions for the next lookup.

Brings together the cache (`flow_cache`), the exits of owners (`owner_watch`), the queue of rechecks
(`rechecks`) and what the ledger invalidates (`stale_flows`).

Threads: `start_batch` may be called by the thread of the source; all else is the event loop's.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from hogpipe.attribution.resolver import Resolution
from hogpipe.attribution.stage.flow_cache import (
    FIRST_COMPARISON,
    CachedFlow,
    FlowCache,
    Validity,
    max_pause_ns,
)
from hogpipe.attribution.stage.owner_watch import OwnerExits, OwnerWatch
from hogpipe.attribution.stage.pending_resolution import PendingResolution, Settled
from hogpipe.attribution.stage.rechecks import RecheckQueue, is_by_port
from hogpipe.attribution.stale_flows import EVERY_FLOW, StaleFlows
from hogpipe.flows.flow_table import FlowTable
from hogpipe.flows.packet_rows import RECEIVE, FlowSums
from hogpipe.model import Attribution, FlowDelta, FlowKey, Tally, owner_at

_MIN_DROPPED = 1024  # flows: fewer are not worth a look at all that are queued


class KnownFlows:
    """Known flows, with lanes in `table`; see Attributor for the arguments."""

    def __init__(
        self,
        table: FlowTable,
        stale_flows: StaleFlows,
        now: float,
        *,
        recheck_after: float,
        exits: OwnerExits | None,
        is_replay: bool,
    ) -> None:
        self._table = table
        self._stale_flows = stale_flows
        self._is_replay = is_replay
        self._first_comparison = FIRST_COMPARISON if exits is not None else recheck_after
        self._owners = None if exits is None else OwnerWatch(exits, table)
        self.cache = FlowCache(
            table,
            recheck_after=recheck_after,
            follows_pauses=exits is not None,
            is_replay=is_replay,
        )
        self.rechecks = RecheckQueue(recheck_after, now)
        self._translated = Tally()

    def start_batch(self) -> None:
        """Take in what has changed on the host until now."""
        self.drain_stale_flows()
        if self._owners is not None:
            self._owners.poll()

    def drain_stale_flows(self, *, ingest: bool = True) -> None:
        """Take the flows that the ledger has invalidated off the fast lane and out of the cache.

        See `StaleFlows.drain` for `ingest`.
        """
        with self._table.lock:
            stale = self._stale_flows.drain(ingest=ingest)
            if stale is EVERY_FLOW:
                self.cache.invalidate_all()
            elif stale:
                self.cache.invalidate(stale)

    def emit(self, moved: Sequence[tuple[FlowKey, FlowDelta, Attribution]], now: float) -> None:
        """Emit bytes of owners to the flow table."""
        if self._is_replay:
            moved = [(flow, delta, owner_at(owner, now)[0]) for flow, delta, owner in moved]
        self._table.add(moved)

    def ingest(
        self, flow: FlowKey, delta: FlowDelta, now: float, *, may_compare: bool
    ) -> tuple[Validity, CachedFlow | None]:
        """Emit a delta if what is known of its flow holds; return that, and what is known.

        A delta that is to be compared, or that is of an unknown flow (ENDED), is left to the
        caller; its flow is not cached any more. Without `may_compare` no delta is to be compared.
        """
        with self._table.lock:
            cached = None if delta.opened else self.cache.get(flow)
            validity = Validity.ENDED
            if cached is not None:
                validity = self._judge(flow, cached, delta, now, may_compare=may_compare)
            if cached is None or validity in (Validity.ENDED, Validity.COMPARE):
                self.cache.discard(flow)
                return validity, cached
            self.emit([(flow, delta, cached.attribution)], now)
            if self._owners is not None and self._table.needs_watch(flow):
                self._owners.watch(cached.attribution)
            if validity is Validity.RECHECK and cached.due_at < math.inf:
                cached.due_at = math.inf
                self.rechecks.add(flow, cached.attribution)
            self.cache.go_on(flow, cached, now)
            return validity, cached

    def settle(
        self, settled: Iterable[tuple[PendingResolution, Settled, Attribution]], now: float
    ) -> None:
        """Make flows known that are settled, each with the owner that was found.

        Comparisons become rarer while the owner stays.
        """
        found = [
            (pending.flow, self._make_cached(pending.known, one, owner), pending.total.last_ns)
            for pending, one, owner in settled
        ]
        self.cache.put(found, now)

    def take_rechecks(self, max_questions: int, now: float) -> list[Sequence[FlowKey]]:
        """Return questions for a lookup; see `RecheckQueue.take`.

        Flows that were evicted while they were queued are dropped once they may be the most.
        """
        if self.rechecks.flows > 2 * len(self.cache) + _MIN_DROPPED:
            self.rechecks.drop_unknown(lambda flow: self.cache.get(flow) is not None)
        return self.rechecks.take(max_questions, now)

    def conclude_recheck(
        self, flows: Sequence[FlowKey], found: Mapping[FlowKey, Resolution], now: float
    ) -> None:
        """Act on the answer to a question of `flows`, of which the first was asked about."""
        asked, *others = flows
        answer = found.get(asked)
        if answer is not None:
            self.cache.refresh(asked, answer.attribution, now)
        self.cache.postpone(asked, now)
        for flow in others:
            if answer is None or is_by_port(answer.attribution):
                if answer is not None:
                    self.cache.refresh(flow, answer.attribution, now)
                self.cache.postpone(flow, now)
            elif (cached := self.cache.get(flow)) is not None:
                self.rechecks.add(flow, cached.attribution)

    def take_translated(self, sums: FlowSums) -> FlowSums:
        """Count what translated flows moved, and return what the others did."""
        translated = [one.is_translated for one in sums.attributions]
        if not any(translated):
            return sums
        is_translated = np.array(translated)[sums.owners]
        moved = sums.counters[is_translated].sum(axis=0).tolist()
        total = Tally(packets=moved[1] + moved[RECEIVE + 1], bytes=moved[0] + moved[RECEIVE])
        self._translated.add(total)
        return sums.take(~is_translated)

    def drain_translated(self) -> Tally:
        """Return what translated flows moved since the last call."""
        translated, self._translated = self._translated, Tally()
        return translated

    def _make_cached(
        self, before: CachedFlow | None, settled: Settled, found: Attribution
    ) -> CachedFlow:
        compare_after = self._first_comparison
        if before is not None and before.attribution == found:
            compare_after = min(2 * before.compare_after, self.rechecks.interval)
        due_at = settled.checked_at + compare_after
        return CachedFlow(found, due_at, compare_after, max_pause_ns(settled.open_for))

    def _judge(
        self,
        flow: FlowKey,
        cached: CachedFlow,
        delta: FlowDelta,
        now: float,
        *,
        may_compare: bool,
    ) -> Validity:
        exited_ns = None if self._owners is None else self._owners.exited_ns(cached.attribution)
        validity = self.cache.judge(flow, cached, delta, now, exited_ns)
        if validity is Validity.COMPARE:
            is_paid = exited_ns is not None or self.rechecks.permits_comparison(now)
            return validity if may_compare and is_paid else Validity.RECHECK
        return validity

"""Known flows: what of them passes, what is looked up again, and what ends.

In: deltas of known flows that the flow table does not count, what has changed on the host, and the
answers to rechecks. Out: bytes with their owners, to the flow table; questions for the next lookup.

Brings together the cache (`flow_cache`), the exits of owners (`owner_watch`), the queue of rechecks
(`rechecks`) and what the ledger invalidates (`stale_flows`).

Threads: `start_batch` may be called by the thread of the source; all else is the event loop's.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress

import numpy as np

from hogpipe.attribution.resolver import Resolution
from hogpipe.attribution.stage.flow_cache import (
    ANY_PAUSE_NS,
    FIRST_COMPARISON,
    CachedFlow,
    FlowCache,
    Validity,
    max_pause_ns,
)
from hogpipe.attribution.stage.owner_watch import OwnerExits, OwnerWatch
from hogpipe.attribution.stage.pending_resolution import PendingResolution, Settled
from hogpipe.attribution.stage.rechecks import UNBOUNDED_SHARE, RecheckQueue, is_by_port
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
        self._rechecks = RecheckQueue(recheck_after, now)
        self._unreached = RecheckQueue(0.0, now, share=UNBOUNDED_SHARE)
        """Flows without an owner that no lookup reached while they were pending."""
        self._asked: list[tuple[RecheckQueue, int]] = []
        """From which queues the questions of the last lookup came, and how many."""
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
        self, deltas: Iterable[tuple[FlowKey, FlowDelta]], now: float, *, room: int
    ) -> list[tuple[FlowKey, FlowDelta, CachedFlow | None]]:
        """Emit the deltas of distinct flows of which what is known holds; return the others.

        What is returned is to be looked up, with the attribution that it is to be compared with, if
        any; its flows are not cached any more. No more than `room` are returned for a comparison.
        """
        held: list[tuple[FlowKey, FlowDelta, CachedFlow | None]] = []
        holds: list[tuple[FlowKey, CachedFlow, FlowDelta]] = []
        with self._table.lock:
            for flow, delta, cached, validity in self._judge(deltas, now):
                if cached is None or validity is Validity.ENDED:
                    held.append((flow, delta, None))
                elif (
                    validity is Validity.COMPARE
                    and len(held) < room
                    and self._may_compare(cached, now)
                ):
                    held.append((flow, delta, cached))
                else:
                    if validity is not Validity.HOLDS and cached.due_at < math.inf:
                        cached.due_at = math.inf
                        self._rechecks.add(flow, cached.attribution)
                    holds.append((flow, cached, delta))
            self.cache.discard(flow for flow, _, _ in held)
            self._go_on(holds, now)
        return held

    def settle(
        self, settled: Iterable[tuple[PendingResolution, Settled, Attribution]], now: float
    ) -> None:
        """Make flows known that are settled, each with the owner that was found.

        Comparisons become rarer while the owner stays. Flows that no lookup reached are queued for
        one; until then their packets pass.
        """
        found = []
        for pending, one, owner in settled:
            if pending.asked or not one.is_given_up or pending.known is not None:
                cached = self._make_cached(pending.known, one, owner)
            else:
                cached = self._queue_unreached(pending.flow, one, owner)
            found.append((pending.flow, cached, pending.total.last_ns))
        self.cache.put(found, now)

    def _queue_unreached(self, flow: FlowKey, settled: Settled, found: Attribution) -> CachedFlow:
        """Queue a flow for a lookup: soon if nothing is known of its owner."""
        has_owner = found.process is not None
        (self._rechecks if has_owner else self._unreached).add(flow, found)
        pause_ns = max_pause_ns(settled.open_for) if has_owner else ANY_PAUSE_NS
        return CachedFlow(found, math.inf, self._first_comparison, pause_ns)

    @property
    def queued_flows(self) -> int:
        """How many flows are queued for another lookup."""
        return self._rechecks.flows + self._unreached.flows

    def next_due(self) -> float:
        """Return when flows are worth a lookup of their own; infinity for never."""
        return min(self._rechecks.next_due(), self._unreached.next_due())

    def take_rechecks(self, max_questions: int, now: float) -> list[Sequence[FlowKey]]:
        """Return questions for a lookup; see `RecheckQueue.take`.

        Flows that were evicted while they were queued are dropped once they may be the most.
        """
        questions: list[Sequence[FlowKey]] = []
        self._asked = []
        for queue in (self._rechecks, self._unreached):
            if queue.flows > 2 * len(self.cache) + _MIN_DROPPED:
                queue.drop_unknown(lambda flow: self.cache.get(flow) is not None)
            taken = queue.take(max_questions - len(questions), now)
            self._asked.append((queue, len(taken)))
            questions += taken
        return questions

    def pay_for(
        self, questions: Sequence[Sequence[FlowKey]], cpu_seconds: float, now: float
    ) -> None:
        """Pay for the questions of the last lookup, each of which took this much CPU time."""
        start = 0
        for queue, number in self._asked:
            part = questions[start : start + number]
            queue.answered(part, cpu_seconds * number, now)
            start += number

    def conclude_rechecks(
        self,
        questions: Iterable[Sequence[FlowKey]],
        found: Mapping[FlowKey, Resolution],
        now: float,
    ) -> None:
        """Act on the answers to questions: of the flows of each, the first was asked about."""
        postponed: list[FlowKey] = []
        refreshed: list[tuple[FlowKey, Resolution]] = []
        for asked, *others in questions:
            answer = found.get(asked)
            is_shared = answer is None or is_by_port(answer.attribution)
            answered = [asked, *others] if is_shared else [asked]
            if answer is not None:
                refreshed += [(flow, answer) for flow in answered]
            postponed += answered
            for flow in () if is_shared else others:
                if (cached := self.cache.get(flow)) is not None:
                    self._rechecks.add(flow, cached.attribution)
        self.cache.refresh(dict(refreshed).items(), now)
        self.cache.postpone(dict.fromkeys(postponed), now)

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
            compare_after = min(2 * before.compare_after, self._rechecks.interval)
        due_at = settled.checked_at + compare_after
        return CachedFlow(found, due_at, compare_after, max_pause_ns(settled.open_for))

    def _judge(
        self, deltas: Iterable[tuple[FlowKey, FlowDelta]], now: float
    ) -> Iterable[tuple[FlowKey, FlowDelta, CachedFlow | None, Validity]]:
        """Return what is cached of each flow, and whether it holds; a SYN ends it."""
        found = [
            (flow, delta, None if delta.opened else self.cache.get(flow)) for flow, delta in deltas
        ]
        known = [(flow, cached, delta) for flow, delta, cached in found if cached is not None]
        exits = [self._exited_ns(cached) for _, cached, _ in known]
        judged = iter(self.cache.judge(known, exits, now) if known else ())
        return [
            (flow, delta, cached, Validity.ENDED if cached is None else next(judged))
            for flow, delta, cached in found
        ]

    def _exited_ns(self, cached: CachedFlow) -> int | None:
        return None if self._owners is None else self._owners.exited_ns(cached.attribution)

    def _may_compare(self, cached: CachedFlow, now: float) -> bool:
        """Return whether a comparison is paid for, or needed as the owner has exited."""
        return self._exited_ns(cached) is not None or self._rechecks.permits_comparison(now)

    def _go_on(self, holds: Sequence[tuple[FlowKey, CachedFlow, FlowDelta]], now: float) -> None:
        """Emit deltas of flows of which what is cached holds, and open their lanes again."""
        if not holds:
            return
        self.emit([(flow, delta, cached.attribution) for flow, cached, delta in holds], now)
        flows = [flow for flow, _, _ in holds]
        if self._owners is not None:
            need_watch = compress(holds, self._table.need_watch(flows))
            for attribution in dict.fromkeys(cached.attribution for _, cached, _ in need_watch):
                self._owners.watch(attribution)
        self.cache.go_on([(flow, cached) for flow, cached, _ in holds], now)

"""The stage that gives each flow's bytes an owner.

In: deltas of flows that the flow table does not count. Out: bytes with their owners, to the flow
table, and open lanes there, so that further packets of known flows are counted without this stage.

Bytes of a known flow are emitted at once (`known_flows.py`). A flow is known from its lookup on,
also one without an owner. While a flow is in use it is looked up again from time to time, and where
the owner may have changed its bytes are pending meanwhile (`FlowCache.judge` has the rules).

Bytes of an unknown flow are pending (`PendingResolution`) and add up, while one lookup at a time
runs in the executor for all flows that are due. Meanwhile further packets gather in the flow table,
from which they are taken when a lookup begins and when it ends. With a resolver that `has_history`
they do so only once they need not be pieces with spans of their own. A flow that a lookup left
undecided is retried until its first byte is `hold` seconds old; then its bytes are emitted with
what is known. So are those of a flow that no lookup has reached by then: where lookups cannot keep
up it is known without an owner, and queued for a lookup, from which on its packets have one.

No byte is lost: each one that was ingested has been emitted or is pending, whatever fails and
whenever `run` is cancelled. Bytes of translated flows are emitted like others; what is drained from
the table passes `take_translated`, which counts them and leaves them out.

Bounds
------
At most `max_pending` flows are pending. Further flows are folded: their bytes are emitted at once,
unattributed, as a few sums that keep the protocol and the interface (`fold_key`), and counted as
overflowed. Flows whose `hold` time is over make room for new ones first. Flows are known as long as
they have slots in the table.

Every `_SLICE` flows, work on the event loop yields to other tasks. A flow may be ingested, emitted
or invalidated meanwhile, so what a lookup found is checked against the tables again for each flow.

At a stop, `resolve_pending` gives one more lookup a short time, then the recorded owners; what is
left then is folded. So a stop takes no longer the more flows are pending.

Threads
-------
`start_batch` is called by whoever counts in the table, with its lock; all else is the event loop's.
The executor's thread runs lookups, and touches nothing here. A lookup that needs no thread would be
made in `_look_up`, in place of the executor's.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from itertools import islice

from hogpipe.attribution.resolver import Resolution, Resolver
from hogpipe.attribution.stage.batching import LookupPacer, judge
from hogpipe.attribution.stage.known_flows import KnownFlows
from hogpipe.attribution.stage.latency import LatencyMeter
from hogpipe.attribution.stage.lookup import LookupRunner
from hogpipe.attribution.stage.owner_watch import OwnerExits
from hogpipe.attribution.stage.pending import PendingFlows
from hogpipe.attribution.stage.pending_resolution import PendingResolution, Settled
from hogpipe.attribution.stale_flows import StaleFlows
from hogpipe.flows.flow_table import FlowTable
from hogpipe.flows.packet_rows import FlowSums
from hogpipe.model import (
    UNATTRIBUTED,
    Attribution,
    AttributionCounts,
    FlowDelta,
    FlowKey,
    fold_key,
    is_sum,
)

_MAX_BATCH = 4096  # flows of one lookup: a longer one would delay the capture and the event loop
_JUDGED = 64  # flows of a lookup by which it is judged
_SLICE = 250  # flows that are emitted, in some 5 ms, before other tasks of the event loop run
_FOLD_SLICE = 4000  # flows that are folded, in some 8 ms
_EXPIRY_SECONDS = 0.02  # at the end of a window, for flows whose hold time is over
_RECALL_SECONDS = 0.15  # at a stop, for recorded owners


class Attributor:
    """Takes flows by `ingest`, emits them with owners to `table`; `run` must be running.

    - `cpu_budget`: the share of one core that lookups may take.
    - `max_pending`: the most pending flows.
    - `clock`: the clock of the table.
    - `recheck_after`: an attribution in use is looked up again at this age, in seconds; a young one
      sooner, and one of very many later (rechecks.py).
    - `exits`: notices the exits of owners. None where the host does not change: no attribution is
      compared then.
    - `is_replay`: the clock is the time of packets, and a process that is younger than its packets
      is not their owner.
    - `set_batch_interval`: called with the number of seconds for which the capture may sum packets,
      after each lookup of flows that were not known.
    - `stale_flows`: flows whose cached attribution may be wrong; drained before the cache is used.
    """

    def __init__(
        self,
        resolver: Resolver,
        stale_flows: StaleFlows,
        executor: Executor,
        table: FlowTable,
        *,
        hold: float,
        cpu_budget: float,
        clock: Callable[[], float] = time.monotonic,
        set_batch_interval: Callable[[float], None] = lambda _seconds: None,
        max_pending: int,
        recheck_after: float = 5.0,
        exits: OwnerExits | None = None,
        is_replay: bool = False,
    ) -> None:
        now = clock()
        self._resolver = resolver
        self._runner = LookupRunner(resolver, executor)
        self._table = table
        self._clock = clock
        self._is_replay = is_replay
        self._known = KnownFlows(
            table, stale_flows, now, recheck_after=recheck_after, exits=exits, is_replay=is_replay
        )
        self._cache = self._known.cache
        self._pending = PendingFlows(max_pending, hold)
        self._pacer = LookupPacer(cpu_budget, now, set_batch_interval)
        self._wake = asyncio.Event()
        self._expired = asyncio.Event()
        """Set while flows are to be emitted whose hold time is over."""
        self._counts = AttributionCounts()
        self._latency = LatencyMeter()

    def ingest(self, flows: Mapping[FlowKey, FlowDelta]) -> None:
        """Emit the bytes of known flows, and add those of the others to the pending ones."""
        self.start_batch()
        self.ingest_part(flows)

    def start_batch(self) -> None:
        """Take in what has changed on the host until now: before packets are counted.

        Safe from any thread. What the table does not count of them may then be passed to
        `ingest_part` and `fold`, a part at a time. Packets of unknown flows alone may be counted
        and passed on without that, as no attribution is used for them: as long as none `is_known`.
        """
        self._known.start_batch()

    def is_known(self, flows: Iterable[FlowKey]) -> bool:
        """Return whether one of `flows` is known."""
        return any(self._cache.get(flow) is not None for flow in flows)

    def ingest_part(self, flows: Mapping[FlowKey, FlowDelta], calls: int | None = None) -> None:
        """Ingest a part of the batch that was started; `calls` as for `FlowTable.receive`."""
        now = self._clock()
        self._table.receive(flows, now, calls)
        gathering: list[PendingResolution | None] = []
        others: list[tuple[FlowKey, FlowDelta]] = []
        for flow, delta in flows.items():
            if self._pending.get(flow) is None:
                others.append((flow, delta))
            else:  # so it is not known
                gathering.append(self._add(flow, delta, now))
        queued = self._known.queued_flows
        for flow, delta, known in self._known.ingest(others, now, room=self._pending.room):
            if known is None:
                gathering.append(self._add(flow, delta, now))
            else:
                gathering.append(self._pending.start(flow, delta, now, known))
                self._wake.set()
        if self._known.queued_flows > queued:
            self._wake.set()
        self._gather(gathering)

    async def prepare(self) -> None:
        """Let the resolver read ahead, before flows come that may end while it reads."""
        await self._runner.prepare()

    def fold(self, flows: Mapping[FlowKey, FlowDelta], calls: int | None = None) -> None:
        """Emit the bytes of known flows, and fold the others: the quick way, at a late stop.

        They are a part of the batch that was started; `calls` as for `FlowTable.receive`.
        """
        now = self._clock()
        self._table.receive(flows, now, calls)
        for flow, delta in flows.items():
            pending = self._pending.get(flow)
            if pending is not None and self._is_followed(pending, delta):
                with self._table.lock:  # as in `_add`
                    self._give_up([pending])
                    self._cache.discard([flow])
        for flow, delta, _ in self._known.ingest(flows.items(), now, room=0):
            self._fold(flow, delta)

    async def run(self) -> None:
        """Look up the flows that are due, until cancelled; pending flows then stay pending."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._emit_expired_in_slices())
            await self._look_up_in_time()

    async def _look_up_in_time(self) -> None:
        while True:
            self._wake.clear()
            now = self._clock()
            delay = self._next_lookup() - now
            if delay <= 0:
                await self._look_up_due(now)
                continue
            with suppress(TimeoutError):  # the next lookup is due
                async with asyncio.timeout(None if math.isinf(delay) else delay):
                    await self._wake.wait()

    async def resolve_pending(self, max_seconds: float | None = None) -> None:
        """Look up all pending flows once more and emit them, with an owner or without.

        After `max_seconds` the rest is emitted with what is recorded, or folded; the lookup may
        still run.
        """
        try:
            async with asyncio.timeout(max_seconds):
                while batch := self._pending.oldest(_MAX_BATCH):
                    await self._look_up(batch, is_last=True)
        except TimeoutError:
            until = time.monotonic() + _RECALL_SECONDS
            while time.monotonic() < until and (flows := self._pending.oldest(_SLICE)):
                self._give_up(flows)
                await asyncio.sleep(0)
            await self.fold_pending()

    async def fold_pending(self) -> None:
        """Emit all pending flows at once, without a lookup."""
        while flows := self._pending.oldest(_FOLD_SLICE):
            self._stop_gathering(flows)
            for pending in flows:
                self._pending.pop(pending.flow)
                if pending.known is None:
                    self._fold(pending.flow, pending.total)
                else:
                    self._emit([(pending.flow, pending.total, pending.known.attribution)])
            await asyncio.sleep(0)

    def emit_expired(self, max_seconds: float = _EXPIRY_SECONDS) -> None:
        """Emit the flows that have been pending for `hold` seconds, also during a lookup.

        Those that it takes longer than `max_seconds` to emit follow later, if `run` is running.
        """
        until = time.monotonic() + max_seconds
        while flows := self._pending.expired(self._clock(), _SLICE):
            if time.monotonic() >= until:
                self._expired.set()
                return
            self._give_up(flows)

    async def _emit_expired_in_slices(self) -> None:
        """Emit flows whose hold time is over, when they are too many for the end of a window."""
        while True:
            await self._expired.wait()
            self._expired.clear()
            while flows := self._pending.expired(self._clock(), _SLICE):
                self._give_up(flows)
                await asyncio.sleep(0)

    @property
    def held_flows(self) -> tuple[int, int]:
        """How many flows are pending or cached, and how many have room in columns."""
        return len(self._pending) + len(self._cache), self._table.capacity

    def drain_stats(self) -> AttributionCounts:
        """Return the work since the last call; `pending_*` is as of now."""
        counts, self._counts = self._counts, AttributionCounts()
        self._pending.compact()
        counts.new_flows += self._table.drain_begun()
        counts.evicted_flows = self._cache.drain_evicted()
        counts.translated = self._known.drain_translated()
        counts.pending_flows = len(self._pending)
        counts.pending_bytes = self._pending.total_bytes
        if self._is_replay:  # the thread of the source has found the owners of a recorded host
            self._runner.take_counts()
        lookups = self._runner.drain_counts()
        counts.batches, counts.failed_batches = lookups.batches, lookups.failed
        counts.lookup_seconds, counts.resolver = lookups.cpu_seconds, lookups.resolver
        counts.latency = self._latency.drain()
        return counts

    def take_translated(self, sums: FlowSums) -> FlowSums:
        """Count what translated flows moved, and return what the others did."""
        return self._known.take_translated(sums)

    def _emit(self, moved: Sequence[tuple[FlowKey, FlowDelta, Attribution]]) -> None:
        self._known.emit(moved, self._clock())

    def _add(self, flow: FlowKey, delta: FlowDelta, now: float) -> PendingResolution | None:
        """Add bytes to a pending flow, or make the flow pending; return it, None if it is not."""
        pending = self._pending.get(flow)
        if pending is not None and self._is_followed(pending, delta):
            # What is pending belongs to the previous connection, which can no longer be looked up.
            # With the lock, no packet is counted for its owner before `_start_pending` closes the
            # lane that settling opens.
            with self._table.lock:
                self._give_up([pending])
                self._start_pending(flow, delta, now)
        elif pending is None:
            self._start_pending(flow, delta, now)
        else:
            pending.add(delta)
        return self._pending.get(flow)

    def _is_followed(self, pending: PendingResolution, delta: FlowDelta) -> bool:
        """Return whether a delta begins another connection than the pending one."""
        if not delta.opened:
            return False
        self._stop_gathering([pending])
        return not pending.is_opening

    def _gather(self, batch: Iterable[PendingResolution | None]) -> None:
        """Have further packets gather in the table, if they need not be a piece for each batch.

        Without history they need not, nor while more flows are new than a lookup takes: then pieces
        would cost more than the few owners that they separate.
        """
        gathers_all = not self._resolver.has_history or self._pending.new_flows > _MAX_BATCH
        self._table.gather(
            [one.flow for one in batch if one is not None and (gathers_all or one.is_full)]
        )

    def _stop_gathering(self, batch: Sequence[PendingResolution]) -> None:
        """Add what has gathered to pending flows; further packets are ingested again."""
        self._add_gathered(self._table.stop_gathering(pending.flow for pending in batch))

    def _add_gathered(self, gathered: Mapping[FlowKey, FlowDelta]) -> None:
        for flow, delta in gathered.items():
            pending = self._pending.get(flow)
            assert pending is not None  # whoever removes one takes what it has gathered
            pending.add(delta)

    def _start_pending(self, flow: FlowKey, delta: FlowDelta, now: float) -> None:
        self._cache.discard([flow])
        if is_sum(flow):  # of flows that were too many for the capture
            self._emit([(flow, delta, UNATTRIBUTED)])
        elif self._pending.room <= 0:
            self._expired.set()
            self._fold(flow, delta)
        else:
            self._counts.new_flows += 1
            self._pending.start(flow, delta, now)
            self._wake.set()

    def _fold(self, flow: FlowKey, delta: FlowDelta) -> None:
        """Emit the bytes of an unknown flow under a key that many flows share."""
        if not is_sum(flow):  # the capture has counted the flows that it folded itself
            self._counts.overflowed.add(delta.total)
        self._emit([(fold_key(flow), delta, UNATTRIBUTED)])

    def _next_lookup(self) -> float:
        due = min(self._pending.next_due(), self._known.next_due())
        return max(due, self._pacer.ready_at())

    async def _look_up_due(self, now: float) -> None:
        """Look up the flows that are due; those without a socket are due to be given up."""
        due = self._pending.take_due(now, _MAX_BATCH)
        await self._give_up_in_slices([pending for pending in due if pending.has_no_socket])
        await self._look_up([pending for pending in due if not pending.has_no_socket])

    async def _look_up(self, batch: Sequence[PendingResolution], *, is_last: bool = False) -> None:
        """Look up pending flows together with cached ones, and act on the resolutions."""
        questions = self._known.take_rechecks(_MAX_BATCH - len(batch), self._clock())
        if not batch and not questions:
            return
        self._cache.start_epoch()
        self._add_gathered(self._table.take_gathered(pending.flow for pending in batch))
        asked = {pending.flow: pending.ask() for pending in batch}
        for flow, *_others in questions:
            asked.setdefault(flow, ())
        found, cpu_seconds = await self._runner.resolve(asked)
        now = self._clock()
        self._adapt_pace(batch, found, cpu_seconds, now)
        self._known.pay_for(questions, cpu_seconds / len(asked), now)
        for start in range(0, len(batch), _SLICE):
            part = batch[start : start + _SLICE]
            self._stop_gathering(part)
            # What came in since the lookup began may be of another owner, by a later event. Where
            # nothing did, the event is ingested before the next packet is counted.
            ingest = any(pending.has_later_pieces for pending in part)
            self._known.drain_stale_flows(ingest=ingest)
            self._conclude(part, found, now, is_last=is_last)
            await asyncio.sleep(0)
        for start in range(0, len(questions), _SLICE):
            self._known.conclude_rechecks(questions[start : start + _SLICE], found, now)
            await asyncio.sleep(0)
        self._cache.start_epoch()

    def _adapt_pace(
        self,
        batch: Sequence[PendingResolution],
        found: Mapping[FlowKey, Resolution],
        cpu_seconds: float,
        now: float,
    ) -> None:
        first_answers = [
            found[pending.flow]
            for pending in batch
            if pending.flow in found and not pending.is_answered
        ]
        # The newest flows show first how long connections live.
        self._pacer.lookup_ended(cpu_seconds, judge(first_answers[-_JUDGED:]), now)

    def _conclude(
        self,
        batch: Sequence[PendingResolution],
        found: Mapping[FlowKey, Resolution],
        now: float,
        *,
        is_last: bool,
    ) -> None:
        """Act on what a lookup found out about flows that were pending when it began."""
        settled: list[tuple[PendingResolution, Settled]] = []
        deferred: list[PendingResolution] = []
        for pending in batch:
            flow = pending.flow
            resolution = found.get(flow)
            if resolution is not None and not pending.is_answered:
                pending.is_answered = True
                self._latency.add(now - pending.since)
            current = self._pending.get(flow)
            if current is None:  # given up meanwhile
                if resolution is not None:
                    self._cache.refresh([(flow, resolution)], now)
            elif current is pending:  # else a new connection, which the lookup may have missed
                outcome = pending.conclude(
                    resolution,
                    self._resolver,
                    now=now,
                    is_last=is_last,
                    is_invalidated=self._cache.is_invalidated(flow),
                )
                if isinstance(outcome, Settled):
                    settled.append((pending, outcome))
                else:
                    self._pending.defer(pending, outcome.due)
                    deferred.append(pending)
        self._settle(settled, now)
        self._gather(deferred)

    def _settle(self, settled: Sequence[tuple[PendingResolution, Settled]], now: float) -> None:
        """Emit pending flows and cache their owners; pieces not looked up become pending again."""
        for pending, _ in settled:
            self._pending.pop(pending.flow)
        known = [(pending, one, one.known) for pending, one in settled if one.known is not None]
        self._known.settle(known, now)
        self._emit(
            [
                (pending.flow, delta, owner)
                for pending, one in settled
                for delta, owner in one.attributed
            ]
        )
        self._gather(
            [
                self._add(pending.flow, piece, now)
                for pending, one in settled
                for piece in one.not_looked_up
            ]
        )

    def _give_up(self, flows: Sequence[PendingResolution]) -> None:
        """Emit pending flows with what is known of them, without another lookup."""
        now = self._clock()
        self._stop_gathering(flows)
        asked = [(pending, pending.spans_to_recall()) for pending in flows]
        unknown = [(pending.flow, span) for pending, spans in asked for span in spans]
        if unknown:
            self._known.drain_stale_flows()  # so that what happened until now is recorded
        recalled = iter(self._resolver.recall(unknown) if unknown else ())
        settled = [
            (pending, pending.give_up(list(islice(recalled, len(spans))), self._resolver, now))
            for pending, spans in asked
        ]
        self._settle(settled, now)
        self._wake.set()  # some may be worth a lookup yet

    async def _give_up_in_slices(self, flows: Sequence[PendingResolution]) -> None:
        for start in range(0, len(flows), _SLICE):
            part = flows[start : start + _SLICE]  # some may be settled meanwhile
            self._give_up([one for one in part if self._pending.get(one.flow) is one])
            await asyncio.sleep(0)

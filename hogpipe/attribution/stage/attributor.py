"""The stage that gives each flow's bytes an owner.

A known flow passes at once. An unknown one waits, its bytes adding up, while one look-up at a time
runs in the executor for all that is due; what was not found is looked for again with growing pauses
until its first byte is `hold` seconds old, and then passes with what is known. That there was no
owner is remembered like an owner, and asked for again like one.

Nothing is ever thrown away: every byte that was ingested has been emitted or is pending, whatever
fails and whenever `run` is cancelled.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from copy import copy
from itertools import islice, takewhile
from typing import TypeVar

from hogpipe.attribution.resolver import (
    Resolution,
    Resolver,
)
from hogpipe.attribution.stage.batching import AdaptiveInterval, judge
from hogpipe.attribution.stage.budget import CpuBudget
from hogpipe.attribution.stage.flow_cache import FlowCache, KnownFlow
from hogpipe.attribution.stage.latency import (
    LatencyMeter,
)
from hogpipe.attribution.stage.lookup import LookupRunner
from hogpipe.attribution.stage.pending import PendingFlows, Waiting, sum_runs
from hogpipe.attribution.stale_flows import EVERY_FLOW, StaleFlows
from hogpipe.model import (
    UNATTRIBUTED,
    Attribution,
    AttributionCounts,
    FlowDelta,
    FlowKey,
    Quality,
)

_MOST_AT_ONCE = 8192  # flows of one look-up: a longer one would hold up capture and event loop
_IDLE = 60.0
_JUDGED = 64  # flows of a look-up by which it is judged how early the next one must be
_SLICE = 500  # answers that are acted on in one go, without a turn for the rest of the event loop

T = TypeVar("T")
Emit = Callable[[FlowKey, FlowDelta, Attribution], None]


class Attributor:
    """Feed it with `ingest`, keep `run` running; owners come out through `emit`.

    `cpu_budget` is the share of one core that look-ups may take; a look-up on a rested host starts
    at once. At most `max_flows` flows are known and as many pending; an answer that is still in use
    is asked for again when it is `recheck` to twice `recheck` seconds old. `gather_for`
    is told for how many seconds packets may gather, which is not long where sockets are lost else.
    Cached owners of flows that are `invalidated` are dropped before they are used.
    """

    def __init__(
        self,
        resolver: Resolver,
        invalidated: StaleFlows,
        executor: Executor,
        emit: Emit,
        *,
        hold: float,
        cpu_budget: float,
        clock: Callable[[], float] = time.monotonic,
        gather_for: Callable[[float], None] = lambda _seconds: None,
        max_flows: int = 262_144,
        recheck: float = 5.0,
    ) -> None:
        self._resolver = resolver
        self._look_ups = LookupRunner(resolver, executor)
        self._invalidated = invalidated
        self._emit = emit
        self._hold = hold
        self._budget = CpuBudget(cpu_budget, clock())
        self._pace = AdaptiveInterval()
        self._gather_for = gather_for
        self._clock = clock
        self._max_flows = max_flows
        self._recheck = recheck
        self._known = FlowCache(max_flows, _IDLE, clock())
        self._pending = PendingFlows()
        self._stale: dict[FlowKey, None] = {}
        self._wake = asyncio.Event()
        self._refresh_due = math.inf  # when old answers alone are worth a look-up
        self._looked = -math.inf  # when the last one began
        self._rested = -math.inf  # when the next one may begin
        self._counts = AttributionCounts()
        self._latency = LatencyMeter()
        self._evicted_before = 0
        self._overtaken: set[FlowKey] = set()
        """What was known of these until now is not remembered, though a look-up still tells it."""

    def ingest(self, flows: Mapping[FlowKey, FlowDelta]) -> None:
        """Emit what is known, and let the rest wait."""
        now = self._clock()
        self._forget_stale()
        self._known.forget_idle(now)
        for flow, delta in flows.items():
            known = self._known.get(flow)
            if known is None or delta.opened:
                self._wait(flow, delta, now)
                continue
            self._emit(flow, delta, known.attribution)
            if now - known.checked >= self._recheck:
                known.checked = now
                self._stale[flow] = None
                # Alone they are not worth a look-up more often than this.
                self._refresh_due = self._looked + self._recheck
                self._wake.set()

    async def prepare(self) -> None:
        """Read ahead, before flows come that may not last until that is done."""
        await self._look_ups.prepare()

    async def run(self) -> None:
        """Look up what waits, until cancelled; what is pending then stays so."""
        while True:
            self._wake.clear()
            now = self._clock()
            delay = max(self._next_look(), self._budget.ready_at(), self._rested) - now
            if delay <= 0:
                due = self._pending.take_due(now, _MOST_AT_ONCE)
                await self._look_up(await self._give_up_gone(due))
                continue
            with suppress(TimeoutError):  # the time has come
                async with asyncio.timeout(None if math.isinf(delay) else delay):
                    await self._wake.wait()

    async def settle(self, deadline: float | None = None) -> None:
        """Look up all that is pending now, once, and emit it, found or not.

        After `deadline` seconds the rest is emitted as it is; a look-up may then still be at work.
        """
        if not self._pending:
            return
        try:
            async with asyncio.timeout(deadline):
                await self._look_up(dict(self._pending.items()), last=True)
        except TimeoutError:
            await self._give_up_all(dict(self._pending.items()))

    async def expire(self) -> None:
        """Emit what has waited for longer than `hold`, whatever look-ups are doing."""
        latest = self._clock() - self._hold
        oldest_first = self._pending.items()
        expired = takewhile(lambda one: one[1].since <= latest, oldest_first)
        await self._give_up_all(dict(expired))

    def drain_stats(self) -> AttributionCounts:
        """Return what was done since the last time; `pending_*` is what waits now."""
        counts, self._counts = self._counts, AttributionCounts()
        counts.evicted_flows = self._known.forgotten - self._evicted_before
        counts.pending_flows = len(self._pending)
        counts.pending_bytes = sum(
            waiting.delta.total_bytes for _flow, waiting in self._pending.items()
        )
        self._evicted_before = self._known.forgotten
        looked_up = self._look_ups.drain_counts()
        counts.batches, counts.failed_batches = looked_up.batches, looked_up.failed
        counts.lookup_seconds, counts.resolver = looked_up.seconds, looked_up.resolver
        counts.latency = self._latency.drain()
        return counts

    def _forget_stale(self) -> None:
        stale = self._invalidated.drain()
        if stale is EVERY_FLOW:
            self._known.clear()
            self._overtaken.update(flow for flow, _waiting in self._pending.items())
            return
        for flow in stale:
            self._known.discard(flow)
            self._overtaken.add(flow)

    def _wait(self, flow: FlowKey, delta: FlowDelta, now: float) -> None:
        waiting = self._pending.get(flow)
        if waiting is not None and delta.opened and not waiting.is_opening:
            # What came before belongs to a connection that can no longer be asked about.
            self._give_up(flow, waiting)
            waiting = None
        if waiting is None:
            self._add_pending(flow, delta, now)
        else:
            waiting.add(delta)

    def _add_pending(self, flow: FlowKey, delta: FlowDelta, now: float) -> None:
        self._known.discard(flow)
        if not flow.local_address:  # the sum of flows that were too many for the capture
            self._emit(flow, delta, UNATTRIBUTED)
        elif len(self._pending) >= self._max_flows:
            self._counts.overflowed.add(delta.total)
            self._emit(flow, delta, UNATTRIBUTED)
        else:
            self._counts.new_flows += 1
            self._pending.add(flow, Waiting(copy(delta), since=now))
            self._wake.set()

    def _next_look(self) -> float:
        return min(self._pending.next_due(), self._refresh_due)

    async def _look_up(self, batch: dict[FlowKey, Waiting], *, last: bool = False) -> None:
        """Ask for the flows of `batch` and for stale ones, and act on the answers."""
        stale = list(islice(self._stale, max(0, _MOST_AT_ONCE - len(batch))))
        for flow in stale:
            del self._stale[flow]
        self._refresh_due = self._clock() if self._stale else math.inf
        if batch or stale:
            self._looked = self._clock()
            self._overtaken.clear()
            asked = {flow: waiting.ask() for flow, waiting in batch.items()}
            found, seconds = await self._look_ups.find(asked | dict.fromkeys(stale, ()))
            self._forget_stale()
            now = self._clock()
            self._budget.spend(seconds, now)
            self._rested = now + self._pace_after(seconds, batch, found)
            async for flow, waiting in _in_slices(batch.items()):
                if flow in found and not waiting.answered:
                    waiting.answered = True
                    self._latency.add(now - waiting.since)
                self._conclude(flow, waiting, found.get(flow), now, last=last)
            async for flow in _in_slices(stale):
                if flow in found:
                    self._known.refresh(flow, found[flow].attribution)
            self._overtaken.clear()

    def _pace_after(
        self, seconds: float, batch: Mapping[FlowKey, Waiting], found: Mapping[FlowKey, Resolution]
    ) -> float:
        """Return how long to gather flows after this look-up."""
        first = [found[flow] for flow, one in batch.items() if flow in found and not one.answered]
        # The freshest: of these it shows first how long they live.
        pause = self._pace.next_pause(seconds, judge(first[-_JUDGED:]))
        self._gather_for(self._pace.patience)
        return pause

    def _conclude(
        self,
        flow: FlowKey,
        asked: Waiting,
        resolution: Resolution | None,
        now: float,
        *,
        last: bool,
    ) -> None:
        """Emit a pending flow, or make it wait for another try; None is no answer at all."""
        waiting = self._pending.get(flow)
        answer = None if resolution is None else resolution.attribution
        if waiting is None:
            if answer is not None:
                # It did not wait, but what comes next can use this.
                self._known.refresh(flow, answer)
            return
        if waiting is not asked:
            return  # a new connection: this look-up may have met the owner before it
        if resolution is not None and resolution.owners_by_span is not None:
            self._settle_in_turn(flow, waiting, resolution.owners_by_span, now)
            return
        if answer is None or answer.quality is Quality.NONE:
            if answer is not None and answer.user is not None:
                waiting.fallback = answer
            final = last or (resolution is not None and resolution.is_final)
            expires = waiting.since + self._hold
            if now < expires and not final:
                # It waits on all the same, for an owner may be inferred by then.
                waiting.gone = answer == UNATTRIBUTED
                pause = math.inf if waiting.gone else waiting.pause
                self._pending.put_off(flow, waiting, min(now + pause, expires))
                waiting.pause *= 2
                return
            answer = self._resolver.infer(flow) if waiting.gone else waiting.fallback
        before, since = waiting.split()
        if since and flow in self._overtaken:
            self._settle_in_turn(flow, waiting, [answer] * len(before), now)
        else:
            self._settle_one(flow, waiting, answer, checked=now)

    def _settle_in_turn(
        self, flow: FlowKey, waiting: Waiting, answers: Sequence[Attribution], now: float
    ) -> None:
        """Emit what a look-up was asked about, piece by piece; what came since waits on."""
        before, since = waiting.split()
        self._pending.pop(flow)
        missing = [UNATTRIBUTED] * (len(before) - len(answers))
        self._emit_pieces(flow, before, [*answers, *missing])
        for piece in since:
            self._wait(flow, piece, now)

    def _emit_pieces(
        self, flow: FlowKey, pieces: Sequence[FlowDelta], answers: Sequence[Attribution]
    ) -> None:
        for total, answer in sum_runs(pieces, answers):
            self._emit(flow, total, answer)

    async def _give_up_all(self, flows: Mapping[FlowKey, Waiting]) -> None:
        async for flow, waiting in _in_slices(flows.items()):
            if self._pending.get(flow) is waiting:  # else it waits no longer, or another does
                self._give_up(flow, waiting)

    def _give_up(self, flow: FlowKey, waiting: Waiting) -> None:
        """Emit a pending flow as it is; one with a socket is looked up when it moves more."""
        if waiting.gone:
            answer = self._resolver.infer(flow)
            self._settle_one(flow, waiting, answer, checked=self._clock())
        else:
            pieces = waiting.all_pieces()
            answers = [
                self._resolver.recall(flow, piece.span) or waiting.fallback for piece in pieces
            ]
            self._pending.pop(flow)
            self._remember(flow, answers[-1], checked=-math.inf)
            self._emit_pieces(flow, pieces, answers)

    async def _give_up_gone(self, due: dict[FlowKey, Waiting]) -> dict[FlowKey, Waiting]:
        """Emit those of `due` whose sockets are gone; return the others."""
        await self._give_up_all({flow: waiting for flow, waiting in due.items() if waiting.gone})
        return {flow: waiting for flow, waiting in due.items() if not waiting.gone}

    def _settle_one(
        self, flow: FlowKey, waiting: Waiting, answer: Attribution, *, checked: float
    ) -> None:
        self._pending.pop(flow)
        self._remember(flow, answer, checked=checked)
        self._emit(flow, waiting.delta, answer)

    def _remember(self, flow: FlowKey, answer: Attribution, *, checked: float) -> None:
        if flow not in self._overtaken:  # else it is not true any more
            self._known.put(flow, KnownFlow(answer, checked))


async def _in_slices(items: Iterable[T]) -> AsyncIterator[T]:
    """Yield items, with a turn for the rest of the event loop now and then."""
    for number, item in enumerate(items, 1):
        yield item
        if number % _SLICE == 0:
            await asyncio.sleep(0)

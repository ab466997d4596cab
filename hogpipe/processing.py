"""What the event loop does with batches: passes their flows on, closes windows, publishes records.

In: the flow batches of a source, through the handoff. Out: records, to the sinks.

    Intake              passes each flow to the attributor, or to the aggregator if it is owned,
                        and what the flow table has counted to the aggregator
    WindowPublisher     closes windows, and publishes their records
    Processing          both, in the order that the kind of run needs

Slices
    All work is done in slices, between which other tasks of the event loop run. A window may end
    between two slices. `WindowPublisher.close` takes what the stages have, at once and without
    waiting, so a window ends where the clock says. Its records are built and passed to the sinks
    later. That may fall behind by `_MAX_CLOSED` windows; then the open window gets longer.

Conservation
    What `close` takes is of one moment (`Intake.end_window`). The counts of a batch are in a window
    as soon as its packets are counted; flows of batches that are not passed on yet count as
    pending. So the traffic, the counters and what is pending add up to what was captured
    (docs/record.md, "Conservation of bytes").

Other rules
    The rules of aggregation change between two windows: `Processing.change_rules` closes the open
    one at once, and what it does between that and the next batch cannot be interrupted.

At a stop
    Batches that are still queued 0.3 s after a stop (run_requests.py), and all that is left when
    the stop is urgent, are folded: recorded unattributed, as a few sums, and counted as overflowed.
    So a stop takes no longer the more flows there are.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

import msgspec

from hogpipe.aggregation.window_aggregator import WindowAggregator
from hogpipe.aggregation.windows import ClockWindows, PacketWindows
from hogpipe.attribution.stage.attributor import Attributor
from hogpipe.capture.handoff import Handoff
from hogpipe.capture.source import PacketSource
from hogpipe.delivery.dispatch import Dispatcher
from hogpipe.enrichment.peer_naming import PeerNaming
from hogpipe.flows.flow_batch import FlowBatch
from hogpipe.flows.flow_table import FlowTable
from hogpipe.flows.packet_rows import FlowSums
from hogpipe.linux.memory import MemoryRelease
from hogpipe.linux.self_usage import UsageMeter
from hogpipe.model import (
    AttributionCounts,
    CaptureCounts,
    FlowDelta,
    FlowKey,
    Networks,
    Span,
)
from hogpipe.model.peer_names import NameCounts
from hogpipe.protocols import NANOSECONDS
from hogpipe.records import stats
from hogpipe.records.schema import Record, StatsBody, TrafficBody
from hogpipe.records.stamp import RecordStamper
from hogpipe.records.summary import Summary
from hogpipe.run_requests import RulesRequest, StopRequest

# A stop must not take two seconds: the last lookup gets this long.
_SETTLE_SECONDS = 0.3
_FLOW_SLICE = 2000  # flows that are passed on, in some 4 ms
_RECORD_SLICE = 500  # records that are built
_MAX_CLOSED = 2
# The clock may be stepped, or the host suspended, during a window: the clock is read this often.
_MAX_CLOCK_WAIT = 2.0


class PacketClock:
    """The clock of a replay: seconds, by the newest packet."""

    def __init__(self) -> None:
        self.time_ns = 0
        """Nanoseconds since the epoch."""

    def __call__(self) -> float:
        """Return the time of the newest packet."""
        return self.time_ns / NANOSECONDS


class WindowCounts(NamedTuple):
    """What was captured in a window, and what of all batches was not passed on at its end."""

    capture: CaptureCounts
    waiting_flows: int
    waiting_bytes: int
    """With what pending flows have gathered."""


class Intake:
    """Takes one batch after the other, for one task.

    While `is_late` returns true, flows without a known owner are folded: the run is about to end.
    """

    def __init__(
        self,
        handoff: Handoff,
        table: FlowTable,
        attributor: Attributor,
        aggregator: WindowAggregator,
        is_late: Callable[[], bool],
        *,
        naming: PeerNaming | None = None,
    ) -> None:
        self._naming = naming
        self._handoff = handoff
        self._table = table
        self._attributor = attributor
        self._aggregator = aggregator
        self._is_late = is_late
        self._flows: list[tuple[FlowKey, FlowDelta]] = []
        """Flows of the present batch that are not passed on, the first one last."""

    async def ingest(self, batch: FlowBatch) -> None:
        """Pass all flows of `batch` on; it has none afterwards."""
        if self._handoff.waits:
            if self._table.is_crowded:  # so that the source can evict flows
                self.flush()
            self._handoff.count(batch)
        elif self._naming is not None or self._table.has_many_settled:
            # Names of peers: so that the flows of DNS have the processes of now.
            self.flush()
        self._flows = list(batch.flows.items())
        self._flows.reverse()
        batch.flows = {}  # in a flood, what is passed on leaves its memory to what comes
        while part := dict(reversed(self._flows[-_FLOW_SLICE:])):
            # Only with its last part all of the batch has been received.
            calls = batch.calls if len(part) == len(self._flows) else 0
            if not batch.is_started and self._attributor.is_known(part):
                self._attributor.start_batch()
                batch.is_started = True
            if self._is_late():
                self._attributor.fold(part, calls)
            else:
                self._attributor.ingest_part(part, calls)
            del self._flows[-len(part) :]
            await asyncio.sleep(0)
        if batch.owned is not None:
            self._aggregator.ingest(batch.owned)
            await asyncio.sleep(0)

    def make_evictable(self) -> None:
        """Pass on what a table that fills up has counted, so that the source can evict flows."""
        if len(self._table) > self._table.max_flows // 2:
            self.flush()

    def flush(self) -> None:
        """Pass to the aggregator what the flow table has counted, in the open window."""
        self._pass_on(self._table.drain())

    def end_window(self) -> WindowCounts:
        """Pass on what belongs to the window that ends, and return the counters of that moment."""
        with self._table.lock:
            sums, counts = self._table.drain(), self._handoff.drain_counts()
            waiting = [delta for _flow, delta in self._flows] + self._handoff.list_queued()
            gathered_bytes = self._table.gathered_bytes
        self._pass_on(sums)
        waiting_bytes = gathered_bytes + sum(delta.total_bytes for delta in waiting)
        return WindowCounts(counts, len(waiting), waiting_bytes)

    def take_longest_delay(self) -> float:
        """Return how late the event loop was for a batch, at most; see Handoff."""
        return self._handoff.take_longest_delay()

    def _pass_on(self, sums: FlowSums) -> None:
        sums = self._attributor.take_translated(sums)
        self._aggregator.ingest(sums if self._naming is None else self._naming.name_sums(sums))


class _ClosedWindow(msgspec.Struct, frozen=True):
    """What the stages had for a window."""

    span: Span
    counts: CaptureCounts
    attribution: AttributionCounts
    bodies: Iterator[TrafficBody]
    bytes_by_quality: dict[str, int]
    folded_groups: int
    uncounted_flows: int
    names: NameCounts | None


class WindowPublisher:
    """`run` must be running. Replays are not `live`: their records depend on no clock."""

    def __init__(
        self,
        intake: Intake,
        attributor: Attributor,
        aggregator: WindowAggregator,
        stamper: RecordStamper,
        dispatcher: Dispatcher,
        *,
        live: bool,
        naming: PeerNaming | None = None,
    ) -> None:
        self._naming = naming
        self.summary = Summary()
        """The totals of what was published."""
        self._intake = intake
        self._attributor = attributor
        self._aggregator = aggregator
        self._stamper = stamper
        self._dispatcher = dispatcher
        self._live = live
        self._usage = UsageMeter()
        self._memory = MemoryRelease()
        self._closed: asyncio.Queue[_ClosedWindow | Callable[[], None]] = asyncio.Queue()
        self._room = asyncio.Semaphore(_MAX_CLOSED)

    async def wait_for_room(self) -> None:
        """Wait until another window may be closed; `close` must follow."""
        await self._room.acquire()

    def close(self, span: Span) -> None:
        """Close the open window, which lasted for `span`; its records are published later."""
        if self._live:
            self._attributor.emit_expired()
        counts = self._intake.end_window()
        attribution = self._attributor.drain_stats()
        attribution.pending_flows += counts.waiting_flows
        attribution.pending_bytes += counts.waiting_bytes
        bodies = self._aggregator.drain()
        window = _ClosedWindow(
            span,
            counts.capture,
            attribution,
            bodies,
            self._aggregator.bytes_by_quality,
            self._aggregator.folded_groups,
            self._aggregator.uncounted_flows,
            None if self._naming is None else self._naming.take_counts(),
        )
        self._closed.put_nowait(window)

    def call_next(self, action: Callable[[], None]) -> None:
        """Call `action` once the windows that are closed by now are published."""
        self._closed.put_nowait(action)

    async def run(self) -> None:
        """Publish closed windows in their order, until cancelled."""
        while True:
            window = await self._closed.get()
            if isinstance(window, _ClosedWindow):
                await self._publish(window)
                self._room.release()
            else:
                window()
            self._closed.task_done()

    async def finish(self) -> None:
        """Wait until all closed windows are published."""
        await self._closed.join()

    async def _publish(self, window: _ClosedWindow) -> None:
        records: list[Record] = []
        bodies, span = window.bodies, window.span
        while part := [
            self._stamper.traffic(body, *span) for body in islice(bodies, _RECORD_SLICE)
        ]:
            records += part
            await asyncio.sleep(0)
        body = self._build_stats(window, len(records))
        records.append(self._stamper.stats(body, *span))
        self.summary.add_window(
            window.counts, window.attribution, window.bytes_by_quality, len(records)
        )
        await self._dispatcher.publish(records)
        queued = sum(sink["queued"] for sink in body.get("sinks", ()))
        self._memory.update(*self._attributor.held_flows, len(records) + queued)

    def _build_stats(self, window: _ClosedWindow, records: int) -> StatsBody:
        body: StatsBody = {
            "capture": stats.capture_info(window.counts),
            "attribution": stats.attribution_info(
                window.attribution, window.bytes_by_quality, timed=self._live
            ),
            "aggregation": stats.aggregation_info(
                records=records,
                folded_groups=window.folded_groups,
                uncounted_flows=window.uncounted_flows,
            ),
        }
        if window.names is not None:
            body["peer_names"] = stats.names_info(window.names)
        # A replay repeats to the byte, so its records have nothing that depends on the clock.
        if self._live:
            body["sinks"] = self._dispatcher.health()
            body["self"] = stats.self_info(
                **self._usage.read(), loop_delay_seconds=self._intake.take_longest_delay()
            )
        return body


class Processing:
    """Processes the batches of one run: live, counted or replayed (pipeline.py has the kinds)."""

    def __init__(
        self,
        source: PacketSource,
        handoff: Handoff,
        intake: Intake,
        attributor: Attributor,
        publisher: WindowPublisher,
        *,
        stop: StopRequest,
        packet_clock: PacketClock,
        interval_ns: int,
        first_window_ns: int | None = None,
    ) -> None:
        self._source = source
        self._handoff = handoff
        self._intake = intake
        self._attributor = attributor
        self._publisher = publisher
        self._stop = stop
        self._packet_clock = packet_clock
        self._interval_ns = interval_ns
        self._first_window_ns = first_window_ns
        self._ended = False
        """Whether all traffic of a live run has passed the stages."""
        self._wake = asyncio.Event()
        """Set when that, or a request for other rules, may be the case."""
        self._rules = RulesRequest(self._wake)

    async def run(self) -> None:
        """Process batches and publish windows until the source ends."""
        async with asyncio.TaskGroup() as group:
            publishing = group.create_task(self._publisher.run())
            if self._source.closes_windows:
                await self._process_counted()
            elif self._source.live:
                await self._process_live()
            else:
                await self._process_replayed()
            await self._publisher.finish()
            publishing.cancel()

    def change_rules(
        self,
        interval_ns: int,
        fields: Collection[str],
        networks: Networks,
        use: Callable[[], None],
    ) -> None:
        """Close the open window soon, and call `use` before the next one has anything.

        Windows are `interval_ns` long from then on, and a source that sums traffic up keeps apart
        what differs in `fields`; `networks` are the named ones. The run is no replay, and `use` was
        called before it is called again; it is not called if the run ends before.
        """
        self._rules.make(interval_ns, use)
        self._source.regroup(interval_ns, fields, networks)

    async def _process_live(self) -> None:
        windows = ClockWindows(self._interval_ns, time.time_ns(), first_ns=self._first_window_ns)
        async with asyncio.TaskGroup() as group:
            lookups = group.create_task(self._attributor.run())
            group.create_task(self._close_windows(windows))
            stopping = group.create_task(self._cancel_at_stop(lookups))
            async for batch in self._handoff:
                await self._intake.ingest(batch)
            stopping.cancel()
            lookups.cancel()
            await asyncio.wait([lookups])
            await self._settle()
            self._ended = True
            self._wake.set()
        await self._publisher.wait_for_room()
        self._publisher.close(windows.close(time.time_ns(), last=True))

    async def _close_windows(self, windows: ClockWindows) -> None:
        """Close each window when it is due, or when the rules change, until the run has ended."""
        while not self._ended:
            delay = windows.delay(time.time_ns())
            if delay <= 0 or self._rules.is_made:
                await self._publisher.wait_for_room()
                is_cut = self._rules.is_made
                self._publisher.close(windows.close(time.time_ns(), last=is_cut))
                if is_cut:
                    windows.set_interval(self._rules.fulfil())
                continue
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(delay, _MAX_CLOCK_WAIT)):
                    await self._wake.wait()
            if delay > _MAX_CLOCK_WAIT:  # a long window has more flows than the table
                self._intake.make_evictable()

    async def _process_counted(self) -> None:
        async with asyncio.TaskGroup() as group:
            lookups = group.create_task(self._attributor.run())
            async for batch in self._handoff:
                await self._intake.ingest(batch)
                if batch.is_last:
                    lookups.cancel()
                    await self._settle()
                if batch.closed_window is not None:
                    await self._publisher.wait_for_room()
                    self._publisher.close(batch.closed_window)
                else:
                    self._intake.make_evictable()
                if batch.regroups:
                    self._rules.fulfil()
            lookups.cancel()

    async def _process_replayed(self) -> None:
        windows = PacketWindows(self._interval_ns)
        async for batch in self._handoff:
            if span := windows.advance(batch.time_ns):
                await self._publisher.wait_for_room()
                self._publisher.close(span)
            self._packet_clock.time_ns = batch.time_ns
            await self._intake.ingest(batch)
            await self._attributor.resolve_pending()
        if span := windows.close():
            await self._publisher.wait_for_room()
            self._publisher.close(span)

    async def _cancel_at_stop(self, lookups: asyncio.Task[None]) -> None:
        """Leave the time of a stop to the queued batches; `_settle` looks up what is left."""
        await self._stop.wait()
        lookups.cancel()

    async def _settle(self) -> None:
        """Emit all pending flows: looked up once more, recalled, or folded."""
        if self._stop.is_urgent:
            await self._attributor.fold_pending()
        else:
            await self._attributor.resolve_pending(_SETTLE_SECONDS)

"""The composition root: which stage follows which, and how a run starts and ends.

    capture thread      event loop
    --------------      ---------------------------------------------------------------------

    PacketSource  --->  Handoff  --->  Attributor  --->  Aggregator  --->  RecordStamper
                flow               flow  |   ^     flow               bodies     |
                batches            deltas|   |     and                of a       | records
                                         v   |     owner              window     v
                                       Resolver                              Dispatcher
                                   (lookup thread)                               |
                                                                                 v
                                                                     a queue and a worker
                                                                         for each sink

Stages do not know one another; `factory` makes the source, the resolver and the sinks.

Three kinds of run
    live      Packets are captured as they pass. Windows follow the wall clock.
    counted   The kernel counts (source "ebpf"). The source closes the windows, so that each window
              has exactly the counters that were read in it.
    replayed  Packets come from a savefile. Windows follow the packets' timestamps, lookups are
              finished before the next batch, and sinks block, so that a replay repeats to the byte.

How a run ends
    The source ends or is stopped. Then each stage drains into the next one: the queued batches, the
    pending flows (`_SETTLE_SECONDS`), the last window, the sinks (`_DRAIN_SECONDS`). So what was
    captured is in a record, whatever ends the run.

What may fail
    `open` raises what the source raises, and leaves nothing open. A source that breaks off raises
    from `run` after all that it captured has been delivered. A failing sink concerns only itself.
"""

import asyncio
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice

from hogpipe.aggregation.aggregator import Aggregator
from hogpipe.aggregation.selectors import parse_selector
from hogpipe.aggregation.windows import ClockWindows, PacketWindows
from hogpipe.attribution.stage.attributor import Attributor
from hogpipe.attribution.stale_flows import StaleFlows
from hogpipe.capture.handoff import Handoff
from hogpipe.config.settings import Settings
from hogpipe.delivery.dispatch import Dispatcher
from hogpipe.enrichment.process_refresh import ProcessRefresher
from hogpipe.factory import make_input, make_run_id_for, make_sink
from hogpipe.linux.process_exits import ProcessExits
from hogpipe.linux.self_usage import UsageMeter
from hogpipe.model import (
    UNATTRIBUTED,
    Attribution,
    AttributionCounts,
    CaptureCounts,
    FlowBatch,
    FlowDelta,
    FlowKey,
    Span,
)
from hogpipe.protocols import NANOSECONDS
from hogpipe.records import stats
from hogpipe.records.schema import Record, StatsBody
from hogpipe.records.stamp import RecordStamper
from hogpipe.records.summary import Summary

# A stop must not take two seconds: the last lookup and then the sinks get this long. Closing the
# sinks gets a little more (delivery/isolation.py).
_SETTLE_SECONDS = 0.3
_DRAIN_SECONDS = 1.0
# Flows that are ingested, and records that are built, before other tasks of the event loop run.
_SLICE = 500
# The clock may be stepped, or the host suspended, during a window: the clock is read this often.
_MAX_CLOCK_WAIT = 2.0


class Pipeline:
    """One run: `open`, then `run` to its end; `stop` ends it early with nothing lost.

    `host` is the name that records carry; by default this host's name.
    """

    def __init__(self, settings: Settings, *, host: str | None = None) -> None:
        self._interval_ns = round(settings.aggregation.interval * NANOSECONDS)
        self._capture_thread = ThreadPoolExecutor(1, "capture")
        self._lookup_thread = ThreadPoolExecutor(1, "lookup")
        self._refresh_thread = ThreadPoolExecutor(1, "refresh")
        self._packet_time_ns = 0
        stale = StaleFlows()
        self._source, self._resolver, processes = make_input(settings, self._interval_ns, stale)
        self._aggregator = Aggregator(
            settings.aggregation.group_by,
            [parse_selector(text) for text in settings.aggregation.only],
            settings.aggregation.max_records,
            # A replay has one description of each process for all of its packets.
            recall_process=processes.recall if self._source.live else lambda process: process,
        )
        self._refresher = ProcessRefresher(
            processes,
            self._refresh_thread,
            lambda: self._aggregator.processes,
            self._aggregator.invalidate_routes,
        )
        self._exits = ProcessExits(settings.attribution.procfs)
        self._attributor = Attributor(
            self._resolver,
            stale,
            self._lookup_thread,
            self._aggregator.ingest if self._source.live else self._ingest_replayed,
            hold=settings.attribution.hold,
            cpu_budget=settings.attribution.cpu_budget,
            clock=time.monotonic if self._source.live else self._packet_clock,
            set_batch_interval=self._source.set_batch_interval,
            exits=self._exits if self._source.live else None,
        )
        self._dispatcher = Dispatcher(
            [make_sink(choice, live=self._source.live) for choice in settings.sinks],
            on_output_closed=self.stop,
        )
        self.summary = Summary()
        self._publisher = _WindowPublisher(
            self._attributor,
            self._aggregator,
            RecordStamper(make_run_id_for(settings), host or socket.gethostname()),
            self._dispatcher,
            self.summary,
            live=self._source.live,
        )
        self._stopping = asyncio.Event()

    async def open(self) -> None:
        """Open the sinks and the source; the capture begins here.

        Raises ConfigurationError, NotPermittedError, BpfUnavailableError or CaptureError; nothing
        stays open then.
        """
        in_thread = asyncio.get_running_loop().run_in_executor
        try:
            await self._dispatcher.open()
            if self._source.closes_windows:
                # The kernel counts before the socket snapshot is taken, so that no socket between
                # the two is missed.
                await in_thread(self._capture_thread, self._source.open)
                await self._attributor.prepare()
            else:
                if self._source.live:
                    await self._attributor.prepare()
                await in_thread(self._capture_thread, self._source.open)
        except BaseException:
            await self._dispatcher.drain(0)
            await asyncio.shield(in_thread(self._capture_thread, self._source.close))
            await asyncio.shield(in_thread(self._lookup_thread, self._resolver.close))
            self._shut_down_threads()
            raise

    def describe_owners(self) -> str:
        """Return where owners come from, in words for the user; the pipeline is open."""
        return self._resolver.describe()

    async def run(self) -> Summary:
        """Run until the source ends or `stop` is called; return the totals.

        Raises CaptureError if the source broke off, after all that it captured was delivered.
        """
        started = time.monotonic()
        source_waits = self._source.closes_windows or not self._source.live
        handoff = Handoff(merge=not source_waits)
        capture = asyncio.get_running_loop().run_in_executor(
            self._capture_thread, self._capture, handoff
        )
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._dispatcher.run())
                refresher = group.create_task(self._refresher.run())
                if not self._source.live:
                    refresher.cancel()
                try:
                    await self._process(handoff)
                    await self._wait_for_sinks()
                finally:
                    refresher.cancel()
                    self.summary.undelivered = await self._dispatcher.drain(_DRAIN_SECONDS)
        finally:
            self._source.stop()
            handoff.abandon()
            self.summary.seconds = time.monotonic() - started
            try:
                await capture
            finally:
                self._exits.close()
                in_thread = asyncio.get_running_loop().run_in_executor
                await asyncio.shield(in_thread(self._lookup_thread, self._resolver.close))
                self._shut_down_threads()
        return self.summary

    def stop(self) -> None:
        """End the run soon, with a last window; may be called more than once."""
        self._stopping.set()
        self._source.stop()
        self._dispatcher.stop_blocking()

    def reopen(self) -> None:
        """Have the sinks that write files close and reopen them."""
        self._dispatcher.reopen()

    def _capture(self, handoff: Handoff) -> None:
        """Run the source (capture thread)."""
        try:
            self._source.run(handoff.offer)
        finally:
            handoff.end()

    async def _process(self, handoff: Handoff) -> None:
        """Process batches and publish windows until the source ends."""
        if self._source.closes_windows:
            await self._process_counted(handoff)
        elif self._source.live:
            await self._process_live(handoff)
        else:
            await self._process_replayed(handoff)

    async def _process_live(self, handoff: Handoff) -> None:
        windows = ClockWindows(self._interval_ns, time.time_ns())
        ended = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            lookups = group.create_task(self._attributor.run())
            group.create_task(self._close_windows(windows, ended, handoff))
            async for batch in handoff:
                await self._ingest(batch)
            ended.set()
            lookups.cancel()
        await self._attributor.resolve_pending(_SETTLE_SECONDS)
        await self._publisher.publish(windows.close(time.time_ns(), last=True), handoff)

    async def _close_windows(
        self, windows: ClockWindows, ended: asyncio.Event, handoff: Handoff
    ) -> None:
        """Publish each window when it is due, until the source has `ended`."""
        while not ended.is_set():
            delay = windows.delay(time.time_ns())
            if delay <= 0:
                await self._publisher.publish(windows.close(time.time_ns()), handoff)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(min(delay, _MAX_CLOCK_WAIT)):
                    await ended.wait()

    async def _process_counted(self, handoff: Handoff) -> None:
        async with asyncio.TaskGroup() as group:
            lookups = group.create_task(self._attributor.run())
            async for batch in handoff:
                await self._ingest(batch)
                if batch.is_last:
                    lookups.cancel()
                    await self._attributor.resolve_pending(_SETTLE_SECONDS)
                if batch.closed_window is not None:
                    await self._publisher.publish(batch.closed_window, handoff)
            lookups.cancel()

    async def _process_replayed(self, handoff: Handoff) -> None:
        windows = PacketWindows(self._interval_ns)
        async for batch in handoff:
            if span := windows.advance(batch.time_ns):
                await self._publisher.publish(span, handoff)
            await self._ingest(batch)
            await self._attributor.resolve_pending()
        if span := windows.close():
            await self._publisher.publish(span, handoff)

    async def _ingest(self, batch: FlowBatch) -> None:
        """Pass the flows of `batch` on: to the attributor, or to the aggregator if owned."""
        self._packet_time_ns = batch.time_ns
        self._publisher.count(batch.counts)
        flows = iter(batch.flows.items())
        while part := dict(islice(flows, _SLICE)):
            self._attributor.ingest(part)
            await asyncio.sleep(0)
        for start in range(0, len(batch.owned), _SLICE):
            for one in batch.owned[start : start + _SLICE]:
                self._aggregator.ingest_sum(one.flow, one.traffic, one.attribution, one.flows)
            await asyncio.sleep(0)

    def _ingest_replayed(self, flow: FlowKey, delta: FlowDelta, attribution: Attribution) -> None:
        """Pass a replayed flow on; a process that is younger than its packets is not its owner."""
        process = attribution.process
        if process is not None and (process.created_ns or 0) > self._packet_time_ns:
            attribution = UNATTRIBUTED
        self._aggregator.ingest(flow, delta, attribution)

    def _packet_clock(self) -> float:
        return self._packet_time_ns / NANOSECONDS

    async def _wait_for_sinks(self) -> None:
        """Wait until the sinks have taken everything, or until `stop` is called."""
        idle = asyncio.create_task(self._dispatcher.idle())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([idle, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            idle.cancel()
            stopping.cancel()

    def _shut_down_threads(self) -> None:
        self._capture_thread.shutdown(wait=False)
        self._lookup_thread.shutdown(wait=False)
        self._refresh_thread.shutdown(wait=False)


class _WindowPublisher:
    """Closes windows: drains each stage into records, and passes those to the sinks."""

    def __init__(
        self,
        attributor: Attributor,
        aggregator: Aggregator,
        stamper: RecordStamper,
        dispatcher: Dispatcher,
        summary: Summary,
        *,
        live: bool,
    ) -> None:
        self._attributor = attributor
        self._aggregator = aggregator
        self._stamper = stamper
        self._dispatcher = dispatcher
        self._summary = summary
        self._live = live
        self._counts = CaptureCounts()
        self._usage = UsageMeter()

    def count(self, counts: CaptureCounts) -> None:
        """Add the counts of a batch to the open window."""
        self._counts.add(counts)

    async def publish(self, span: Span, handoff: Handoff) -> None:
        """Close the open window, which lasted for `span`."""
        await self._attributor.emit_expired()
        counts, self._counts = self._counts, CaptureCounts()
        bodies = self._aggregator.drain()
        attribution_counts = self._attributor.drain_stats()
        records: list[Record] = []
        while part := [self._stamper.traffic(body, *span) for body in islice(bodies, _SLICE)]:
            records += part
            await asyncio.sleep(0)
        body = self._build_stats(counts, attribution_counts, len(records), handoff)
        records.append(self._stamper.stats(body, *span))
        self._summary.add_window(counts, self._aggregator.bytes_by_quality, len(records))
        await self._dispatcher.publish(records)

    def _build_stats(
        self,
        counts: CaptureCounts,
        attribution_counts: AttributionCounts,
        records: int,
        handoff: Handoff,
    ) -> StatsBody:
        aggregator = self._aggregator
        body: StatsBody = {
            "capture": stats.capture_info(counts),
            "attribution": stats.attribution_info(
                attribution_counts, aggregator.bytes_by_quality, timed=self._live
            ),
            "aggregation": stats.aggregation_info(
                records=records,
                folded_groups=aggregator.folded_groups,
                uncounted_flows=aggregator.uncounted_flows,
            ),
        }
        # A replay repeats to the byte, so its records have nothing that depends on the clock.
        if self._live:
            body["sinks"] = self._dispatcher.health()
            body["self"] = stats.self_info(
                **self._usage.read(), loop_delay_seconds=handoff.take_longest_delay()
            )
        return body

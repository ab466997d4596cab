"""The composition root: which stage follows which, and how a run starts and ends.

    capture thread -> HandOver -> Attributor -> Aggregator -> RecordStamper -> Dispatcher -> sinks

The capture thread runs until the source ends or is stopped; everything behind it drains in that
order, so that what was captured is also told. The look-ups of attribution have a thread of their
own; all else is one event loop.
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
from hogpipe.factory import make_run_id_for, make_sink, make_source
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

# A stop must not take two seconds: so long for a last look-up, and so long for the sinks, which
# then get a little for closing (delivery/lane.py).
_SETTLE_SECONDS = 0.3
_DRAIN_SECONDS = 1.0
# Flows that are taken in, and records that are built, in one go, without a turn for the rest of the
# event loop.
_SLICE = 500
# The clock may be set, or the host sleep, in the middle of a window: it is looked at this often.
_LONGEST_WAIT = 2.0


class Pipeline:
    """One run: `open`, then `run` to its end; `stop` ends it early with nothing lost.

    `host` is the name that records carry, this host's where absent.
    """

    def __init__(self, settings: Settings, *, host: str | None = None) -> None:
        self._settings = settings
        self._interval_ns = round(settings.aggregation.interval * NANOSECONDS)
        self._capture_thread = ThreadPoolExecutor(1, "capture")
        self._lookup_thread = ThreadPoolExecutor(1, "lookup")
        self._packet_time_ns = 0
        stale = StaleFlows()
        self._source, self._resolver = make_source(settings, self._interval_ns, stale)
        self._aggregator = Aggregator(
            settings.aggregation.group_by,
            [parse_selector(text) for text in settings.aggregation.only],
            settings.aggregation.max_records,
        )
        self._attributor = Attributor(
            self._resolver,
            stale,
            self._lookup_thread,
            self._aggregator.ingest if self._source.live else self._ingest_replayed,
            hold=settings.attribution.hold,
            cpu_budget=settings.attribution.cpu_budget,
            clock=time.monotonic if self._source.live else self._packet_clock,
            gather_for=self._source.set_batch_interval,
        )
        self._dispatcher = Dispatcher(
            [make_sink(choice, live=self._source.live) for choice in settings.sinks],
            on_output_closed=self.stop,
        )
        self._usage = UsageMeter()
        self._counts = CaptureCounts()
        self._stamper = RecordStamper(make_run_id_for(settings), host or socket.gethostname())
        self._stopping = asyncio.Event()
        self._handover: Handoff | None = None
        self.summary = Summary()

    async def open(self) -> None:
        """Get ready to run; the capture begins here.

        Raises ConfigurationError, NotPermittedError, BpfUnavailableError or CaptureError; nothing
        stays open then.
        """
        in_thread = asyncio.get_running_loop().run_in_executor
        try:
            await self._dispatcher.open()
            if self._source.closes_windows:
                # What was there before is read when it counts, so that nothing falls between.
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
            self._shut_threads()
            raise

    async def run(self) -> Summary:
        """Run until the source ends or `stop` is called; return the totals.

        Raises CaptureError, after everything captured was told, where the source broke off.
        """
        started = time.monotonic()
        can_wait = self._source.closes_windows or not self._source.live
        handover = self._handover = Handoff(merge=not can_wait)
        capture = asyncio.get_running_loop().run_in_executor(
            self._capture_thread, self._capture, handover
        )
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._dispatcher.run())
                try:
                    await self._account(handover)
                    await self._deliver()
                finally:
                    self.summary.undelivered = await self._dispatcher.drain(_DRAIN_SECONDS)
        finally:
            self._source.stop()
            handover.abandon()
            self.summary.seconds = time.monotonic() - started
            try:
                await capture
            finally:
                in_thread = asyncio.get_running_loop().run_in_executor
                await asyncio.shield(in_thread(self._lookup_thread, self._resolver.close))
                self._shut_threads()
        return self.summary

    def stop(self) -> None:
        """End the run soon: the last window is still told. May be called more than once."""
        self._stopping.set()
        self._source.stop()
        self._dispatcher.stop_blocking()

    def reopen(self) -> None:
        """Have the sinks that write files close and open them again, soon."""
        self._dispatcher.reopen()

    def _capture(self, handover: Handoff) -> None:
        try:
            self._source.run(handover.offer)
        finally:
            handover.end()

    async def _account(self, handover: Handoff) -> None:
        if self._source.closes_windows:
            await self._account_counted(handover)
        elif self._source.live:
            await self._account_live(handover)
        else:
            await self._account_replay(handover)

    async def _account_live(self, handover: Handoff) -> None:
        windows = ClockWindows(self._interval_ns, time.time_ns())
        ended = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            lookups = group.create_task(self._attributor.run())
            group.create_task(self._close_windows(windows, ended))
            async for batch in handover:
                await self._ingest(batch)
            ended.set()
            lookups.cancel()
        await self._attributor.settle(_SETTLE_SECONDS)
        await self._publish(windows.close(time.time_ns(), last=True))

    async def _close_windows(self, windows: ClockWindows, ended: asyncio.Event) -> None:
        while not ended.is_set():
            delay = windows.delay(time.time_ns())
            if delay <= 0:
                await self._publish(windows.close(time.time_ns()))
                continue
            with suppress(TimeoutError):  # it is time to look at the clock
                async with asyncio.timeout(min(delay, _LONGEST_WAIT)):
                    await ended.wait()

    async def _account_counted(self, handover: Handoff) -> None:
        async with asyncio.TaskGroup() as group:
            lookups = group.create_task(self._attributor.run())
            async for batch in handover:
                await self._ingest(batch)
                if batch.is_last:
                    lookups.cancel()
                    await self._attributor.settle(_SETTLE_SECONDS)
                if batch.closed_window is not None:
                    await self._publish(batch.closed_window)
            lookups.cancel()

    async def _account_replay(self, handover: Handoff) -> None:
        windows = PacketWindows(self._interval_ns)
        async for batch in handover:
            if span := windows.advance(batch.time_ns):
                await self._publish(span)
            await self._ingest(batch)
            await self._attributor.settle()
        if span := windows.close():
            await self._publish(span)

    async def _ingest(self, batch: FlowBatch) -> None:
        self._packet_time_ns = batch.time_ns
        self._counts.add(batch.counts)
        flows = iter(batch.flows.items())
        while part := dict(islice(flows, _SLICE)):
            self._attributor.ingest(part)
            await asyncio.sleep(0)
        for start in range(0, len(batch.owned), _SLICE):
            for one in batch.owned[start : start + _SLICE]:
                self._aggregator.ingest_sum(one.flow, one.traffic, one.attribution, one.flows)
            await asyncio.sleep(0)

    async def _publish(self, span: Span) -> None:
        """Close a window: drain every stage into records and hand them to the sinks."""
        await self._attributor.expire()
        counts, self._counts = self._counts, CaptureCounts()
        bodies = self._aggregator.drain()
        looked_up = self._attributor.drain_stats()
        records: list[Record] = []
        while part := [self._stamper.traffic(body, *span) for body in islice(bodies, _SLICE)]:
            records += part
            await asyncio.sleep(0)
        stats_body = self._tell_stats(counts, looked_up, len(records))
        records.append(self._stamper.stats(stats_body, *span))
        self.summary.add_window(counts, self._aggregator.bytes_by_quality, len(records))
        await self._dispatcher.publish(records)

    async def _deliver(self) -> None:
        """Wait for the sinks to take everything: the source has ended and nothing presses."""
        idle = asyncio.create_task(self._dispatcher.idle())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([idle, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            idle.cancel()
            stopping.cancel()

    def _tell_stats(
        self, counts: CaptureCounts, looked_up: AttributionCounts, records: int
    ) -> StatsBody:
        live = self._source.live
        aggregator = self._aggregator
        body: StatsBody = {
            "capture": stats.capture_info(counts),
            "attribution": stats.attribution_info(
                looked_up, aggregator.bytes_by_quality, timed=live
            ),
            "aggregation": stats.aggregation_info(
                records=records,
                folded_groups=aggregator.folded_groups,
                uncounted_flows=aggregator.uncounted_flows,
            ),
        }
        # What depends on the clock has no place in a replay, which repeats to the byte.
        if live and self._handover is not None:
            body["sinks"] = self._dispatcher.health()
            body["self"] = stats.self_info(
                **self._usage.read(), loop_delay_seconds=self._handover.take_longest_delay()
            )
        return body

    def _ingest_replayed(self, flow: FlowKey, delta: FlowDelta, attribution: Attribution) -> None:
        """Take a flow of a replay, whose owner cannot be a process younger than its packets."""
        process = attribution.process
        if process is not None and (process.created_ns or 0) > self._packet_time_ns:
            attribution = UNATTRIBUTED
        self._aggregator.ingest(flow, delta, attribution)

    def _packet_clock(self) -> float:
        return self._packet_time_ns / NANOSECONDS

    def _shut_threads(self) -> None:
        self._capture_thread.shutdown(wait=False)
        self._lookup_thread.shutdown(wait=False)

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
    pending flows, the last window, the sinks (`_DRAIN_SECONDS`). So what was
    captured is in a record, whatever ends the run and however long that takes (processing.py).

What may fail
    `open` raises what the source raises, and leaves nothing open. A source that breaks off, for
    whatever reason, raises from `run` after all that it captured has been delivered. A lookup that
    fails is retried, and so is the refresh of descriptions. A failing sink concerns only itself.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from functools import partial

from hogpipe.attribution.stage.attributor import Attributor
from hogpipe.attribution.stale_flows import StaleFlows
from hogpipe.capture.batch_counter import BatchCounter
from hogpipe.capture.frame_tap import FrameTap
from hogpipe.capture.handoff import Handoff
from hogpipe.config.settings import Settings
from hogpipe.delivery.dispatch import Dispatcher
from hogpipe.enrichment.process_refresh import ProcessRefresher
from hogpipe.enrichment.service_port_refresh import ServicePortRefresher
from hogpipe.errors import CaptureError, HogpipeError
from hogpipe.factory import (
    FIRST_TABLE_NS,
    AggregatorFactory,
    choose_first_window,
    interval_of,
    make_aggregator,
    make_input,
    make_run_id_for,
    make_sink,
)
from hogpipe.flows.flow_table import FlowTable
from hogpipe.flows.traced_table import TracedFlowTable
from hogpipe.interrupter import Interrupter
from hogpipe.linux.listening_ports import read_service_ports
from hogpipe.linux.memory import limit_free_memory
from hogpipe.linux.process_exits import ProcessExits
from hogpipe.model import Process, ServicePorts
from hogpipe.processing import Intake, PacketClock, Processing, WindowPublisher
from hogpipe.reconfiguration import Reconfiguration, Reconfigurer
from hogpipe.records.stamp import RecordStamper
from hogpipe.records.summary import Summary
from hogpipe.run_requests import StopRequest
from hogpipe.security.rights import Role
from hogpipe.security.run_threads import RunThreads
from hogpipe.text import describe_error

log = logging.getLogger(__name__)

# A stop must not take two seconds: the sinks get this long, and a little more to close
# (delivery/isolation.py).
_DRAIN_SECONDS = 1.0
_CLOSE_SECONDS = 0.2  # for a lookup that still runs
_REFRESH_RETRY_SECONDS = 1.0
# Most flows of a replay have no socket, and take columns only: some 250 bytes.
_REPLAY_SHARE = 8
_PENDING_SHARE = 4  # a pending flow takes more memory than a cached one, and is pending for seconds


class Pipeline:
    """One run: `open`, then `run` to its end; `stop` ends it early with nothing lost.

    `host` is the name that records carry; by default this host's name. Another `make_aggregator`
    gets all traffic, and may use it without records. If the run `is_watched`, its first window is
    short. `threads` may have rights that the calling thread has not. `interrupter` interrupts the
    thread that opens it. A `tap` gets the frames of a source of packets, and their owners.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        host: str | None = None,
        make_aggregator: AggregatorFactory = make_aggregator,
        is_watched: bool = False,
        threads: RunThreads | None = None,
        interrupter: Interrupter | None = None,
        tap: FrameTap | None = None,
    ) -> None:
        self._threads = threads or RunThreads.plain()
        self._capture_thread = self._threads.capture
        self._lookup_thread = self._threads.lookup
        self._refresh_thread = self._threads.refresh
        self._packet_clock = PacketClock()
        self._stop = StopRequest()
        live = settings.capture.source != "savefile"
        clock = time.monotonic if live else self._packet_clock
        max_flows = settings.attribution.max_flows
        make_table = FlowTable if tap is None else partial(TracedFlowTable, trace=tap)
        if live:
            limit_free_memory()
            max_pending = max_flows // _PENDING_SHARE
            self._table = make_table(max_flows, max_unowned=max_pending)
        else:
            # No flow of a replay is folded: a reserve leaves room for those of a batch, and all of
            # them may be pending, as a replay waits for the lookups of each batch.
            max_pending = reserve = 2 * max_flows + 1
            size = _REPLAY_SHARE * max_flows
            self._table = make_table(size, size, reserve=reserve, max_named=max_flows)
        stale = StaleFlows()
        self._source, self._resolver, processes, self._naming = make_input(
            settings,
            self._table,
            clock,
            stale,
            lambda: self._aggregator.service_ports,
            limit_events=self._threads.limit[Role.EVENTS],
            tap=tap,
        )
        # A replay has one description of each process for all of its packets.
        recall = processes.recall if live else lambda process: process
        self._aggregator = make_aggregator(settings, recall)
        self._refresher = ProcessRefresher(
            processes,
            self._refresh_thread,
            self._list_processes,
            self._describe_again,
        )
        self._ports = ServicePortRefresher(
            lambda: read_service_ports(settings.attribution.procfs),
            self._refresh_thread,
            self._use_service_ports,
        )
        self._exits = ProcessExits(settings.attribution.procfs)
        self._attributor = Attributor(
            self._resolver,
            stale,
            self._lookup_thread,
            self._table,
            hold=settings.attribution.hold,
            max_pending=max_pending,
            cpu_budget=settings.attribution.cpu_budget,
            clock=clock,
            set_batch_interval=self._source.set_batch_interval,
            exits=self._exits if live else None,
            is_replay=not live,
        )
        self._dispatcher = Dispatcher(
            [make_sink(choice, live=live) for choice in settings.sinks],
            on_output_closed=self.stop,
            interrupter=interrupter,
        )
        self._handoff = Handoff(
            BatchCounter(
                self._table, self._attributor.start_batch, clock, end_connections=stale.add_all
            ),
            waits=self._source.closes_windows or not live,
        )
        self._intake = Intake(
            self._handoff,
            self._table,
            self._attributor,
            self._aggregator,
            # A replay has no time to keep, and loses nothing.
            self._stop.is_late if live else lambda: False,
            naming=self._naming,
        )
        self._publisher = WindowPublisher(
            self._intake,
            self._attributor,
            self._aggregator,
            RecordStamper(make_run_id_for(settings), host or socket.gethostname()),
            self._dispatcher,
            live=live,
            naming=self._naming,
        )
        self._processing = Processing(
            self._source,
            self._handoff,
            self._intake,
            self._attributor,
            self._publisher,
            stop=self._stop,
            packet_clock=self._packet_clock,
            interval_ns=interval_of(settings),
            first_window_ns=FIRST_TABLE_NS if is_watched else choose_first_window(settings),
        )
        self._reconfigurer = Reconfigurer(
            settings,
            processing=self._processing,
            publisher=self._publisher,
            dispatcher=self._dispatcher,
            aggregator=self._aggregator,
            processes=processes,
            refresh_ports=self._ports.refresh,
        )

    @property
    def summary(self) -> Summary:
        """The totals of the run so far."""
        return self._publisher.summary

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_made

    async def open(self) -> None:
        """Open the sinks and the source; the capture begins here.

        Raises ConfigurationError, NotPermittedError, BpfUnavailableError or CaptureError; nothing
        stays open then.
        """
        in_thread = asyncio.get_running_loop().run_in_executor
        try:
            await self._dispatcher.open()
            if self._aggregator.needs_service_ports:
                await self._ports.refresh()
            if self._naming is not None:  # first: no connection passes whose answer was not seen
                await in_thread(self._capture_thread, self._naming.open)
            if self._source.closes_windows:
                # The kernel counts before the socket snapshot is taken, so that no socket between
                # the two is missed.
                await in_thread(self._capture_thread, self._source.open)
                await self._attributor.prepare()
            else:
                if self._source.live:
                    await self._attributor.prepare()
                await in_thread(self._capture_thread, self._source.open)
            await self._threads.confine()
        except BaseException:
            await self._dispatcher.drain(0)
            await asyncio.shield(in_thread(self._capture_thread, self._source.close))
            self._close_naming()
            await asyncio.shield(in_thread(self._lookup_thread, self._resolver.close))
            self._threads.shut_down()
            raise

    def describe_owners(self) -> str:
        """Return where owners come from, in words for the user; the pipeline is open."""
        return self._resolver.describe()

    async def run(self) -> Summary:
        """Run until the source ends or `stop` is called; return the totals.

        Raises CaptureError if the source broke off, after all that it captured was delivered.
        """
        started = time.monotonic()
        capture = asyncio.get_running_loop().run_in_executor(self._capture_thread, self._capture)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._dispatcher.run())
                refreshers = [group.create_task(one) for one in self._list_refreshers()]
                try:
                    await self._processing.run()
                    await self._wait_for_sinks()
                finally:
                    for refresher in refreshers:
                        refresher.cancel()
                    await self._reconfigurer.close()
                    self.summary.undelivered = await self._dispatcher.drain(_DRAIN_SECONDS)
        finally:
            self._source.stop()
            self._handoff.abandon()
            self.summary.seconds = time.monotonic() - started
            try:
                await capture
            finally:
                self._exits.close()
                self._close_naming()
                await self._close_resolver()
                self._threads.shut_down()
        return self.summary

    def stop(self, *, urgent: bool = False) -> None:
        """End the run soon, with a last window; may be called more than once.

        With `urgent`, pending flows are recorded without a last lookup.
        """
        self._stop.make(urgent=urgent)
        self._source.stop()
        self._dispatcher.stop_blocking()

    def reopen(self) -> None:
        """Have the sinks that write files close and reopen them."""
        self._dispatcher.reopen()

    async def reconfigure(self, settings: Settings) -> Reconfiguration:
        """Take over what `settings` change of aggregation, enrichment and sinks.

        Between two windows, so that each record follows from one configuration. `run` must be
        running. Raises ConfigurationError, with nothing changed.
        """
        return await self._reconfigurer.take_over(settings)

    def _capture(self) -> None:
        """Run the source (capture thread). Raises HogpipeError, whatever it fails with."""
        try:
            self._source.run(self._handoff.offer)
        except HogpipeError:
            raise
        except BaseException as error:
            log.debug("where the capture failed", exc_info=error)
            raise CaptureError(f"the capture broke off: {describe_error(error)}") from error
        finally:
            self._handoff.end()

    def _list_refreshers(self) -> list[Coroutine[None, None, None]]:
        """Return what keeps descriptions current; those of a replay stay as they are."""
        if not self._source.live:
            return []
        names = [] if self._naming is None else [_keep_refreshing(self._naming.run)]
        return [
            *names,
            _keep_refreshing(self._refresher.run),
            _keep_refreshing(lambda: self._ports.run(lambda: self._aggregator.needs_service_ports)),
        ]

    def _close_naming(self) -> None:
        if self._naming is not None:
            self._naming.close()

    def _use_service_ports(self, ports: ServicePorts) -> None:
        self._aggregator.service_ports = ports

    def _list_processes(self) -> Collection[Process]:
        """Return the processes that have traffic, also those of what is in the flow table."""
        self._aggregator.recall_processes(self._table.list_attributions())
        return self._aggregator.processes

    def _describe_again(self) -> None:
        """Describe processes as they are from now on; what was counted stays with the former."""
        self._intake.flush()
        self._aggregator.invalidate_routes()

    async def _wait_for_sinks(self) -> None:
        """Wait until the sinks have taken everything, or until `stop` is called."""
        idle = asyncio.create_task(self._dispatcher.idle())
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([idle, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            idle.cancel()
            stopping.cancel()

    async def _close_resolver(self) -> None:
        """Close the resolver; if a lookup still runs, the resolver is closed when that ends."""
        closing = asyncio.get_running_loop().run_in_executor(
            self._lookup_thread, self._resolver.close
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await asyncio.shield(closing)


async def _keep_refreshing(run: Callable[[], Coroutine[None, None, None]]) -> None:
    """Await `run`, until cancelled; if it raises, descriptions get old, and it is called again."""
    last = ""
    while True:
        try:
            await run()
        except Exception as error:
            text = describe_error(error)
            if text != last:
                last = text
                log.warning("descriptions of processes and ports are not current now: %s", text)
                log.debug("where reading them failed", exc_info=error)
            await asyncio.sleep(_REFRESH_RETRY_SECONDS)

"""The ledger of the running kernel: ingests the events of the BPF programs, and answers lookups.

`EventReader` reads and decodes events, `EventOwners` identifies their processes, `Ledger` records
them. `KernelLedger` locks all three and converts the time of packets to that of events.

Threads
-------
Lookups first ingest all events until now (`refresh`), so that they find each socket whose packets
have passed. So does whoever counts packets of known flows. Where neither did for `_LONGEST_PAUSE`,
a thread of its own ingests the events, so that the ring buffer does not fill up: many events cost
one wake-up, and the ring has room for more than 100,000 of them a second.

Another thread reads each process when it first uses a socket (`ProcessWatch`), at once and without
this lock, so that a process that exits soon after is known.

One lock is held while events are ingested and while a lookup runs. A backlog is ingested in parts,
and the lock is fair, so that no thread waits for it longer than some milliseconds.

What may fail
-------------
A part that cannot be ingested counts as lost events: a snapshot confirms the sockets again. Neither
the threads here end (`keep_running`), nor does the capture thread, which ingests events for drains.

Known limits: packets captured while the wall clock is stepped may be matched to the wrong time.
"""

import logging
import math
import os
import select
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

from hogpipe.attribution.ledger.event_owners import EventOwners
from hogpipe.attribution.ledger.event_reader import EventReader
from hogpipe.attribution.ledger.fair_lock import FairLock
from hogpipe.attribution.ledger.ledger import Ledger
from hogpipe.attribution.ledger.packet_senders import PacketSenders
from hogpipe.attribution.ledger.privileged_calls import PrivilegedCalls
from hogpipe.attribution.ledger.socket_events import EventBlock
from hogpipe.attribution.resolver import FlowsInSpans
from hogpipe.attribution.stale_flows import StaleFlows
from hogpipe.enrichment.process_watch import ProcessWatch
from hogpipe.enrichment.processes import ProcessReader
from hogpipe.linux.bpf.loader import AttachedPrograms
from hogpipe.linux.bpf.packet_hooks import PacketHooks, choose_all
from hogpipe.linux.bpf.sender_map import PacketSenderMap
from hogpipe.linux.capabilities import Capability
from hogpipe.linux.clocks import boot_clock, read_boot_time
from hogpipe.linux.procfs import Procfs
from hogpipe.model import (
    MAX_SOCKETS,
    Contested,
    FlowKey,
    LedgerCounts,
    LedgerEntry,
    Quality,
    SnapshotSocket,
    SocketOwner,
    Span,
)
from hogpipe.protocols import NANOSECONDS
from hogpipe.text import describe_error
from hogpipe.threads import keep_running

log = logging.getLogger(__name__)

# Seconds from the first event to the ingestion of those until then, if no lookup comes before.
_LONGEST_PAUSE, _SHORTEST_PAUSE = 0.3, 0.01
_MANY_EVENTS = 2500  # in a pause: a sixteenth of what the ring buffer holds
# From this number of TCP events on, a block is cheaper to ingest than its events one by one.
_MANY_TCP_EVENTS = 24
# No snapshot is taken before this time has passed without a loss of events.
_CALM_NS = NANOSECONDS


class KernelLedger:
    """The sockets of the running kernel since `programs` were attached (attach_ledger_programs).

    It takes `programs` over and closes them. `procfs` must show the pids of the host; `clock` is in
    seconds. Flows whose owner may have changed since a lookup are added to `stale`, and new
    processes to `processes`. Each of its threads calls `limit_events`, to drop rights.

    Raises BpfUnavailableError, and OSError if descriptors are short; then nothing stays attached.
    """

    def __init__(
        self,
        programs: AttachedPrograms,
        procfs: Path = Path("/proc"),
        stale: StaleFlows | None = None,
        *,
        processes: ProcessReader | None = None,
        grace: float = 60.0,
        max_sockets: int = MAX_SOCKETS,
        clock: Callable[[], float] = time.monotonic,
        limit_events: Callable[[], None] = lambda: None,
    ) -> None:
        self._lock = FairLock()
        self._clock = clock
        self.stale = StaleFlows() if stale is None else stale
        """The flows whose owner may have changed since a lookup."""
        self._ledger = Ledger(self.stale, grace=grace, max_sockets=max_sockets)
        self._lost_ns = 0
        """When events were lost last."""
        self._failed_events = 0
        """Those that could not be ingested."""
        self._read_at = -math.inf
        """When events were read last, seconds of the monotonic clock."""
        self._boot_time_ns = read_boot_time()
        self._closed = False
        with ExitStack() as stack:
            stack.callback(programs.close)
            self._events = EventReader(programs)
            stack.callback(self._events.close)
            self._owners = EventOwners(procfs)
            stack.callback(self._owners.close)
            self._calls = PrivilegedCalls(Capability.CAP_DAC_READ_SEARCH, limit_events)
            stack.callback(self._calls.close)
            readers = processes or ProcessReader(Procfs(procfs))
            watch = ProcessWatch(
                programs, readers, self._owners.starts, clock, limit_events=limit_events
            )
            stack.callback(watch.close)
            self._senders: PacketSenders | None = None
            if programs.has_interface_program:
                hooks = PacketHooks(programs, choose_all, limit_events=limit_events)
                stack.callback(hooks.close)
                self._senders = PacketSenders(PacketSenderMap(programs), self._owners)
            self._thread = _IngestThread(self._events.fileno(), self._ingest_unread, limit_events)
            self._resources = stack.pop_all()
        # The event loop, too, drains stale flows, and may not read what owners are made of.
        self.stale.ingest_before_drain(lambda: self._calls.call(self._ingest_for_drain))

    def refresh(self) -> None:
        """Ingest all events until now."""
        self._ingest_all()

    def owner_of(
        self,
        flow: FlowKey,
        namespace_cookie: int | None,
        span: Span | None = None,
        /,
        *,
        is_divisible: bool = False,
    ) -> LedgerEntry | Contested | None:
        """Return the owner of a flow as of the events ingested so far; see `Ledger.owner_of`.

        `span` is in the time of packets, nanoseconds since the epoch; None is now.
        """
        boot_span = self._to_boot_time(span)
        with self._lock:
            return self._ledger.owner_of(
                flow, namespace_cookie, boot_span, self._clock(), is_divisible=is_divisible
            )

    def owners_of(
        self, flows: FlowsInSpans, namespace_cookie: int | None
    ) -> list[LedgerEntry | Contested | None]:
        """Return the owners of several flows of one network namespace."""
        boot_time_ns, present = self._boot_time_ns, self._to_boot_time(None)
        asked = [
            (flow, Span(span[0] - boot_time_ns, span[1] - boot_time_ns) if span else present)
            for flow, span in flows
        ]
        with self._lock:
            return self._ledger.owners_of(asked, namespace_cookie, self._clock())

    def owners_of_sockets(self, cookies: Iterable[int]) -> list[tuple[Quality, SocketOwner] | None]:
        """Return the owner of each socket as of now, None of one that is not known."""
        self.refresh()
        with self._lock:
            return [self._ledger.owner_of_socket(cookie) for cookie in cookies]

    @property
    def names_packet_senders(self) -> bool:
        """Whether the kernel permits a program at interfaces."""
        return self._senders is not None

    def packet_senders_of(self, flows: FlowsInSpans) -> list[LedgerEntry | None]:
        """Return the processes that send flows through packet sockets; see `PacketSenders`."""
        if self._senders is None or not flows:
            return [None] * len(flows)
        asked = [(flow, self._to_boot_time(span)) for flow, span in flows]
        with self._lock:
            return self._senders.find(asked, self._clock())

    def record_comparison(self, cookie: int, /, *, holder: SocketOwner | None) -> None:
        """Do nothing: each lookup of a lasting socket is compared with /proc."""

    def needs_snapshot(self) -> bool:
        """Return whether a snapshot is needed, and no events were lost in the last second."""
        with self._lock:
            return self._ledger.needs_snapshot and boot_clock() - self._lost_ns > _CALM_NS

    def begin_snapshot(self) -> None:
        """Prepare for `ingest_snapshot` after a loss; the open sockets are read after this call."""
        self.refresh()
        with self._lock:
            self._ledger.begin_snapshot()

    def ingest_snapshot(self, sockets: Iterable[SnapshotSocket]) -> None:
        """Merge a snapshot of the open sockets, read since the programs were attached.

        Once at the beginning, and once for each `begin_snapshot`.
        """
        made = list(sockets)  # this takes as long as the rest, and needs no lock
        self.refresh()
        with self._lock:
            self._ledger.ingest_snapshot(made, self._clock())

    def counts(self) -> LedgerCounts:
        """Return the counters; all but the number of sockets only grow."""
        with self._lock:
            counts = self._ledger.counts()
            read = self._events.counts()
            counts.events_lost = read.events_lost + self._failed_events
            counts.sockets_lost = read.sockets_lost
            counts.malformed_events = read.malformed
            counts.unidentified_processes = self._owners.unidentified
        return counts

    def close(self) -> None:
        """Ingest all events until now and detach; lookups still work. May be called again."""
        if self._closed:
            return
        self._thread.stop()
        self.refresh()
        with self._lock:
            self._closed = True
            self._senders = None  # descriptors of its maps are closed
            self._resources.close()

    def _ingest_all(self) -> int:
        """Ingest all events until now, and return how many there were."""
        self._boot_time_ns = read_boot_time()
        has_read = False
        ingested = 0
        while True:
            with self._lock:
                if not self._events.has_backlog:
                    if has_read or self._closed:
                        return ingested
                    has_read = True
                    self._read()
                ingested += self._ingest_part()

    def _ingest_unread(self, since: float) -> int:
        """Ingest all events until now, and return how many there were.

        Not where all events were read and ingested `since`: then there are lookups.
        """
        if self._read_at >= since and not self._events.has_backlog:
            return 0
        return self._ingest_all()

    def _ingest_for_drain(self) -> None:
        """Ingest the events until now before stale flows are drained, or a part of a backlog.

        The event loop waits for this. Of the rest of a backlog only the releases are looked at,
        and flows of the released sockets invalidated.
        """
        with self._lock:
            if not self._events.has_backlog and not self._closed:
                self._read()
            self._ingest_part()
            self._ledger.invalidate(self._events.released_in_backlog())

    def _to_boot_time(self, span: Span | None) -> Span:
        """Return a span of packets in nanoseconds since boot; None is now."""
        if span is None:
            boot_ns = boot_clock()
            return Span(boot_ns, boot_ns + 1)
        return Span(span.start_ns - self._boot_time_ns, span.end_ns - self._boot_time_ns)

    def _read(self) -> None:
        self._read_at = time.monotonic()
        loss = self._events.read()
        if loss is not None:
            self._lost_ns = loss.until_ns
            self._ledger.record_loss(*loss)

    def _ingest_part(self) -> int:
        block = self._events.take_part()
        try:
            self._ingest_block(block)
        except Exception as error:  # noqa: BLE001 - the capture thread ingests events, too
            self._record_failure(block, error)
        except BaseException as error:
            self._record_failure(block, error)
            raise
        return len(block)

    def _record_failure(self, block: EventBlock, error: BaseException) -> None:
        """Record that what a block reports is lost, as if the ring buffer had been full."""
        if not self._failed_events:
            log.warning("socket events cannot be ingested: %s", describe_error(error))
            log.debug("where ingesting them failed", exc_info=error)
        self._failed_events += len(block)
        self._lost_ns = boot_clock()
        self._ledger.record_loss(min(block.boot_ns, default=self._lost_ns), self._lost_ns)

    def _ingest_block(self, block: EventBlock) -> None:
        now = self._clock()
        if block.tcp_events >= _MANY_TCP_EVENTS:
            self._ledger.ingest_block(block, self._owners.find_each(block, now), now)
        else:
            for event in block:
                self._ledger.ingest(event, self._owners.find(event, now), now)


def next_pause(pause: float, ingested: int) -> float:
    """Return the pause after one in which `ingested` events came, in seconds.

    It becomes shorter where so many events come that the ring buffer might fill up.
    """
    if ingested > _MANY_EVENTS:
        return max(pause / 2, _SHORTEST_PAUSE)
    return min(pause * 2, _LONGEST_PAUSE)


class _IngestThread:
    """Calls `ingest` soon after `events_fd` becomes readable, until `stop`. Raises OSError.

    `ingest` is given the time since when there are events, by the monotonic clock, and returns the
    number of events that it ingested. The thread calls `limit_rights` first.
    """

    def __init__(
        self, events_fd: int, ingest: Callable[[float], int], limit_rights: Callable[[], None]
    ) -> None:
        self._events_fd = events_fd
        self._ingest = ingest
        self._limit_rights = limit_rights
        self._stopped = False
        self._stop_read_fd, self._stop_write_fd = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(
            target=keep_running, args=(self._run,), name="ledger", daemon=True
        )
        try:
            self._thread.start()
        except BaseException:
            self._close()
            raise

    def stop(self) -> None:
        """Stop and wait until the thread has ended. May be called again."""
        if not self._stopped:
            self._stopped = True
            os.write(self._stop_write_fd, b"\0")
            self._thread.join()
            self._close()

    def _run(self) -> None:
        self._limit_rights()
        stop = select.poll()
        stop.register(self._stop_read_fd, select.POLLIN)
        ready = select.poll()
        ready.register(self._stop_read_fd, select.POLLIN)
        ready.register(self._events_fd, select.POLLIN)
        pause = _LONGEST_PAUSE
        while self._stop_read_fd not in {descriptor for descriptor, _ in ready.poll()}:
            readable_since = time.monotonic()
            if stop.poll(1000 * pause):
                return
            pause = next_pause(pause, self._ingest(readable_since))

    def _close(self) -> None:
        os.close(self._stop_read_fd)
        os.close(self._stop_write_fd)

"""The ledger of the running kernel: takes in what the BPF programs tell, and answers.

A thread of its own waits for events, so that a process is looked at soon after it first used a
socket, and so that the ring never fills while nobody asks. Whoever asks first takes in all that has
happened until then: an answer knows of every socket whose packets had passed before the question.

Safe from any thread: one lock is held while events are taken in and while a question is answered.
Events that are many are taken in by parts, so that nobody waits for the lock longer than some
milliseconds.
"""

import os
import select
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

from hogpipe.attribution.ledger.fair_lock import FairLock
from hogpipe.attribution.ledger.ledger import Ledger
from hogpipe.attribution.ledger.socket_events import (
    EVENT_BYTES,
    SocketEvent,
    decode_events,
    find_released,
)
from hogpipe.attribution.stale_flows import StaleFlows
from hogpipe.linux.bpf.loader import AttachedPrograms
from hogpipe.linux.bpf.maps import RingBuffer, read_losses
from hogpipe.linux.bpf.shapes import EventKind
from hogpipe.linux.cgroups import CgroupTree
from hogpipe.linux.clocks import boot_clock, read_boot_time
from hogpipe.linux.process_starts import ProcessStarts
from hogpipe.model import (
    MAX_SOCKETS,
    Contested,
    FlowKey,
    LedgerCounts,
    LedgerEntry,
    SnapshotSocket,
    SocketOwner,
    Span,
)

# Under load events are taken in this often; a quiet host wakes the thread by the first one.
_PAUSE = 0.01
_PART = 400 * EVENT_BYTES  # of events that are taken in at once, at some 10 us each
_OWNERS_KEPT = 8192

_CALM_NS = 1_000_000_000

_OwnerKey = tuple[int, int | None, int, str, int]


class KernelLedger:
    """What the kernel has told of sockets since `programs` were attached (attach_ledger_programs).

    It takes them over: `close` detaches them. `procfs` must show the pids of the host, `clock`
    gives seconds. Flows whose answers may be others now are added to `stale`.

    Raises BpfUnavailableError, and OSError where there are too few descriptors, with nothing left
    attached.
    """

    def __init__(
        self,
        programs: AttachedPrograms,
        procfs: Path = Path("/proc"),
        stale: StaleFlows | None = None,
        *,
        grace: float = 60.0,
        max_sockets: int = MAX_SOCKETS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lock = FairLock()
        self._clock = clock
        self.stale = StaleFlows() if stale is None else stale
        """The flows whose answers may be others now."""
        self._ledger = Ledger(self.stale, grace=grace, max_sockets=max_sockets)
        self._starts = ProcessStarts(procfs)
        self._owners: dict[_OwnerKey, SocketOwner] = {}
        """Equal owners are one object."""
        self._backlog = memoryview(b"")
        """Events that were read and not taken in yet."""
        self._lost = 0
        """Events, and sockets, that found no room, as far as that is known."""
        self._sure_ns = boot_clock()
        """Until when no more than these were lost."""
        self._malformed = 0
        self._lost_ns = 0
        self._booted_ns = read_boot_time()
        self._programs = programs
        self._closed = False
        self._thread = threading.Thread(target=self._follow, name="ledger", daemon=True)
        with ExitStack() as stack:
            stack.callback(programs.close)
            self._ring = RingBuffer(programs.map_fd("events"))
            stack.callback(self._ring.close)
            self._tree = CgroupTree()
            stack.callback(self._tree.close)
            self._stop, self._stopper = os.pipe2(os.O_CLOEXEC)
            stack.callback(os.close, self._stop)
            stack.callback(os.close, self._stopper)
            self._thread.start()
            self._opened = stack.pop_all()
        self.stale.ingest_before_drain(self._ingest_for_drain)

    def refresh(self) -> None:
        """Take in all that has happened until now."""
        self._booted_ns = read_boot_time()
        is_read = False
        while True:
            with self._lock:
                if not self._backlog:
                    if is_read or self._closed:
                        return
                    is_read = True
                    self._read()
                self._take_in()

    def owner_of(
        self, flow: FlowKey, namespace: int | None, span: Span | None = None
    ) -> LedgerEntry | Contested | None:
        """Return whose a flow is, as far as events are taken in; arguments as those of `Ledger`.

        `span` is by the clock of packets, nanoseconds since the epoch; without one, now.
        """
        if span is None:
            boot_ns = boot_clock()
            span = Span(boot_ns, boot_ns + 1)
        else:
            span = Span(span.start_ns - self._booted_ns, span.end_ns - self._booted_ns)
        with self._lock:
            return self._ledger.owner_of(flow, namespace, span, self._clock())

    def needs_snapshot(self) -> bool:
        """Return whether sockets are to be read: events were lost, but not in the last second."""
        with self._lock:
            return self._ledger.needs_snapshot and boot_clock() - self._lost_ns > _CALM_NS

    def begin_snapshot(self) -> None:
        """Get ready for `ingest_snapshot` after a loss; the sockets must be read after this."""
        self.refresh()
        with self._lock:
            self._ledger.begin_snapshot()

    def ingest_snapshot(self, seeds: Iterable[SnapshotSocket]) -> None:
        """Take in the sockets that are there; they must have been read since this was made.

        Once, and again after `begin_snapshot`.
        """
        made = list(seeds)  # which takes as long as the rest, but nobody waits for it
        self.refresh()
        with self._lock:
            self._ledger.ingest_snapshot(made, self._clock())

    def counts(self) -> LedgerCounts:
        """Return the counters as they stand; they only grow, but for the sockets known."""
        with self._lock:
            counts = self._ledger.counts()
            counts.events_lost = self._ring.lost
            if not self._closed:
                losses = read_losses(self._programs.map_fd("losses"))
                counts.events_lost += losses.events
                counts.sockets_lost = losses.sockets
            counts.malformed_events = self._malformed
            counts.unidentified_processes = self._starts.missed
        return counts

    def close(self) -> None:
        """Detach from the kernel; what is known stays. May be called again."""
        if self._closed:
            return
        os.write(self._stopper, b"\0")
        self._thread.join()
        self.refresh()
        with self._lock:
            self._closed = True
            self._opened.close()

    def _ingest_for_drain(self) -> None:
        """Ingest what has happened until now, before stale flows are drained.

        Of a backlog only a part, as the event loop may not wait for all; of the rest it is only
        seen which sockets were released.
        """
        with self._lock:
            if not self._backlog and not self._closed:
                self._read()
            self._take_in()
            self._ledger.invalidate(find_released(self._backlog))

    def _follow(self) -> None:
        poller = select.poll()
        poller.register(self._stop, select.POLLIN)
        pause = select.poll()
        pause.register(self._stop, select.POLLIN)
        poller.register(self._ring.fileno(), select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poller.poll()}
            if self._stop in ready:
                return
            self.refresh()
            if pause.poll(_PAUSE * 1000):
                return

    def _read(self) -> None:
        """Read what the kernel has told, and whether it had room to tell all."""
        before_ns = boot_clock()
        self._backlog = memoryview(self._ring.drain())
        if self._backlog:  # else there was room for all
            losses = read_losses(self._programs.map_fd("losses"))
            lost = losses.events + losses.sockets + self._ring.lost
            if lost > self._lost:
                self._lost, self._lost_ns = lost, boot_clock()
                self._ledger.record_loss(self._sure_ns, self._lost_ns)
        self._sure_ns = before_ns

    def _take_in(self) -> None:
        """Take in some of the backlog."""
        now = self._clock()
        part, self._backlog = self._backlog[:_PART], self._backlog[_PART:]
        decoded = decode_events(part)
        self._malformed += decoded.malformed
        for event in decoded.events:
            self._ledger.ingest(event, self._owner(event, now), now)

    def _owner(self, event: SocketEvent, now: float) -> SocketOwner | None:
        """Return the process that an event names, if it names one that owns sockets."""
        if not event.pid:
            return None
        stat = self._starts.find(event.pid, event.boot_ns, now)
        if stat is not None and stat.is_kernel_thread and event.kind is EventKind.RELEASED:
            return None  # the kernel releases some sockets on its own account
        start = None if stat is None else stat.start
        key = (event.pid, start, event.user_id, event.command, event.cgroup)
        owner = self._owners.get(key)
        if owner is None:
            if len(self._owners) >= _OWNERS_KEPT:
                self._owners.clear()
            path = self._tree.path_of(event.cgroup)
            owner = self._owners[key] = SocketOwner(*key, cgroup_path=path)
        return owner

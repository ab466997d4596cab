"""Reads new processes at once, while they live.

In: the attached programs of either set, whose ring buffer `new_processes` has an event for each
process that uses a socket for the first time. Out: processes in the caches of a `ProcessReader` and
of `ProcessStarts`, where lookups find them after they have exited.

A thread sleeps until there is an event. A process that exits within some tenths of a millisecond of
its first use of a socket may be missed; so may others while this host is short of CPU.
"""

import os
import select
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from hogpipe.enrichment.processes import ProcessReader
from hogpipe.linux.bpf.loader import AttachedPrograms
from hogpipe.linux.bpf.process_events import (
    PROCESS_EVENT_BYTES,
    ProcessEvent,
    decode_process_events,
)
from hogpipe.linux.bpf.ring_buffer import RingBuffer
from hogpipe.linux.clocks import boot_clock
from hogpipe.linux.process_starts import ProcessStarts
from hogpipe.threads import keep_running

_NICE = -15  # the thread works for a fraction of a millisecond at a time, and late is too late


def read_new_processes(
    events: Iterable[ProcessEvent], processes: ProcessReader, starts: ProcessStarts, now: float
) -> None:
    """Read and cache the processes of `events` that live; `now` is in seconds."""
    for event in events:
        seen_ns, stat = boot_clock(), None
        with suppress(OSError):  # descriptors are short: a lookup reads the process if it lives
            stat = processes.read_new(event.pid, now)
        if stat is not None:
            starts.add(event.pid, stat, seen_ns, now)


class ProcessWatch:
    """Reads the new processes that `programs` report, in a thread, until `close`.

    The programs must stay attached until then. The thread calls `limit_events`, to drop rights.
    Raises BpfUnavailableError, and OSError if
    descriptors are short.
    """

    def __init__(
        self,
        programs: AttachedPrograms,
        processes: ProcessReader,
        starts: ProcessStarts,
        clock: Callable[[], float] = time.monotonic,
        *,
        limit_events: Callable[[], None] = lambda: None,
    ) -> None:
        self._processes = processes
        self._starts = starts
        self._clock = clock
        self._limit_events = limit_events
        self._is_open = True
        self._ring = RingBuffer(
            programs.map_fd("new_processes"),
            programs.max_entries("new_processes"),
            PROCESS_EVENT_BYTES,
        )
        try:
            self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC)
        except BaseException:
            self._ring.close()
            raise
        self._thread = threading.Thread(
            target=keep_running, args=(self._run,), name="processes", daemon=True
        )
        try:
            self._thread.start()
        except BaseException:
            self._release()
            raise

    def close(self) -> None:
        """Stop and wait until the thread has ended. May be called again."""
        if self._is_open:
            self._is_open = False
            os.eventfd_write(self._stop_fd, 1)
            self._thread.join()
            self._release()

    def _run(self) -> None:
        with suppress(OSError):  # without CAP_SYS_NICE it waits for its turn
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        self._limit_events()
        poller = select.poll()
        poller.register(self._stop_fd, select.POLLIN)
        poller.register(self._ring.fileno(), select.POLLIN)
        while self._stop_fd not in {descriptor for descriptor, _ in poller.poll()}:
            events = decode_process_events(self._ring.drain())
            read_new_processes(events, self._processes, self._starts, self._clock())

    def _release(self) -> None:
        self._ring.close()
        os.close(self._stop_fd)

"""Reads socket events from the ring buffer of the BPF programs, and detects which were lost.

In: attached programs. Out: decoded events, a part of the backlog at a time; the time between two
reads in which events were lost; counters. May raise OSError where the kernel refuses a read.

The kernel counts the events for which the ring buffer had no room. If that count has grown since
the read before, the lost events happened between the two reads.
"""

from typing import NamedTuple

from hogpipe.attribution.ledger.socket_events import (
    EVENT_BYTES,
    EventBlock,
    find_released,
    measure_part,
)
from hogpipe.linux.bpf.loader import AttachedPrograms
from hogpipe.linux.bpf.maps import Losses, read_losses
from hogpipe.linux.bpf.ring_buffer import RingBuffer
from hogpipe.linux.clocks import boot_clock

_PART_WORK = 400  # events that are ingested one by one, in some 4 ms


class LossInterval(NamedTuple):
    """The time in which events were lost, nanoseconds since boot."""

    since_ns: int
    until_ns: int


class EventCounts(NamedTuple):
    """The counters of a reader; they only grow."""

    events_lost: int
    """Events lost because the ring buffer was full."""
    sockets_lost: int
    """Sockets that the kernel had no memory to record."""
    malformed: int
    """Events that could not be decoded."""


class EventReader:
    """Reads the events of `programs`, which the caller closes later. For one thread at a time.

    Raises BpfUnavailableError, and OSError if descriptors are short.
    """

    def __init__(self, programs: AttachedPrograms) -> None:
        self._read_ns = boot_clock()
        """When the last read began."""
        self._losses_fd = programs.map_fd("losses")
        self._ring = RingBuffer(
            programs.map_fd("events"), programs.max_entries("events"), EVENT_BYTES
        )
        self._is_open = True
        self._backlog = memoryview(b"")
        self._lost = 0
        """Events and sockets that were lost before the last read."""
        self._losses = Losses(0, 0, 0)
        self._malformed = 0

    @property
    def has_backlog(self) -> bool:
        """Return whether events were read that have not been taken."""
        return bool(self._backlog)

    def fileno(self) -> int:
        """Return a descriptor that polls as readable when there are events to read."""
        return self._ring.fileno()

    def read(self) -> LossInterval | None:
        """Read all events until now; there must be no backlog. Return when events were lost."""
        since_ns, self._read_ns = self._read_ns, boot_clock()
        self._backlog = memoryview(self._ring.drain())
        if not self._backlog:
            return None  # an empty ring had room for all events
        self._losses = read_losses(self._losses_fd)
        lost = self._losses.events + self._losses.sockets
        if lost <= self._lost:
            return None
        self._lost = lost
        return LossInterval(since_ns, boot_clock())

    def take_part(self) -> EventBlock:
        """Take the oldest events out of the backlog, no more than can be ingested in 4 ms."""
        size = measure_part(self._backlog, _PART_WORK)
        block = EventBlock(self._backlog[:size])
        self._backlog = self._backlog[size:]
        self._malformed += block.malformed
        return block

    def released_in_backlog(self) -> list[int]:
        """Return the cookies of the sockets that events in the backlog release."""
        return find_released(self._backlog)

    def counts(self) -> EventCounts:
        """Return the counters; those of the kernel as of `close` after that."""
        if self._is_open:
            self._losses = read_losses(self._losses_fd)
        return EventCounts(self._losses.events, self._losses.sockets, self._malformed)

    def close(self) -> None:
        """Unmap the ring buffer; the backlog stays. May be called again."""
        try:
            self.counts()
        finally:
            self._is_open = False
            self._ring.close()

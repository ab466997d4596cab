"""Reading captured interfaces: one, and all of them under one poll.

In: capture handles, and the view of each interface. Out: packets and counts, added to
`CapturedPackets`; the wire table (`wire_table.py`) gets the interfaces, and the packets later.
A read of an interface that went down or away fails; the others are unaffected, and the failed one
stays until it is closed.

One thread reads and closes all handles: libpcap has no call that interrupts a read in another
thread ("no breakloop"), and a handle must not be closed while another thread reads it.
"""

import logging
import select
import time
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Protocol

from hogpipe.capture.decode.columns import FrameBatch
from hogpipe.capture.decode.decoder import Decoder
from hogpipe.capture.decode.fragments import FragmentTable
from hogpipe.capture.decode.wire_packets import CapturedPackets
from hogpipe.capture.frame_tap import FrameTap, TappedInterface
from hogpipe.capture.live.interface_views import InterfaceView
from hogpipe.capture.live.pacing import RingFill, measure_fill
from hogpipe.capture.local_addresses import LocalAddresses, join_addresses
from hogpipe.capture.pcap import Handle
from hogpipe.capture.wire_interfaces import WireInterfaces
from hogpipe.errors import CaptureError

log = logging.getLogger(__name__)

_DROPS_SECONDS = 0.25  # between two reads of an interface's drop counters
# The kernel takes some 25 ms to open or close a handle: it waits for all CPUs that may be using it.
# The rings of the other interfaces fill meanwhile.
_MAX_UNREAD_SECONDS = 0.04


class _HasDescriptor(Protocol):
    def fileno(self) -> int: ...


class InterfaceCapture:
    """One captured interface: its handle, its decoder and its number in the wire table.

    `on_unknown_endpoints` is called when new flows pass an interface that leads to containers and
    no known container takes part in them, before the flows are counted: it may update the view.
    A `tap` gets all frames, with original lengths.
    """

    def __init__(
        self,
        handle: Handle,
        view: InterfaceView,
        interfaces: WireInterfaces,
        on_unknown_endpoints: Callable[[], None],
        tap: FrameTap | None = None,
    ) -> None:
        self.name = view.name
        self.timeout = handle.timeout
        """Seconds after which a captured frame can be read at the latest."""
        # The kernel puts both copies of a loopback frame into the ring, and libpcap drops one.
        self._copies = 2 if view.local.loopback else 1
        self._ring_bytes = handle.ring_bytes // self._copies
        self.ring = RingFill(self._ring_bytes)
        """The ring, and what the last read found in it."""
        self._handle = handle
        self._tap = tap
        self._exact = view.big_tcp or tap is not None
        self._on_unknown_endpoints = on_unknown_endpoints
        self._drops_read_at = 0.0
        self._dropped_copies = 0
        """Copies that the kernel dropped, of which no frame was counted."""
        self.has_unread_drops = False
        """Whether frames were read since the drop counters were: without frames nothing drops."""
        self._decoder = Decoder(handle.link_type, FragmentTable(), handle.snaplen)
        self._interfaces = interfaces
        on_unknown = self._choose_report(view)
        self._number = interfaces.add(view.name, view.local, on_unknown)
        self.local = view.local
        """The addresses with flows of their own here."""

    def update(self, view: InterfaceView) -> None:
        """Take over a new view of the interface."""
        self.name = view.name
        self._exact = self._exact or view.big_tcp
        on_unknown = self._choose_report(view)
        self._interfaces.update(self._number, view.name, view.local, on_unknown)
        self.local = view.local

    def fileno(self) -> int:
        """Return the descriptor to poll for frames."""
        return self._handle.fileno()

    def read(self, captured: CapturedPackets, now: float) -> None:
        """Add the frames in the ring to `captured`; raises CaptureError if the interface failed."""
        frames, failure = self._read_frames(exact=False)
        self.ring = measure_fill(self._ring_bytes, frames)
        if len(frames):
            self._add(frames, captured)
        self.has_unread_drops = True
        if now >= self._drops_read_at + _DROPS_SECONDS:
            self._drops_read_at = now
            self.count_drops(captured)
        if failure:
            raise failure

    def count_drops(self, captured: CapturedPackets) -> None:
        """Add what the kernel and the interface have dropped to `captured`."""
        self.has_unread_drops = False
        copies, interface = self._handle.take_drops()
        kernel, self._dropped_copies = divmod(self._dropped_copies + copies, self._copies)
        captured.counts.kernel_dropped += kernel
        captured.counts.interface_dropped += interface
        if self._tap is not None:
            self._tap.count_drops(self._tapped, kernel, interface)

    def skip(self) -> None:
        """Record that this iteration of the loop found no frames in the ring."""
        self.ring = RingFill(self._ring_bytes)

    def read_rest(self, captured: CapturedPackets, until_ns: int, *, has_failed: bool) -> None:
        """Add all frames that were captured up to `until_ns`, nanoseconds since the epoch.

        Frames of an interface that has failed are read in the way that returns them all.
        """
        failure, newest_ns = None, 0
        while failure is None and newest_ns < until_ns:
            frames, failure = self._read_frames(exact=has_failed)
            if not len(frames):
                return
            newest_ns = frames.time_ns(-1)
            self._add(frames, captured)

    def close(self, captured: CapturedPackets) -> None:
        """Add pending fragments and the last drops to `captured`, and close the handle."""
        captured.add(self._decoder.flush(), self._number)
        self._interfaces.close(self._number)
        self.count_drops(captured)
        self._handle.close()

    def _read_frames(self, *, exact: bool) -> tuple[FrameBatch, CaptureError | None]:
        """Return the frames in the ring, with original lengths if `exact` or if those are needed.

        Without them an error is raised, and the frames read before it are lost.
        """
        if exact or self._exact or not self._handle.lengths_proven:
            return self._handle.read_exact()
        return self._handle.read(), None

    def _add(self, frames: FrameBatch, captured: CapturedPackets) -> None:
        decoded = self._decoder.decode(frames)
        # BIG TCP that rtnetlink did not announce (a veth's peer may be set up for it): from now on
        # frames are read with their original lengths.
        self._exact = self._exact or decoded.needs_original_lengths
        captured.add(decoded, self._number)
        if self._tap is not None:
            self._tap.take(frames, self._tapped, self._number)

    @property
    def _tapped(self) -> TappedInterface:
        return TappedInterface(self.name, self._handle.link_type)

    def _choose_report(self, view: InterfaceView) -> Callable[[], None] | None:
        return self._on_unknown_endpoints if view.leads_to_container else None


class CaptureSet:
    """The captured interfaces by index, and the poll that waits for their frames."""

    def __init__(self) -> None:
        self._captures: dict[int, InterfaceCapture] = {}
        self._failed: set[int] = set()
        self.local = LocalAddresses()
        """The addresses with flows of their own at any captured interface, with those of closed
        ones until the next update: their last flows are yet to be looked up. May be read in any
        thread: a change replaces the object."""
        self._all_read_at = 0.0
        self._drops_due_at: float | None = None
        """When the drop counters are to be read, though no frames come."""
        self._poll = select.poll()

    def __len__(self) -> int:
        return len(self._captures)

    def indices(self) -> AbstractSet[int]:
        """Return the indices of the captured interfaces."""
        return self._captures.keys()

    def name_of(self, index: int) -> str:
        """Return the name of the captured interface of `index`."""
        return self._captures[index].name

    def watch(self, source: _HasDescriptor) -> None:
        """Have `wait` return when the descriptor of `source` is readable, too."""
        self._poll.register(source, select.POLLIN)

    def wait(self, seconds: float | None) -> dict[int, int]:
        """Wait for frames, as long as it takes if None; return poll events by descriptor."""
        return dict(self._poll.poll(None if seconds is None else seconds * 1000))

    def add(self, index: int, capture: InterfaceCapture) -> None:
        """Capture the interface of `index` from now on."""
        self._captures[index] = capture
        self._poll.register(capture, select.POLLIN)
        self.local = join_addresses([self.local, capture.local])

    def update(self, views: Mapping[int, InterfaceView]) -> None:
        """Pass the captured interfaces their views."""
        for index, view in views.items():
            if index in self._captures:
                self._captures[index].update(view)
        self.local = join_addresses([capture.local for capture in self._captures.values()])

    def read_ready(self, ready: Mapping[int, int], captured: CapturedPackets) -> set[int]:
        """Read the interfaces that are `ready`; return all that have failed so far."""
        failed = set(self._failed)
        for index, capture in self._captures.items():
            event = ready.get(capture.fileno())
            if event is None:
                capture.skip()
            elif event & select.POLLERR or not _read(capture, captured):
                failed.add(index)
            elif self._drops_due_at is None and capture.has_unread_drops:
                self._drops_due_at = time.monotonic() + _DROPS_SECONDS
        self._count_due_drops(captured)
        return failed

    def seconds_until_due(self) -> float | None:
        """Return for how long nothing is due without frames; None for as long as it takes."""
        due_at = self._drops_due_at
        return None if due_at is None else max(due_at - time.monotonic(), 0.0)

    def _count_due_drops(self, captured: CapturedPackets) -> None:
        if self._drops_due_at is not None and time.monotonic() >= self._drops_due_at:
            self._drops_due_at = None
            for capture in self._captures.values():
                if capture.has_unread_drops:
                    capture.count_drops(captured)

    def rings(self) -> list[RingFill]:
        """Return each ring, and what the last read found in it."""
        return [capture.ring for capture in self._captures.values()]

    def read_all(self, captured: CapturedPackets) -> set[int]:
        """Read each interface into `captured` once; return those that fail."""
        return {index for index, one in self._captures.items() if not _read(one, captured)}

    def read_overdue(self, captured: CapturedPackets) -> bool:
        """Read all interfaces if the last time is long ago; return whether one failed newly."""
        now = time.monotonic()
        if now - self._all_read_at < _MAX_UNREAD_SECONDS:
            return False
        self._all_read_at = now
        failed = self.read_all(captured) - self._failed
        self._failed |= failed
        return bool(failed)

    def wait_for_last_frames(self, indices: Iterable[int]) -> None:
        """Wait until the kernel has passed on the ring blocks that it was filling, if any."""
        timeouts = (self._captures[index].timeout for index in indices)
        time.sleep(2 * max(timeouts, default=0.0))

    def read_rest(self, index: int, captured: CapturedPackets) -> None:
        """Add all frames captured until now to `captured`, even if the interface has failed."""
        self._captures[index].read_rest(captured, time.time_ns(), has_failed=True)

    def read_rest_of_all(self, captured: CapturedPackets) -> None:
        """Add all frames captured until now to `captured`, from interfaces that have not failed."""
        now_ns = time.time_ns()
        for capture in self._captures.values():
            try:
                capture.read_rest(captured, now_ns, has_failed=False)
            except CaptureError as error:
                log.warning("%s", error)

    def close(self, index: int, captured: CapturedPackets) -> None:
        """Stop capturing on the interface of `index`; its last counts are added to `captured`."""
        capture = self._captures.pop(index)
        self._failed.discard(index)
        self._poll.unregister(capture)
        capture.close(captured)


def _read(capture: InterfaceCapture, captured: CapturedPackets) -> bool:
    """Read `capture` into `captured`; return whether it can be read again."""
    try:
        capture.read(captured, time.monotonic())
    except CaptureError as error:
        # The interface went down or away; it may come back.
        log.warning("%s; capture on it resumes when the interface is up again", error)
        return False
    return True

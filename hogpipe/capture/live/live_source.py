"""Live capture: a handle for each interface, all under one poll in one thread.

Handles never block, so that a stop, a change of addresses and an interface that comes or goes are
noticed at once on an idle link; only this thread reads or closes them.
"""

import logging
import os
import select
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial

from hogpipe.capture.live.interface_capture import InterfaceCapture, InterfaceView
from hogpipe.capture.live.interface_views import InterfaceViews
from hogpipe.capture.live.link_selection import find_unknown
from hogpipe.capture.live.open_handles import HandleOpener, LiveOptions
from hogpipe.capture.pcap import BATCH_FRAMES
from hogpipe.errors import CaptureError, ConfigurationError, HogpipeError
from hogpipe.linux.limits import explain_os_error, raise_descriptor_limit
from hogpipe.linux.rtnetlink import LinkMonitor, LinkTable
from hogpipe.model import FlowBatch

__all__ = ["LiveOptions", "LiveSource"]

log = logging.getLogger(__name__)

# A batch costs a lot before its first frame, so a busy link is left to fill up: for a multiple of
# the CPU time that it took last. The longest rest is short beside the ring's patience (`pcap`).
_REST_FACTOR = 24
_SHORTEST_REST, _USUAL_REST = 0.002, 0.02
# Links change in bursts, and what a change costs grows with the number of links: after each look at
# them there is a pause, a multiple of the CPU time that it took. What it takes to open or close one
# does not count: that is not done again.
_FOLLOW_FACTOR = 4
_LONGEST_PAUSE = 0.5
# The kernel takes some 25 ms to open or close a handle: it waits for all that may be using it. The
# rings of the others fill meanwhile.
_UNREAD_SECONDS = 0.04
_RETRY_SECONDS = 5.0  # until what could not be done is tried again


class LiveSource:
    """The frames of this host's interfaces, as they pass."""

    live = True
    closes_windows = False

    def __init__(self, options: LiveOptions) -> None:
        self._options = options
        self._taps: dict[int, InterfaceCapture] = {}
        self._views = InterfaceViews(options.interfaces, options.procfs)
        self._opener = HandleOpener(options)
        self._follow_at: float | None = None  # when links are to be looked at
        self._follow_pause_ends = 0.0
        self._short = False  # whether links could not be looked at, which has been told
        self._read_at = 0.0  # when all taps were read last
        self._failed: set[int] = set()  # taps to let go of with the next turn
        self._opening = FlowBatch()
        """What came while `open` was still at it."""
        self._refused: set[int] = set()  # interfaces that could not be opened, and are told of
        self._monitor: LinkMonitor | None = None
        self._poll = select.poll()
        self._patience = _USUAL_REST
        self._stopping = threading.Event()
        # One thread stops what another may just be closing.
        self._guard = threading.Lock()
        self._stop: int | None = None

    def open(self) -> None:
        """Open all that is selected now; see PacketSource."""
        raise_descriptor_limit()
        try:
            self._monitor = LinkMonitor()
            self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._poll.register(self._stop, select.POLLIN)
            self._poll.register(self._monitor, select.POLLIN)
            table = self._monitor.read_table()
            self._check_names(table)
            self._views.follow(table)
            failures = self._follow(self._opening)
        except OSError as error:
            self.close()
            raise CaptureError(f"interfaces cannot be listed: {explain_os_error(error)}") from error
        except BaseException:
            self.close()
            raise
        if not self._taps and failures:
            self.close()
            raise failures[-1]
        _warn(failures)
        if not self._taps:
            log.warning("no chosen interface is up; capture starts when one comes up")

    def run(self, offer: Callable[[FlowBatch], None]) -> None:
        """Capture until stopped; see PacketSource."""
        last = FlowBatch()
        try:
            _offer(self._opening, offer)
            while not self._stopping.is_set():
                self._turn(offer)
            # The kernel still has to hand up the block that it was filling.
            _wait_for_last_frames(self._taps.values())
            for tap in self._taps.values():
                self._read(tap, last)
        finally:
            self._release(last)
            _offer(last, offer)

    def close(self) -> None:
        """Close all handles; see PacketSource."""
        self._release(FlowBatch())

    def set_batch_interval(self, seconds: float) -> None:
        """Rest for as long between batches, at the most; see PacketSource."""
        self._patience = seconds

    def stop(self) -> None:
        """Make `run` return."""
        with self._guard:
            self._stopping.set()
            if self._stop is not None:
                os.eventfd_write(self._stop, 1)

    def _turn(self, offer: Callable[[FlowBatch], None]) -> None:
        """Wait for frames, a change or a stop, and deal with the first two."""
        assert self._monitor is not None
        ready = dict(self._poll.poll(self._patience_ms()))
        before = time.thread_time()
        batch = FlowBatch()
        if self._monitor.fileno() in ready:
            self._monitor.drain()
            self._ask_to_follow()
        self._keep_up(batch)
        self._look_for_guests()
        ready_taps = [(i, tap) for i, tap in self._taps.items() if tap.fileno() in ready]
        failed = self._failed | {
            index
            for index, tap in ready_taps
            if ready[tap.fileno()] & select.POLLERR or not self._read(tap, batch)
        }
        self._lose(failed, batch)
        if failed:  # one may be up again already, and word of that may have come before its error
            self._ask_to_follow()
        _offer(batch, offer)
        if batch.counts.captured.packets < BATCH_FRAMES:
            time.sleep(self._rest_after(time.thread_time() - before))

    def _rest_after(self, seconds: float) -> float:
        """Return how long to rest after a turn that took so much CPU time."""
        patience = self._patience
        if patience > _USUAL_REST:
            return patience  # nobody waits for any packet
        return min(max(_REST_FACTOR * seconds, _SHORTEST_REST), patience)

    def _read(self, tap: InterfaceCapture, batch: FlowBatch) -> bool:
        """Read one tap into `batch`; return whether it can be read again."""
        try:
            tap.read(batch, time.monotonic())
        except CaptureError as error:
            # An interface that went down or away; the others go on, and it may come back.
            log.warning("%s; capture on it goes on when it comes up again", error)
            return False
        return True

    def _patience_ms(self) -> float | None:
        """Return how long to wait for frames at most; None for as long as it takes."""
        if self._follow_at is None:
            return None
        return max(self._follow_at - time.monotonic(), 0.0) * 1000

    def _ask_to_follow(self, delay: float = 0.0) -> None:
        """See to it that links are looked at, as soon as may be or after a delay in seconds."""
        at = max(time.monotonic() + delay, self._follow_pause_ends)
        self._follow_at = at if self._follow_at is None else min(at, self._follow_at)

    def _keep_up(self, batch: FlowBatch) -> None:
        """Look at the links if that is due; if it cannot be done, what is open goes on."""
        assert self._monitor is not None
        if self._follow_at is None or time.monotonic() < self._follow_at:
            return
        self._follow_at = None
        started = time.thread_time()
        try:
            table = self._monitor.read_table()
        except OSError as error:
            if not self._short:
                log.warning(
                    "changes of interfaces cannot be followed now: %s; capture goes on, and it is "
                    "tried again",
                    explain_os_error(error),
                )
            self._short = True
            self._ask_to_follow(_RETRY_SECONDS)
            return
        self._short = False
        self._views.follow(table)
        pause = min(_FOLLOW_FACTOR * (time.thread_time() - started), _LONGEST_PAUSE)
        self._follow_pause_ends = time.monotonic() + pause
        _warn(self._follow(batch))

    def _check_names(self, table: LinkTable) -> None:
        patterns = self._options.interfaces
        unknown = find_unknown(patterns, table.links)
        names = ", ".join(link.name for link in table.links)
        missing = [pattern for pattern in unknown if not set(pattern) & set("*?[")]
        if missing or len(unknown) == len(patterns):
            raise ConfigurationError(
                [
                    f'capture.interfaces: no interface "{pattern}"; there are: {names}'
                    for pattern in missing or unknown
                ]
            )
        for pattern in unknown:
            log.warning(
                'capture.interfaces: nothing matches "%s" yet; there are: %s', pattern, names
            )

    def _follow(self, batch: FlowBatch) -> list[HogpipeError]:
        """Open what is newly selected, close what no longer is, take new addresses into account.

        Returns why some could not be opened, once for each.
        """
        self._views.look_for_guests(time.monotonic())
        wanted = self._views.current()
        self._update(wanted)
        self._lose(self._taps.keys() - wanted.keys(), batch)
        failures: list[HogpipeError] = []
        count = Counter(view.leads_elsewhere for view in wanted.values())
        # Veths to containers share what others leave of the memory.
        for index, view in sorted(wanted.items(), key=lambda item: item[1].leads_elsewhere):
            if index in self._taps:
                continue
            try:
                sharers = count[view.leads_elsewhere]
                self._add(index, view, sharers)
                self._refused.discard(index)
            except HogpipeError as error:  # the others are none the worse for it
                if index not in self._refused:
                    failures.append(error)
                self._refused.add(index)
            self._read_meanwhile(batch)
        self._update(self._views.current())
        self._refused &= wanted.keys()
        if self._refused:
            self._ask_to_follow(_RETRY_SECONDS)
        return failures

    def _look_for_guests(self) -> None:
        """Take guests and their addresses into account if it is time to look for them."""
        if self._views.look_for_guests(time.monotonic()):
            self._update(self._views.current())

    def _update(self, views: Mapping[int, InterfaceView]) -> None:
        for index, view in views.items():
            if index in self._taps:
                self._taps[index].update(view)

    def _meet_strangers(self, index: int) -> None:
        self._views.meet_strangers(index)
        self._look_for_guests()

    def _add(self, index: int, view: InterfaceView, sharers: int) -> None:
        handle = self._opener.open(index, view, sharers)
        tap = self._taps[index] = InterfaceCapture(
            handle, view, partial(self._meet_strangers, index)
        )
        self._poll.register(tap, select.POLLIN)
        log.info("capturing on %s", view.name)

    def _read_meanwhile(self, batch: FlowBatch) -> None:
        """Read all taps if that is long ago."""
        now = time.monotonic()
        if now - self._read_at < _UNREAD_SECONDS:
            return
        self._read_at = now
        failed = {index for index, tap in self._taps.items() if not self._read(tap, batch)}
        if failed - self._failed:
            self._ask_to_follow()
        self._failed |= failed

    def _lose(self, indices: Collection[int], batch: FlowBatch) -> None:
        """Let go of interfaces that went down or away, once all that they got is in `batch`."""
        _wait_for_last_frames(self._taps[index] for index in indices)
        for index in indices:
            log.info(
                "%s: the interface is down, gone or not chosen any more", self._taps[index].name
            )
            self._taps[index].read_rest(batch, time.time())
            self._drop(index, batch)
            self._read_meanwhile(batch)

    def _drop(self, index: int, batch: FlowBatch) -> None:
        tap = self._taps.pop(index)
        self._opener.give_back(index)
        self._failed.discard(index)
        self._poll.unregister(tap)
        tap.close(batch)

    def _release(self, batch: FlowBatch) -> None:
        for index in list(self._taps):
            self._drop(index, batch)
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
        with self._guard:
            if self._stop is not None:
                os.close(self._stop)
                self._stop = None


def _wait_for_last_frames(taps: Iterable[InterfaceCapture]) -> None:
    """Wait until the kernel has handed up the blocks that it was filling, if there is a tap."""
    time.sleep(2 * max((tap.timeout for tap in taps), default=0.0))


def _warn(failures: Iterable[HogpipeError]) -> None:
    for failure in failures:
        log.warning("%s", failure)


def _offer(batch: FlowBatch, offer: Callable[[FlowBatch], None]) -> None:
    if batch != FlowBatch():
        batch.time_ns = time.time_ns()
        offer(batch)

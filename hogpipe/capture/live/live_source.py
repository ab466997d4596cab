"""Live capture: one thread reads the handles of all interfaces under one poll.

Each iteration of the loop waits for frames, a change of links or a stop; follows the links
(`link_follower`); reads the interfaces that have frames (`interface_capture`); locates the flows of
all packets at once (`wire_table`); offers a batch for each connection in a row of one flow, which
is one batch as a rule; and rests (`pacing`). Handles never block, so
an idle interface delays neither a stop nor a change.
"""

import logging
import math
import time
from collections.abc import Callable, Collection

from hogpipe.capture.decode.wire_packets import CapturedPackets, sum_runs
from hogpipe.capture.frame_tap import FrameTap
from hogpipe.capture.live.health_reader import HealthReader
from hogpipe.capture.live.interface_capture import CaptureSet
from hogpipe.capture.live.link_follower import LinkFollower, log_failures
from hogpipe.capture.live.open_handles import LiveOptions
from hogpipe.capture.live.pacing import STEADY_SECONDS, USUAL_REST, choose_rest, relax
from hogpipe.capture.pcap import BATCH_FRAMES
from hogpipe.capture.stop_signal import StopSignal
from hogpipe.capture.wire_table import WireTable
from hogpipe.errors import CaptureError
from hogpipe.flows.flow_batch import FlowBatch
from hogpipe.flows.flow_table import FlowTable
from hogpipe.linux.limits import explain_os_error, raise_descriptor_limit
from hogpipe.model import CaptureCounts, Networks

log = logging.getLogger(__name__)


class LiveSource:
    """The frames of this host's interfaces, as they pass; see PacketSource.

    `table` gets the flows, and `clock` returns the seconds of its clock. A `tap` gets the frames.
    `health`, which the caller may open with programs, is closed here.
    """

    live = True
    closes_windows = False

    def __init__(
        self,
        options: LiveOptions,
        table: FlowTable,
        clock: Callable[[], float],
        tap: FrameTap | None = None,
        health: HealthReader | None = None,
    ) -> None:
        self._health = health
        self._table = table
        self._tap = tap
        self._clock = clock
        self._captures = CaptureSet()
        self._wire_table = WireTable(table)
        self._follower = LinkFollower(options, self._captures, self._wire_table.interfaces, tap)
        self._first_packets = CapturedPackets()
        """Those that passed while `open` was still opening other interfaces."""
        self._batch_interval, self._interval_set_at = USUAL_REST, -math.inf
        self._quiet_iterations = 0
        """In a row, in which no flow needed a decision."""
        self._stop = StopSignal()

    def open(self) -> None:
        """Open all interfaces that are selected now; see PacketSource."""
        raise_descriptor_limit()
        try:
            self._stop.open()
            self._captures.watch(self._stop)
            failures = self._follower.open(self._first_packets)
        except OSError as error:
            self.close()
            raise CaptureError(f"interfaces cannot be listed: {explain_os_error(error)}") from error
        except BaseException:
            self.close()
            raise
        if not self._captures and failures:
            self.close()
            raise failures[-1]
        log_failures(failures)
        if self._health is not None:
            self._health.open_destroyed()
        if not self._captures:
            log.warning("no selected interface is up; capture starts when one comes up")

    def run(self, offer: Callable[[FlowBatch], None]) -> None:
        """Capture until stopped; see PacketSource."""
        last = CapturedPackets()
        try:
            self._offer(self._first_packets, offer)
            self._first_packets = CapturedPackets()
            while not self._stop.is_set():
                self._iterate(offer)
        finally:
            # Also where an iteration has failed: the rings have frames that the kernel counted.
            try:
                self._captures.wait_for_last_frames(self._captures.indices())
                self._captures.read_rest_of_all(last)
            finally:
                self._release(last)
                self._offer(last, offer)
                self._close_health()  # it reads the last, of flows that are known by now

    def close(self) -> None:
        """Close all handles; see PacketSource."""
        self._close_health()
        self._release(CapturedPackets())

    def namespaces_of(self, address: bytes) -> tuple[int, ...]:
        """Return the namespaces that have an address: this one, containers that are captured now.

        Safe from any thread.
        """
        return self._captures.local.namespaces_of(address)

    def set_batch_interval(self, seconds: float) -> None:
        """Rest for at most `seconds` between batches; see PacketSource."""
        self._batch_interval, self._interval_set_at = seconds, self._clock()

    def regroup(self, interval_ns: int, _fields: Collection[str], _networks: Networks, /) -> None:
        """Have health read before windows of this length end; flows are grouped later."""
        if self._health is not None:
            self._health.interval_ns = interval_ns

    def stop(self) -> None:
        """Make `run` return; see PacketSource."""
        self._stop.set()

    def _iterate(self, offer: Callable[[FlowBatch], None]) -> None:
        """Wait for frames, a change or a stop; handle the first two, offer a batch and rest."""
        ready = self._captures.wait(self._seconds_until_due())
        started = time.thread_time()
        captured = CapturedPackets()
        try:
            self._follower.follow(ready, captured)
            failed = self._captures.read_ready(ready, captured)
            self._follower.close_failed(failed, captured)
        finally:
            packets = captured.counts.captured.packets
            self._offer(captured, offer)
        self._wire_table.evict(self._clock())
        if packets < BATCH_FRAMES:
            cpu_seconds = time.thread_time() - started
            now, interval = self._clock(), self._batch_interval
            is_steady = now - self._wire_table.new_key_at >= STEADY_SECONDS
            rest = choose_rest(
                cpu_seconds,
                relax(interval, now - self._interval_set_at),
                self._captures.rings(),
                self._quiet_iterations,
                is_steady=is_steady and interval >= USUAL_REST,
            )
            time.sleep(rest)

    def _offer(self, captured: CapturedPackets, offer: Callable[[FlowBatch], None]) -> None:
        """Offer what was captured, if anything was; it has the flows then that need a decision."""
        counts = captured.counts
        rows = self._wire_table.locate(sum_runs(captured.join()), counts, self._clock())
        if self._health is not None:
            counts.health_lost += self._health.take_lost()
        if counts == CaptureCounts():
            return
        if self._tap is not None:
            self._tap.locate(self._wire_table.find_sides)
        parts = [None] if rows is None else self._table.split_connections(rows)
        batches = [FlowBatch(rows=part, time_ns=time.time_ns()) for part in parts]
        batches[0].counts = counts
        with self._table.lock:  # so that a window has all of the counts and of the packets
            for batch in batches:
                offer(batch)
        if self._tap is not None:
            self._tap.end_batch()
        is_quiet = not any(batch.flows for batch in batches)
        self._quiet_iterations = self._quiet_iterations + 1 if is_quiet else 0

    def _seconds_until_due(self) -> float | None:
        """Return for how long there is nothing to do without frames; None for any time."""
        dues = (
            self._follower.seconds_until_due(),
            self._wire_table.seconds_until_due(self._clock()),
            self._captures.seconds_until_due(),
        )
        return min((due for due in dues if due is not None), default=None)

    def _close_health(self) -> None:
        if self._health is not None:
            self._health.close()

    def _release(self, captured: CapturedPackets) -> None:
        self._follower.close(captured)
        self._stop.close()

"""Live capture: one thread reads the handles of all interfaces under one poll.

Each iteration of the loop waits for frames, a change of links or a stop; follows the links
(`link_follower`); reads the interfaces that have frames (`interface_capture`); offers one batch;
and rests (`pacing`). Handles never block, so an idle interface delays neither a stop nor a change.
"""

import logging
import time
from collections.abc import Callable, Collection

from hogpipe.capture.live.interface_capture import CaptureSet
from hogpipe.capture.live.link_follower import LinkFollower, log_failures
from hogpipe.capture.live.open_handles import LiveOptions
from hogpipe.capture.live.pacing import USUAL_REST, choose_rest
from hogpipe.capture.pcap import BATCH_FRAMES
from hogpipe.capture.stop_signal import StopSignal
from hogpipe.errors import CaptureError
from hogpipe.flows.flow_batch import FlowBatch
from hogpipe.linux.limits import explain_os_error, raise_descriptor_limit

log = logging.getLogger(__name__)

_GENERATION_SECONDS = 15.0  # after one to two of these, flows without packets are evicted


class LiveSource:
    """The frames of this host's interfaces, as they pass; see PacketSource."""

    live = True
    closes_windows = False

    def __init__(self, options: LiveOptions) -> None:
        self._captures = CaptureSet()
        self._follower = LinkFollower(options, self._captures)
        self._first_batch = FlowBatch()
        """Packets that passed while `open` was still opening other interfaces."""
        self._batch_interval = USUAL_REST
        self._generation_ends = time.monotonic() + _GENERATION_SECONDS
        self._stop = StopSignal()

    def open(self) -> None:
        """Open all interfaces that are selected now; see PacketSource."""
        raise_descriptor_limit()
        try:
            self._stop.open()
            self._captures.watch(self._stop)
            failures = self._follower.open(self._first_batch)
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
        if not self._captures:
            log.warning("no selected interface is up; capture starts when one comes up")

    def run(self, offer: Callable[[FlowBatch], None]) -> None:
        """Capture until stopped; see PacketSource."""
        last = FlowBatch()
        try:
            _offer(self._first_batch, offer)
            while not self._stop.is_set():
                self._iterate(offer)
            self._captures.wait_for_last_frames(self._captures.indices())
            self._captures.read_rest_of_all(last)
        finally:
            self._release(last)
            _offer(last, offer)

    def close(self) -> None:
        """Close all handles; see PacketSource."""
        self._release(FlowBatch())

    def namespaces_of(self, address: bytes) -> tuple[int, ...]:
        """Return the namespaces that have an address: this one, containers that are captured now.

        Safe from any thread.
        """
        return self._captures.local.namespaces_of(address)

    def set_batch_interval(self, seconds: float) -> None:
        """Rest for at most `seconds` between batches; see PacketSource."""
        self._batch_interval = seconds

    def regroup(self, interval_ns: int, fields: Collection[str]) -> None:
        """Do nothing: flows are grouped later, and the pipeline closes the windows."""

    def stop(self) -> None:
        """Make `run` return; see PacketSource."""
        self._stop.set()

    def _iterate(self, offer: Callable[[FlowBatch], None]) -> None:
        """Wait for frames, a change or a stop; handle the first two, offer a batch and rest."""
        ready = self._captures.wait(self._seconds_until_due())
        started = time.thread_time()
        batch = FlowBatch()
        self._follower.follow(ready, batch)
        failed = self._captures.read_ready(ready, batch)
        self._follower.close_failed(failed, batch)
        _offer(batch, offer)
        if time.monotonic() >= self._generation_ends:
            self._captures.start_generation()
            self._generation_ends = time.monotonic() + _GENERATION_SECONDS
        if batch.counts.captured.packets < BATCH_FRAMES:
            cpu_seconds = time.thread_time() - started
            time.sleep(choose_rest(cpu_seconds, self._batch_interval, self._captures.rings()))

    def _seconds_until_due(self) -> float | None:
        """Return for how long there is nothing to do without frames; None for any time."""
        due = self._follower.seconds_until_due()
        if not self._captures.has_cached:
            return due
        generation = max(self._generation_ends - time.monotonic(), 0.0)
        return generation if due is None else min(due, generation)

    def _release(self, batch: FlowBatch) -> None:
        self._follower.close(batch)
        self._stop.close()


def _offer(batch: FlowBatch, offer: Callable[[FlowBatch], None]) -> None:
    if batch != FlowBatch():
        batch.time_ns = time.time_ns()
        offer(batch)

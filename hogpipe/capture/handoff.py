"""From the capture thread to the event loop: a bounded queue that never loses a byte.

In: flow batches from one thread. Out: batches with flows that need a decision, in order, to one
task. How they pass depends on the source:

- Packets do not wait. Their batches are counted in the flow table at once, in the capture thread
  (`batch_counter.py`). A batch is queued, and the event loop woken, only if it has flows that the
  table does not count. If the queue is full, the batch is merged into the newest one there. All
  queued batches and the one that was taken last have at most `max_flows` flows together, and one
  batch more; deltas of further flows are folded (`fold_key`), counted as overflowed, and reported
  as unattributed. Where one has a SYN, which the attribution stage does not receive, the
  attribution of the former connection is invalidated.
- A replay waits, and so does the ebpf source, since the kernel goes on counting: `offer` blocks
  until the event loop is done with the batch, which the event loop counts.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence

from hogpipe.capture.batch_counter import BatchCounter
from hogpipe.flows.flow_batch import FlowBatch
from hogpipe.model import CaptureCounts, FlowDelta, FlowKey, Tally, fold_key


def merge_batches(
    older: FlowBatch, newer: FlowBatch, max_flows: int
) -> tuple[Tally, Sequence[FlowKey]]:
    """Add `newer` to `older`, which gets at most `max_flows` flows, and sums of further ones.

    Return what was added to sums, and of which flows SYNs were. Both batches have been counted.
    """
    older.time_ns = max(older.time_ns, newer.time_ns)
    older.calls = newer.calls
    older.is_started = older.is_started and newer.is_started
    overflowed, opened = Tally(), []
    flows = older.flows
    for key, delta in newer.flows.items():
        target = key
        if key not in flows and len(flows) >= max_flows:
            target = fold_key(key)
            overflowed.add(delta.total)
            if delta.opened:
                opened.append(key)
        flows.setdefault(target, FlowDelta()).add(delta)
    return overflowed, opened


class Handoff:
    """One thread offers, one task iterates. The source `waits`, or its packets do not."""

    def __init__(
        self, counter: BatchCounter, *, waits: bool, depth: int = 16, max_flows: int = 16_384
    ) -> None:
        self.waits = waits
        self._counter = counter
        self._depth = depth
        self._max_flows = max_flows
        self._queue: deque[FlowBatch] = deque()
        self._queued_flows = 0
        """With those of the batch that was taken last, which is being processed."""
        self._taken_flows = 0
        self._is_processing = False
        # A window ends at one moment for the table, for its counts and for what is queued.
        self._changed = threading.Condition(counter.lock)
        self._ready = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        """That of the task, once it iterates."""
        self._ended = False
        self._abandoned = False
        self._woken_at: float | None = None
        """When the event loop was called, if it has not responded yet."""
        self._longest_delay = 0.0

    def offer(self, batch: FlowBatch) -> None:
        """Pass `batch` on (capture thread); blocks until it is processed, if the source waits."""
        with self._changed:
            if self._abandoned:
                return
            if not self.waits:
                self._counter.count(batch)
                if not batch.flows:
                    return
            self._put(batch)
            self._wake()
            if self.waits:
                self._changed.wait_for(lambda: self._is_idle or self._abandoned)

    def end(self) -> None:
        """End the iteration after the queued batches (capture thread)."""
        with self._changed:
            self._ended = True
            self._wake()

    def abandon(self) -> None:
        """Stop iterating for good: from now on `offer` drops batches and does not block."""
        with self._changed:
            self._abandoned = True
            self._queue.clear()
            self._queued_flows = self._taken_flows = 0
            self._changed.notify_all()

    async def __aiter__(self) -> AsyncIterator[FlowBatch]:
        """Yield batches in the order of `offer`, until `end`."""
        with self._changed:
            self._loop = asyncio.get_running_loop()
        while True:
            self._ready.clear()
            while (batch := self._take()) is not None:
                yield batch
            with self._changed:
                if self._ended and not self._queue:
                    return
            await self._ready.wait()

    def count(self, batch: FlowBatch) -> None:
        """Count a batch of a source that waits (event loop)."""
        self._counter.count(batch)

    def drain_counts(self) -> CaptureCounts:
        """Return the counts of all batches since the last call."""
        return self._counter.drain_counts()

    def list_queued(self) -> list[FlowDelta]:
        """Return what is in queued batches."""
        with self._changed:
            return [delta for batch in self._queue for delta in batch.flows.values()]

    def take_longest_delay(self) -> float:
        """Return the longest time, in seconds, that the event loop took to respond to a batch.

        Counts from the previous call of this method.
        """
        longest, self._longest_delay = self._longest_delay, 0.0
        return longest

    @property
    def _is_idle(self) -> bool:
        """Whether all offered batches are processed."""
        return not self._queue and not self._is_processing

    @property
    def _has_room(self) -> bool:
        return len(self._queue) < self._depth and self._queued_flows < self._max_flows

    def _put(self, batch: FlowBatch) -> None:
        if not self._queue or self.waits or self._has_room:
            self._queue.append(batch)
            self._queued_flows += len(batch.flows)
            return
        newest = self._queue[-1]
        others = self._queued_flows - len(newest.flows)
        overflowed, opened = merge_batches(newest, batch, max(0, self._max_flows - others))
        self._counter.count_merged(overflowed, opened)
        self._queued_flows = others + len(newest.flows)

    def _take(self) -> FlowBatch | None:
        with self._changed:
            self._queued_flows -= self._taken_flows
            self._taken_flows = 0
            self._is_processing = bool(self._queue)
            if not self._queue:
                self._changed.notify_all()
                return None
            batch = self._queue.popleft()
            self._taken_flows = len(batch.flows)
        return batch

    def _wake(self) -> None:
        """Wake the event loop, unless it has still to respond, or does not iterate yet."""
        if self._woken_at is None and self._loop is not None:
            self._woken_at = time.monotonic()
            self._loop.call_soon_threadsafe(self._respond)

    def _respond(self) -> None:
        assert self._woken_at is not None
        self._longest_delay = max(self._longest_delay, time.monotonic() - self._woken_at)
        self._woken_at = None
        self._ready.set()

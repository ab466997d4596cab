"""From the capture thread to the event loop: a bounded queue that never loses a byte.

In: flow batches from one thread. Out: the same batches in order, to one task. When the event loop
is behind, the overflow policy depends on the source:

- Packets do not wait: a batch that finds the queue full is merged into the newest one there. All
  queued batches and the one that was taken last have at most `max_flows` flows together, and one
  batch more; deltas of further flows are folded (`fold_key`), counted as overflowed, and reported
  as unattributed.
- A replay waits, and so does the ebpf source, since the kernel goes on counting: `offer` blocks
  until there is room.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator

from hogpipe.flows.flow_batch import FlowBatch
from hogpipe.model import FlowDelta, fold_key


def merge_batches(older: FlowBatch, newer: FlowBatch, max_flows: int) -> None:
    """Add `newer` to `older`, which gets at most `max_flows` flows, and sums of further ones."""
    counts = older.counts
    counts.add(newer.counts)
    counts.merged_batches += 1
    older.time_ns = max(older.time_ns, newer.time_ns)
    older.owned += newer.owned
    flows = older.flows
    for key, delta in newer.flows.items():
        target = key
        if key not in flows and len(flows) >= max_flows:
            target = fold_key(key)
            counts.overflowed.add(delta.total)
        flows.setdefault(target, FlowDelta()).add(delta)


class Handoff:
    """One thread offers, one task iterates. Made in the event loop of that task."""

    def __init__(self, *, merge: bool, depth: int = 16, max_flows: int = 16_384) -> None:
        self._merge = merge
        self._depth = depth
        self._max_flows = max_flows
        self._queue: deque[FlowBatch] = deque()
        self._queued_flows = 0
        """With those of the batch that was taken last, which is being processed."""
        self._taken_flows = 0
        self._changed = threading.Condition()
        self._ready = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._ended = False
        self._abandoned = False
        self._woken_at: float | None = None
        """When the event loop was called, if it has not responded yet."""
        self._longest_delay = 0.0

    def offer(self, batch: FlowBatch) -> None:
        """Queue `batch` (capture thread); blocks while the queue is full, unless batches merge."""
        with self._changed:
            if not self._merge:
                self._changed.wait_for(lambda: len(self._queue) < self._depth or self._abandoned)
            if self._abandoned:
                return
            if not self._queue or not self._merge or self._has_room:
                self._queue.append(batch)
                self._queued_flows += len(batch.flows)
            else:
                newest = self._queue[-1]
                others = self._queued_flows - len(newest.flows)
                merge_batches(newest, batch, max(0, self._max_flows - others))
                self._queued_flows = others + len(newest.flows)
        self._wake()

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
        while True:
            self._ready.clear()
            while (batch := self._take()) is not None:
                yield batch
            with self._changed:
                if self._ended and not self._queue:
                    return
            await self._ready.wait()

    @property
    def _has_room(self) -> bool:
        return len(self._queue) < self._depth and self._queued_flows < self._max_flows

    def _take(self) -> FlowBatch | None:
        with self._changed:
            self._queued_flows -= self._taken_flows
            self._taken_flows = 0
            if not self._queue:
                return None
            batch = self._queue.popleft()
            self._taken_flows = len(batch.flows)
            self._changed.notify_all()
        return batch

    def take_longest_delay(self) -> float:
        """Return the longest time, in seconds, that the event loop took to respond to a batch.

        Counts from the previous call of this method.
        """
        longest, self._longest_delay = self._longest_delay, 0.0
        return longest

    def _wake(self) -> None:
        """Wake the event loop, unless it has still to respond (capture thread)."""
        if self._woken_at is None:
            self._woken_at = time.monotonic()
            self._loop.call_soon_threadsafe(self._respond)

    def _respond(self) -> None:
        assert self._woken_at is not None
        self._longest_delay = max(self._longest_delay, time.monotonic() - self._woken_at)
        self._woken_at = None
        self._ready.set()

"""From the capture thread to the event loop: a bounded queue that never loses a byte.

When the loop is behind, batches merge into the newest one that waits; a source that can wait (a
replay, or the kernel's tables, which count on) is made to. Merged batches have a bound of their
own: what would make one larger moves to the nameless flow, is counted, and is reported as
unattributed.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator

from hogpipe.model import NAMELESS, FlowBatch, FlowDelta


def merge_batches(older: FlowBatch, newer: FlowBatch, max_flows: int) -> None:
    """Add `newer` to `older`, which grows to at most `max_flows` flows and the nameless one."""
    counts = older.counts
    counts.add(newer.counts)
    counts.merged_batches += 1
    older.time_ns = max(older.time_ns, newer.time_ns)
    older.owned += newer.owned
    flows = older.flows
    for key, delta in newer.flows.items():
        kept = key
        if key not in flows and len(flows) >= max_flows:
            kept = NAMELESS
            counts.overflowed.add(delta.total)
        flows.setdefault(kept, FlowDelta()).add(delta)


class Handoff:
    """One thread offers, one task iterates; made by the loop that iterates."""

    def __init__(self, *, merge: bool, depth: int = 16, max_flows: int = 65_536) -> None:
        self._merge = merge
        self._depth = depth
        self._max_flows = max_flows
        self._waiting: deque[FlowBatch] = deque()
        self._changed = threading.Condition()
        self._ready = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._ended = False
        self._abandoned = False
        self._called_at: float | None = None
        self._longest_delay = 0.0

    def offer(self, batch: FlowBatch) -> None:
        """Hand `batch` over (thread); waits for room if batches are not to merge."""
        with self._changed:
            if not self._merge:
                self._changed.wait_for(lambda: len(self._waiting) < self._depth or self._abandoned)
            if self._abandoned:
                return
            if len(self._waiting) < self._depth:
                self._waiting.append(batch)
            else:
                merge_batches(self._waiting[-1], batch, self._max_flows)
        self._wake()

    def end(self) -> None:
        """Tell that nothing more will come (thread)."""
        with self._changed:
            self._ended = True
        self._wake()

    def abandon(self) -> None:
        """Tell that nobody will iterate any more: `offer` drops what it gets and never waits."""
        with self._changed:
            self._abandoned = True
            self._waiting.clear()
            self._changed.notify_all()

    async def __aiter__(self) -> AsyncIterator[FlowBatch]:
        """Yield what was offered, in order, until the end."""
        while True:
            self._ready.clear()
            with self._changed:
                taken, ended = list(self._waiting), self._ended
                self._waiting.clear()
                self._changed.notify_all()
            for batch in taken:
                yield batch
            if ended:
                return
            await self._ready.wait()

    def take_longest_delay(self) -> float:
        """Return for how many seconds at the most the loop let a batch wait, since the last call.

        That is how long something kept the loop from its work while there was some.
        """
        longest, self._longest_delay = self._longest_delay, 0.0
        return longest

    def _wake(self) -> None:
        """Call the loop, once until it answers (thread)."""
        if self._called_at is None:
            self._called_at = time.monotonic()
            self._loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        assert self._called_at is not None
        self._longest_delay = max(self._longest_delay, time.monotonic() - self._called_at)
        self._called_at = None
        self._ready.set()

"""The queue of one sink: in memory here, on disk in disk_queue.py.

In: windows (`offer`). Out: the oldest one (`take`), which is then in flight until `acknowledge`.
The queue in memory never fails; its overflow policy is that of coalescing.py, whose merge jobs run
in `executor`, one at a time.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TypeVar

from hogpipe.delivery.coalescing import CoalescingQueue, OverflowPolicy, QueuedWindow
from hogpipe.records.schema import Record, SpoolInfo

T = TypeVar("T")


class WindowQueue:
    """Windows in order, in memory; counts are in records.

    At most one window is in flight, and it is no longer `queued`.
    """

    def __init__(self, limit: int, policy: OverflowPolicy, executor: Executor) -> None:
        self._memory = CoalescingQueue(limit, policy)
        self._executor = executor
        self._merging: asyncio.Task[None] | None = None

    @property
    def queued(self) -> int:
        """How many records are queued."""
        return self._memory.queued

    @property
    def saved(self) -> int:
        """How many records outlive the run, in flight or queued."""
        return 0

    @property
    def dropped(self) -> int:
        """How many records the overflow policy dropped, or damage has cost."""
        return self._memory.dropped

    @property
    def coalesced(self) -> int:
        """How many records were merged into others."""
        return self._memory.coalesced

    @property
    def full(self) -> bool:
        """Whether a publisher has to wait, if the overflow policy is `block`."""
        return self._memory.full

    @property
    def ready(self) -> bool:
        """Whether `take` returns a window."""
        return self._memory.queued > 0

    async def open(self, *, may_fail: bool = False) -> None:
        """Open the queue; raises ConfigurationError if that will never be possible.

        With `may_fail` nothing is raised, and the queue goes on trying. May be called again after
        an error, or if it was cancelled.
        """

    def offer(self, window: QueuedWindow) -> None:
        """Queue a window as the newest."""
        self._memory.push(window)
        if self._memory.needs_job and (self._merging is None or self._merging.done()):
            self._merging = asyncio.create_task(self._run_jobs())

    async def take(self) -> Sequence[Record]:
        """Take the oldest window; empty if none is ready. Raises OSError."""
        return await self._take_from_memory()

    async def acknowledge(self) -> None:
        """End the flight of the window that was taken: it is delivered or dropped."""

    def discard(self, in_flight: int) -> int:
        """Discard what the end of the run would lose; return how many records.

        `in_flight` is the number of records in flight, which may be part of it.
        """
        lost = self.count_unsaved(in_flight)
        self._memory.clear()
        return lost

    def count_unsaved(self, in_flight: int) -> int:
        """Return how many records the end of the run would lose, of `in_flight` and queued."""
        return self._memory.queued + in_flight

    async def close(self) -> None:
        """Close the queue; nothing is offered afterwards."""
        if self._merging is not None:
            self._merging.cancel()

    def spool_info(self) -> SpoolInfo | None:
        """Return the state of the disk, None for a queue in memory."""
        return None

    async def _take_from_memory(self) -> Sequence[Record]:
        """Take the oldest window out of memory; empty if there is none. Cancelled, it stays."""
        while (window := self._memory.oldest) is not None:
            make_records = window.records
            records = await self._run_in_executor(make_records) if window.merged else make_records()
            if self._memory.remove(window):
                return records
        return ()

    async def _run_jobs(self) -> None:
        while (job := self._memory.next_job()) is not None:
            await self._run_in_executor(job.run)
            self._memory.finish(job)

    async def _run_in_executor(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

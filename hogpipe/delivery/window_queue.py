"""Where the windows of one sink wait: here in memory, in spooled.py also on disk."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TypeVar

from hogpipe.delivery.coalescing import CoalescingQueue, WaitingWindow, WhenFull
from hogpipe.records.schema import Record, SpoolInfo

T = TypeVar("T")


class WindowQueue:
    """Windows in order; one at a time is handed out, by `next`, until `done` is called.

    Counts are in records. `queued` is without what is handed out. `helper` runs what would hold up
    the event loop.
    """

    def __init__(self, limit: int, when_full: WhenFull, helper: Executor) -> None:
        self._backlog = CoalescingQueue(limit, when_full)
        self._helper = helper
        self._tidying: asyncio.Task[None] | None = None

    @property
    def queued(self) -> int:
        """How many records wait."""
        return self._backlog.queued

    @property
    def kept(self) -> int:
        """How many outlive the run, handed out or not."""
        return 0

    @property
    def dropped(self) -> int:
        """How many had to give way, or could not be read any more."""
        return self._backlog.dropped

    @property
    def coalesced(self) -> int:
        """How many went up in another one."""
        return self._backlog.coalesced

    @property
    def full(self) -> bool:
        """Whether another window would be one too many."""
        return self._backlog.full

    @property
    def ready(self) -> bool:
        """Whether `next` has a window to give."""
        return self._backlog.queued > 0

    async def open(self) -> None:
        """Get ready; raises ConfigurationError where that will never be possible."""

    def offer(self, window: WaitingWindow) -> None:
        """Let a window wait."""
        self._backlog.push(window)
        if self._backlog.has_chore and (self._tidying is None or self._tidying.done()):
            self._tidying = asyncio.create_task(self._tidy())

    async def next(self) -> Sequence[Record]:
        """Hand out the oldest window; empty if none is ready. Raises OSError."""
        return await self._take()

    async def done(self) -> None:
        """Forget what is handed out: it is delivered or dropped."""

    def abandon(self, handed_out: int) -> int:
        """Drop what would be lost with the run; return how many records, of `handed_out` too."""
        lost = self.count_lost(handed_out)
        self._backlog.clear()
        return lost

    def count_lost(self, handed_out: int) -> int:
        """Return how many records end with the run, given how many are still handed out."""
        return self._backlog.queued + handed_out

    async def close(self) -> None:
        """Let go of everything; nothing is offered any more."""
        if self._tidying is not None:
            self._tidying.cancel()

    def describe(self) -> SpoolInfo | None:
        """Return how the disk stands, where one is used."""
        return None

    async def _take(self) -> Sequence[Record]:
        """Take the oldest window out of memory; empty if none waits, the same if cancelled."""
        while (window := self._backlog.oldest) is not None:
            records = window.records() if window.plain else await self._beside(window.records)
            if self._backlog.take(window):
                return records
        return ()

    async def _tidy(self) -> None:
        """Bring what waits in memory within its bounds, beside the event loop."""
        while (chore := self._backlog.find_chore()) is not None:
            await self._beside(chore.run)
            self._backlog.finish(chore)

    async def _beside(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._helper, work)

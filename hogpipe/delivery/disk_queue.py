"""An Outbox whose windows wait on disk (spool/), so that they outlive the run.

Each window goes to the disk first, and only from there to the sink: a window that is being sent is
on the disk as well. Windows that are on their way to the disk, a few milliseconds as a rule, wait
in memory. While the disk cannot be used they stay there, by the rules for memory, and go to the
sink directly once nothing older is on the disk. All work on the disk is in a thread of its own.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial

from hogpipe.delivery.coalescing import WaitingWindow, WhenFull
from hogpipe.delivery.health import Health
from hogpipe.delivery.spool import Spool
from hogpipe.delivery.window_queue import T, WindowQueue
from hogpipe.errors import ConfigurationError
from hogpipe.records.schema import Record, SpoolInfo
from hogpipe.sinks.contract import SinkSettings

RETRY_SECONDS = 1.0
"""How long a disk that could not be used is left alone."""
CLOSE_SECONDS = 0.4
"""How long the last windows may take to get to the disk."""
_START_SECONDS = 5.0


class DiskQueue(WindowQueue):
    """Windows wait in `spool`; `on_change` is called when something has become ready or gone."""

    def __init__(
        self,
        spool: Spool,
        limit: int,
        when_full: WhenFull,
        health: Health,
        on_change: Callable[[], None],
        *,
        helper: Executor,
    ) -> None:
        super().__init__(limit, when_full, helper)
        self._spool = spool
        self._health = health
        self._on_change = on_change
        self._blocks = when_full == "block"
        self._thread = ThreadPoolExecutor(1, "spool")
        self._opening: asyncio.Task[None] | None = None
        self._storing: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        """Held by whoever takes windows out of memory or hands one out: order depends on it."""
        self._news = asyncio.Event()
        """Set when there may be something to store, or room to store it."""
        self._closing = False
        self._failing = False
        """Whether the disk cannot be used, so that memory has to do."""
        self._failures = 0
        self._counts = spool.counts
        """How the disk stood when the thread had last done something."""
        self._moving = 0
        """Records that are on their way to the disk."""
        self._handed_out = 0
        """Records of the disk that are with the sink."""

    @property
    def queued(self) -> int:
        """How many records wait, on disk and in memory."""
        return super().queued + self._moving + self._counts.records - self._handed_out

    @property
    def kept(self) -> int:
        """How many are on disk."""
        return self._counts.records

    @property
    def dropped(self) -> int:
        """How many had to give way, or could not be read any more."""
        return super().dropped + self._counts.dropped

    @property
    def coalesced(self) -> int:
        """How many went up in another one."""
        return super().coalesced + self._counts.coalesced

    @property
    def ready(self) -> bool:
        """Whether `next` has a window to give."""
        stored = self._counts.records > self._handed_out
        return stored or (self._failing and super().ready)

    async def open(self) -> None:
        """Take the spool; raises ConfigurationError where that will never be possible."""
        self._opening = asyncio.create_task(self._open())
        done, _late = await asyncio.wait({self._opening}, timeout=_START_SECONDS)
        if done:
            self._opening.result()
        self._storing = asyncio.create_task(self._store())

    def offer(self, window: WaitingWindow) -> None:
        """Let a window wait."""
        super().offer(window)
        self._news.set()

    async def next(self) -> Sequence[Record]:
        """Hand out the oldest window; empty if none is ready. Raises OSError."""
        async with self._turn:
            records = await self._work(self._spool.next) if self._spool.is_open else ()
            self._handed_out = len(records)
            return records if records or not self._failing else await self._take()

    async def done(self) -> None:
        """Forget what is handed out: it is delivered or dropped."""
        if not self._handed_out:
            return
        async with self._turn:
            try:
                await self._work(self._spool.acknowledge)
            except OSError as error:  # what is not noted comes again in a later run, no more
                self._note_failure(error)
            self._handed_out = 0
            self._counts = self._spool.counts
        self._news.set()

    def abandon(self, handed_out: int) -> int:
        """Drop what is in memory only."""
        lost = super().abandon(handed_out)
        self._handed_out = 0
        return lost

    def count_lost(self, handed_out: int) -> int:
        """Return how many records are in memory only."""
        return super().count_lost(0 if self._handed_out else handed_out)

    async def close(self) -> None:
        """Bring to the disk what is in memory, and let go of it."""
        await super().close()
        self._closing = True
        self._news.set()
        for task in (self._opening, self._storing):
            if task is not None:
                await asyncio.wait({task}, timeout=CLOSE_SECONDS)
                task.cancel()
        closing = self._thread.submit(self._spool.close)
        self._thread.shutdown(wait=False)
        async with asyncio.timeout(CLOSE_SECONDS):
            # Cancelled before the thread has come to it, it would never be done.
            await asyncio.shield(asyncio.wrap_future(closing))
        self._counts = self._spool.counts

    def describe(self) -> SpoolInfo:
        """Return how the disk stands."""
        counts = self._counts
        return {
            "records": counts.records,
            "bytes": counts.bytes,
            "found": counts.found,
            "damaged": counts.damaged,
            "failures": self._failures,
        }

    async def _open(self) -> None:
        try:
            await self._work(self._spool.open)
        except OSError as error:
            self._note_failure(error)

    async def _store(self) -> None:
        """Bring windows from memory to the disk, until the outbox is closed."""
        assert self._opening is not None
        await asyncio.wait({self._opening})
        while True:
            try:
                if not self._spool.is_open:
                    await self._work(self._spool.open)
                await self._store_all()
            except (OSError, ConfigurationError) as error:
                self._note_failure(error)
            if self._closing:
                return
            await asyncio.sleep(RETRY_SECONDS)

    async def _store_all(self) -> None:
        """Return when all is stored and nothing more will come; raises OSError."""
        while True:
            self._news.clear()
            while self._backlog.queued and (not self._blocks or self._spool.has_room):
                await self._store_one()
            if self._closing:
                return
            await self._news.wait()

    async def _store_one(self) -> None:
        async with self._turn:
            window = await self._take()
            if not window:
                return
            self._moving = len(window)
            try:
                await self._work(partial(self._spool.append, window))
            except (OSError, asyncio.CancelledError):
                self._backlog.put_back(window)
                raise
            except TypeError as error:  # a record that is no JSON
                self._health.note_drop(error, len(window))
            finally:
                self._moving = 0
        if self._failing:
            self._failing = False
            self._health.note_spool_works()
        self._on_change()

    def _note_failure(self, error: Exception) -> None:
        self._failures += 1
        if not self._failing:
            self._failing = True
            self._health.note_spool_failure(error)
        self._on_change()

    async def _work(self, work: Callable[[], T]) -> T:
        """Do something that waits for the disk."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._counts = self._spool.counts


def make_queue(
    settings: SinkSettings, health: Health, on_change: Callable[[], None], helper: Executor
) -> WindowQueue:
    """Return the outbox that `settings` ask for; see Outbox and SpooledOutbox for the others."""
    limit, when_full = settings.queue_windows, settings.when_full
    if settings.spool is None:
        return WindowQueue(limit, when_full, helper)
    spool = Spool(settings.spool, settings.spool_mib << 20, when_full)
    return DiskQueue(spool, limit, when_full, health, on_change, helper=helper)

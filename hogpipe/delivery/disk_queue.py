"""A queue whose windows are on disk (spool/), so that they outlive the run.

Each window goes to the disk first, and from the disk to the sink: a window in flight is on disk as
well. Until it is stored, a few milliseconds as a rule, a window is in memory. While the disk
cannot be used windows stay in memory, under the bounds of a queue in memory, and go to the sink
directly once the disk holds nothing older; the disk is retried every second.

Concurrency: a thread of its own does all work on the disk. The lock `_order` is held while a
window is taken out of memory or out of the spool, so that windows never overtake each other.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial

from hogpipe.delivery.coalescing import OverflowPolicy, QueuedWindow
from hogpipe.delivery.health import Health
from hogpipe.delivery.spool import Spool
from hogpipe.delivery.window_queue import T, WindowQueue
from hogpipe.errors import ConfigurationError
from hogpipe.records.schema import Record, SpoolInfo
from hogpipe.sinks.contract import SinkSettings
from hogpipe.threads import SerialExecutor

RETRY_SECONDS = 1.0
"""The pause after an error of the disk."""
CLOSE_SECONDS = 0.4
"""The time limit for the last windows to reach the disk."""
_START_SECONDS = 5.0


class DiskQueue(WindowQueue):
    """Windows in order, on disk; `on_change` is called when the state of the queue changes."""

    def __init__(
        self,
        spool: Spool,
        limit: int,
        policy: OverflowPolicy,
        health: Health,
        on_change: Callable[[], None],
        *,
        executor: Executor,
    ) -> None:
        super().__init__(limit, policy, executor)
        self._spool = _SpoolThread(spool, health)
        self._health = health
        self._on_change = on_change
        self._blocks = policy == "block"
        self._opening: asyncio.Task[None] | None = None
        self._storing: asyncio.Task[None] | None = None
        self._order = asyncio.Lock()
        self._changed = asyncio.Event()
        """Set when there may be a window to store, or room to store it."""
        self._closing = False
        self._being_stored = 0
        """Records that were taken out of memory and are not on disk yet."""
        self._in_flight = 0
        """Records in flight that are on disk."""

    @property
    def queued(self) -> int:
        """How many records are queued, on disk and in memory."""
        return super().queued + self._being_stored + self._spool.counts.records - self._in_flight

    @property
    def saved(self) -> int:
        """How many records are on disk."""
        return self._spool.counts.records

    @property
    def dropped(self) -> int:
        """How many records the overflow policy dropped, or damage has cost."""
        return super().dropped + self._spool.counts.dropped

    @property
    def coalesced(self) -> int:
        """How many records were merged into others."""
        return super().coalesced + self._spool.counts.coalesced

    @property
    def ready(self) -> bool:
        """Whether `take` returns a window."""
        stored = self._spool.counts.records > self._in_flight
        return stored or (self._spool.failing and super().ready)

    async def open(self, *, may_fail: bool = False) -> None:
        """Open the spool; raises ConfigurationError if that will never be possible.

        With `may_fail` nothing is raised, and the spool is tried again like a disk that fails.
        """
        if self._opening is None or self._opening.done():  # a cancelled call goes on
            self._opening = asyncio.create_task(self._open(may_fail=may_fail))
        done, _late = await asyncio.wait({self._opening}, timeout=_START_SECONDS)
        if done:
            self._opening.result()
        self._storing = asyncio.create_task(self._store())

    def offer(self, window: QueuedWindow) -> None:
        """Queue a window as the newest."""
        super().offer(window)
        self._changed.set()

    async def take(self) -> Sequence[Record]:
        """Take the oldest window; empty if none is ready. Raises OSError."""
        async with self._order:
            records = await self._spool.read() if self._spool.is_open else ()
            self._in_flight = len(records)
            if records or not self._spool.failing:
                return records
            return await self._take_from_memory()

    async def acknowledge(self) -> None:
        """End the flight of the window that was taken: it is delivered or dropped."""
        if not self._in_flight:
            return
        async with self._order:
            try:
                await self._spool.acknowledge()
            except OSError as error:  # a later run may deliver the window a second time
                self._report_failure(error)
            self._in_flight = 0
        self._changed.set()

    def discard(self, in_flight: int) -> int:
        """Discard the records that are in memory only; return how many."""
        lost = super().discard(in_flight)
        self._in_flight = 0
        return lost

    def count_unsaved(self, in_flight: int) -> int:
        """Return how many records are in memory only."""
        return super().count_unsaved(0 if self._in_flight else in_flight)

    async def close(self) -> None:
        """Store the windows in memory, and close the spool; TimeoutError if that takes too long."""
        await super().close()
        self._closing = True
        self._changed.set()
        for task in (self._opening, self._storing):
            if task is not None:
                await asyncio.wait({task}, timeout=CLOSE_SECONDS)
                task.cancel()
        async with asyncio.timeout(CLOSE_SECONDS):
            await self._spool.close()

    def spool_info(self) -> SpoolInfo:
        """Return the state of the disk."""
        counts = self._spool.counts
        return {
            "records": counts.records,
            "bytes": counts.bytes,
            "recovered": counts.found,
            "damaged_files": counts.damaged,
            "disk_failures": self._spool.failures,
        }

    async def _open(self, *, may_fail: bool) -> None:
        try:
            if not self._spool.is_open:
                await self._spool.open()
        except ConfigurationError as error:
            if not may_fail:
                raise
            self._report_failure(error)
        except Exception as error:  # noqa: BLE001 - whatever is on the disk, the run starts
            self._report_failure(error)

    async def _store(self) -> None:
        """Move windows from memory to the disk, until the queue is closed."""
        assert self._opening is not None
        await asyncio.wait({self._opening})
        while True:
            try:
                if not self._spool.is_open:
                    await self._spool.open()
                await self._store_all()
            except Exception as error:  # noqa: BLE001 - whatever is on the disk, the queue goes on
                self._report_failure(error)
            if self._closing:
                return
            await asyncio.sleep(RETRY_SECONDS)

    async def _store_all(self) -> None:
        """Store windows as they come; return when the queue is closed. Raises OSError."""
        while True:
            self._changed.clear()
            while self._memory.queued and (not self._blocks or self._spool.has_room):
                await self._store_one()
            if self._closing:
                return
            await self._changed.wait()

    async def _store_one(self) -> None:
        async with self._order:
            window = await self._take_from_memory()
            if not window:
                return
            self._being_stored = len(window)
            try:
                await self._spool.append(window)
            except (OSError, asyncio.CancelledError):
                self._memory.push_front(window)
                raise
            except TypeError as error:  # a record that is no JSON
                self._health.report_drop(error, len(window))
            finally:
                self._being_stored = 0
        self._spool.report_success()
        self._on_change()

    def _report_failure(self, error: Exception) -> None:
        self._spool.report_failure(error)
        self._on_change()


class _SpoolThread:
    """A spool whose work runs in a thread of its own, one call at a time.

    `counts` are those after the last call; `failing` says whether the disk could not be used then.
    """

    def __init__(self, spool: Spool, health: Health) -> None:
        self._spool = spool
        self._health = health
        self._thread = SerialExecutor("spool")
        self.counts = spool.counts
        self.failing = False
        self.failures = 0

    @property
    def is_open(self) -> bool:
        """Whether `open` has succeeded."""
        return self._spool.is_open

    @property
    def has_room(self) -> bool:
        """Whether another window may be appended within the bound."""
        return self._spool.has_room

    async def open(self) -> None:
        """Open the spool; raises what `Spool.open` raises."""
        await self._run(self._spool.open)

    async def append(self, window: Sequence[Record]) -> None:
        """Append a window; raises OSError, and TypeError for a record that is no JSON."""
        await self._run(partial(self._spool.append, window))

    async def read(self) -> Sequence[Record]:
        """Return the oldest window, the same one until it is acknowledged; raises OSError."""
        return await self._run(self._spool.read)

    async def acknowledge(self) -> None:
        """Remove the window that was read; raises OSError."""
        await self._run(self._spool.acknowledge)

    async def close(self) -> None:
        """Close the spool after the calls under way; that goes on if the caller is cancelled."""
        closing = self._thread.submit(self._spool.close)
        self._thread.shutdown(wait=False)
        # Unshielded, a cancellation would cancel the future before the thread reaches it.
        await asyncio.shield(asyncio.wrap_future(closing))
        self.counts = self._spool.counts

    def report_failure(self, error: Exception) -> None:
        """Count an error of the disk; the log has the first of several in a row."""
        self.failures += 1
        if not self.failing:
            self.failing = True
            self._health.report_spool_failure(error)

    def report_success(self) -> None:
        """Report that a window was stored."""
        if self.failing:
            self.failing = False
            self._health.report_spool_success()

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self.counts = self._spool.counts


def make_queue(
    settings: SinkSettings, health: Health, on_change: Callable[[], None], executor: Executor
) -> WindowQueue:
    """Return the queue that `settings` describe: on disk if they name a spool."""
    limit, policy = settings.queue_windows, settings.when_full
    if settings.spool is None:
        return WindowQueue(limit, policy, executor)
    spool = Spool(settings.spool, settings.spool_mib << 20, policy)
    return DiskQueue(spool, limit, policy, health, on_change, executor=executor)

"""The fan-out: every window is queued for every sink, and no sink delays another.

In: windows (`publish`). Out: calls of the sinks, made by one task for each (sink_worker.py). Only
the overflow policy `block` makes `publish` wait, and only a sink that blocks the event loop itself
delays the others; it is reported (loop_watch.py), and at the end of the run the others come first.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from hogpipe.delivery.coalescing import QueuedWindow
from hogpipe.delivery.loop_watch import LoopWatch
from hogpipe.delivery.sink_worker import SinkWorker
from hogpipe.errors import ConfigurationError
from hogpipe.records.schema import Record, SinkInfo
from hogpipe.records.summary import RecordsLeft
from hogpipe.sinks.contract import Sink, SinkSettings


class Dispatcher:
    """Owns the sinks: `open`, then `run` in a task with `publish` beside it, `drain` at the end.

    `on_output_closed` is called when the reader of a sink's output has left. `rng` is the source of
    the jitter of retries.
    """

    def __init__(
        self,
        sinks: Sequence[tuple[Sink, SinkSettings]],
        *,
        on_output_closed: Callable[[], None],
        rng: random.Random | None = None,
    ) -> None:
        jitter = rng or random.Random()  # noqa: S311 - it only spreads retries
        # One thread for the queues of all sinks: merging then hardly delays the event loop.
        self._executor = ThreadPoolExecutor(1, "coalesce")
        self._watch = LoopWatch()
        self._workers = [
            SinkWorker(*sink, on_output_closed, jitter, self._executor, watch=self._watch)
            for sink in sinks
        ]
        self._tasks: dict[SinkWorker, asyncio.Task[None]] = {}

    async def open(self) -> None:
        """Open all sinks; `run` retries one that cannot be opened for now.

        Raises ConfigurationError, naming the sinks, where a retry is useless; all are closed then.
        """
        self._watch.start()
        try:
            async with asyncio.TaskGroup() as group:
                opening = [group.create_task(worker.open()) for worker in self._workers]
        except asyncio.CancelledError:
            await self._close()
            raise
        problems = [problem for task in opening for problem in task.result()]
        if problems:
            await self._close()
            raise ConfigurationError(problems)

    async def run(self) -> None:
        """Deliver until `drain` has ended or every sink's reader has left; cancelling is safe.

        The sinks are closed when it returns.
        """
        try:
            async with asyncio.TaskGroup() as group:
                self._tasks = {one: group.create_task(one.run()) for one in self._workers}
        finally:
            self._watch.stop()

    async def publish(self, records: Sequence[Record]) -> None:
        """Queue one window for every sink, then wait for full queues whose policy is `block`.

        The window stays queued if the wait is cancelled.
        """
        window = QueuedWindow(records)
        for worker in self._workers:
            worker.offer(window)
        for worker in self._workers:
            await worker.wait_for_room()

    def stop_blocking(self) -> None:
        """Let `publish` wait for no sink from now on: the run is about to end."""
        for worker in self._workers:
            worker.stop_blocking()

    async def idle(self) -> None:
        """Wait until every sink has delivered or dropped what was published."""
        await _wait_until_idle(self._workers)

    async def drain(self, deadline: float) -> list[RecordsLeft]:
        """Deliver what is queued within `deadline` seconds, then close the sinks.

        The time for which a sink blocks the event loop is not taken from the others. Returns what
        is left, one for each sink with records. Nothing may be published afterwards.
        """
        for worker in self._workers:
            worker.finish()
        others = [worker for worker in self._workers if not worker.blocks_loop]
        idle = asyncio.create_task(_wait_until_idle(others))
        try:
            await self._watch.wait(idle, deadline)
        finally:
            idle.cancel()
        await self._close()
        return [left for worker in self._workers if (left := worker.describe_end()) is not None]

    def reopen(self) -> None:
        """Have the sinks that write files reopen them, each before its next write."""
        for worker in self._workers:
            worker.reopen()

    def health(self) -> list[SinkInfo]:
        """Return the counts of each sink, in the order of the configuration."""
        return [worker.health() for worker in self._workers]

    async def _close(self) -> None:
        """End the tasks and close the sinks; those that block the event loop come last."""
        blocking = [worker for worker in self._workers if worker.blocks_loop]
        for workers in ([one for one in self._workers if one not in blocking], blocking):
            tasks = [self._tasks[worker] for worker in workers if worker in self._tasks]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            async with asyncio.TaskGroup() as group:
                for worker in workers:
                    group.create_task(worker.close())
        self._watch.stop()
        self._executor.shutdown(wait=False)


async def _wait_until_idle(workers: Sequence[SinkWorker]) -> None:
    for worker in workers:
        await worker.idle()

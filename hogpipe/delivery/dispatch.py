"""The fan-out: every window is queued for every sink, and no sink delays another.

In: windows (`publish`). Out: calls of the sinks, made by one task for each (sink_worker.py). Only
the overflow policy `block` makes `publish` wait, and only a sink that blocks the event loop itself
delays the others.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from hogpipe.delivery.coalescing import QueuedWindow
from hogpipe.delivery.sink_worker import SinkWorker
from hogpipe.errors import ConfigurationError
from hogpipe.records.schema import Record, SinkInfo
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
        self._workers = [
            SinkWorker(*sink, on_output_closed, jitter, self._executor) for sink in sinks
        ]
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Open all sinks; `run` retries one that cannot be opened for now.

        Raises ConfigurationError, naming the sinks, where a retry is useless; all are closed then.
        """
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
        async with asyncio.TaskGroup() as group:
            self._tasks = {group.create_task(worker.run()) for worker in self._workers}

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
        for worker in self._workers:
            await worker.idle()

    async def drain(self, deadline: float) -> list[str]:
        """Deliver what is queued within `deadline` seconds, then close the sinks.

        Returns one line for each sink with records left. Nothing may be published afterwards.
        """
        for worker in self._workers:
            worker.finish()
        with suppress(TimeoutError):  # the lines report what is left
            async with asyncio.timeout(deadline):
                await self.idle()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._close()
        return [line for worker in self._workers if (line := worker.describe_end()) is not None]

    def reopen(self) -> None:
        """Have the sinks that write files reopen them, each before its next write."""
        for worker in self._workers:
            worker.reopen()

    def health(self) -> list[SinkInfo]:
        """Return the counts of each sink, in the order of the configuration."""
        return [worker.health() for worker in self._workers]

    async def _close(self) -> None:
        async with asyncio.TaskGroup() as group:
            for worker in self._workers:
                group.create_task(worker.close())
        self._executor.shutdown(wait=False)

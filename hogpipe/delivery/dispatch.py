"""The fan-out: every window goes to every sink, and no sink can hold up another."""

import asyncio
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from hogpipe.delivery.coalescing import WaitingWindow
from hogpipe.delivery.sink_worker import SinkWorker
from hogpipe.errors import ConfigurationError
from hogpipe.records.schema import Record, SinkInfo
from hogpipe.sinks.contract import Sink, SinkSettings


class Dispatcher:
    """Owns the sinks: `open`, then `run` in a task with `publish` beside it, `drain` at the end.

    `on_output_closed` is called when the reader of a sink's output has left. `rng` gives the
    jitter of the retries.
    """

    def __init__(
        self,
        sinks: Sequence[tuple[Sink, SinkSettings]],
        *,
        on_output_closed: Callable[[], None],
        rng: random.Random | None = None,
    ) -> None:
        jitter = rng or random.Random()  # noqa: S311 - it only spreads retries
        # One thread for all: what waits is tidied up in turns, and hardly felt by the event loop.
        self._helper = ThreadPoolExecutor(1, "backlog")
        self._lanes = [SinkWorker(*sink, on_output_closed, jitter, self._helper) for sink in sinks]
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Open all sinks; one that cannot be opened for now is tried again by `run`.

        Raises ConfigurationError, naming the sinks, where trying again is useless; all are closed
        then.
        """
        try:
            async with asyncio.TaskGroup() as group:
                opening = [group.create_task(lane.open()) for lane in self._lanes]
        except asyncio.CancelledError:
            await self._close()
            raise
        problems = [problem for task in opening if (problem := task.result()) is not None]
        if problems:
            await self._close()
            raise ConfigurationError(problems)

    async def run(self) -> None:
        """Deliver until `drain` has ended or every sink's reader has left; cancelling is safe.

        The sinks are closed when it returns.
        """
        async with asyncio.TaskGroup() as group:
            self._tasks = {group.create_task(lane.run()) for lane in self._lanes}

    async def publish(self, records: Sequence[Record]) -> None:
        """Queue one window for every sink, then wait for sinks that say `block` and are full.

        A window that was queued stays so if the wait is cancelled.
        """
        window = WaitingWindow(records)
        for lane in self._lanes:
            lane.offer(window)
        for lane in self._lanes:
            await lane.room()

    def stop_blocking(self) -> None:
        """Let `publish` wait for no sink any more: the run is to end."""
        for lane in self._lanes:
            lane.stop_blocking()

    async def idle(self) -> None:
        """Wait until every sink has taken what was published."""
        for lane in self._lanes:
            await lane.idle()

    async def drain(self, deadline: float) -> list[str]:
        """Deliver what waits within `deadline` seconds, then close the sinks.

        Returns one line for each sink that still had records. Nothing may be published after.
        """
        for lane in self._lanes:
            lane.finish()
        with suppress(TimeoutError):  # what is left is told by the lines
            async with asyncio.timeout(deadline):
                await self.idle()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._close()
        return [line for lane in self._lanes if (line := lane.left_over()) is not None]

    def reopen(self) -> None:
        """Have the sinks that write files open them anew, each before its next write."""
        for lane in self._lanes:
            lane.reopen()

    def health(self) -> list[SinkInfo]:
        """Return how each sink stands, in the order of the configuration."""
        return [lane.health() for lane in self._lanes]

    async def _close(self) -> None:
        async with asyncio.TaskGroup() as group:
            for lane in self._lanes:
                group.create_task(lane.close())
        self._helper.shutdown(wait=False)

"""The fan-out: every window is queued for every sink, and no sink delays another.

In: windows (`publish`). Out: calls of the sinks, made by one task for each (sink_worker.py). Only
the overflow policy `block` makes `publish` wait, and only a sink that blocks the event loop itself
delays the others; it is reported (loop_watch.py), and at the end of the run the others come first.

Other sinks during the run
    `prepare` opens the new ones, and `switch` takes them over between two windows: those before go
    to the sinks that leave, those after to the new ones. Sinks that stay are not touched. A sink
    that leaves has `LEAVE_SECONDS` to deliver its queue, then it is closed. A new one of the same
    type may use the same file or port, or print to the same terminal: so its windows are queued
    until those that leave are closed. What is undelivered in a spool goes to the new sink with that
    spool. A further change begins when the one before has come to that point, so that no sink takes
    a file from one whose turn it is.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from hogpipe.delivery.coalescing import QueuedWindow
from hogpipe.delivery.loop_watch import LoopWatch
from hogpipe.delivery.sink_worker import SinkWorker
from hogpipe.errors import ConfigurationError
from hogpipe.interrupter import Interrupter
from hogpipe.records.schema import Record, SinkInfo
from hogpipe.records.summary import RecordsLeft
from hogpipe.sinks.contract import Sink, SinkSettings

log = logging.getLogger(__name__)

LEAVE_SECONDS = 5.0
"""How long a sink that leaves a run may deliver what is queued."""

NewSink = tuple[Sink, SinkSettings]


class SinkChange(msgspec.Struct, frozen=True):
    """The sinks of a run after a change, opened."""

    workers: Sequence[SinkWorker]
    new: Sequence[SinkWorker]
    """Those of `workers` that the run has not had before."""


class Dispatcher:
    """Owns the sinks: `open`, then `run` in a task with `publish` beside it, `drain` at the end.

    `on_output_closed` is called when the reader of a sink's output has left. `rng` is the source of
    the jitter of retries. `interrupter` interrupts the event loop's thread.
    """

    def __init__(
        self,
        sinks: Sequence[NewSink],
        *,
        on_output_closed: Callable[[], None],
        rng: random.Random | None = None,
        interrupter: Interrupter | None = None,
    ) -> None:
        self._on_output_closed = on_output_closed
        self._jitter = rng or random.Random()  # noqa: S311 - it only spreads retries
        # One thread for the queues of all sinks: merging then hardly delays the event loop.
        self._executor = ThreadPoolExecutor(1, "coalesce")
        self._watch = LoopWatch(interrupter)
        self._workers: Sequence[SinkWorker] = [self._make_worker(*sink) for sink in sinks]
        self._tasks: dict[SinkWorker, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._leaving: list[SinkWorker] = []
        """Sinks that leave the run and are not closed yet."""
        self._retiring: set[asyncio.Task[None]] = set()
        self._lost: list[RecordsLeft] = []
        """What was lost with sinks that have left the run."""
        self._ended = asyncio.Event()

    async def open(self) -> None:
        """Open all sinks; `run` retries one that cannot be opened for now.

        Raises ConfigurationError, naming the sinks, where a retry is useless; all are closed then.
        """
        self._watch.start()
        try:
            await _open(self._workers)
        except BaseException:
            await self._close()
            raise

    async def run(self) -> None:
        """Deliver until `drain` has ended; cancelling is safe.

        The sinks are closed when it returns.
        """
        try:
            async with asyncio.TaskGroup() as self._group:
                for worker in self._workers:
                    self._tasks[worker] = self._group.create_task(worker.run())
                await self._ended.wait()
        finally:
            self._watch.stop()

    async def publish(self, records: Sequence[Record]) -> None:
        """Queue one window for every sink, then wait for full queues whose policy is `block`.

        The window stays queued if the wait is cancelled.
        """
        window, workers = QueuedWindow(records), self._workers
        for worker in workers:
            worker.offer(window)
        for worker in workers:
            await worker.wait_for_room()

    async def prepare(self, sinks: Sequence[NewSink | int]) -> SinkChange:
        """Open the new ones of the sinks after a change, for `switch` or `discard`.

        A number stands for a present sink that stays. `run` must be running. Raises
        ConfigurationError as `open` does, with nothing changed.
        """
        present = self._workers
        for worker in present:
            await worker.wait_until_begun()
        workers = [
            present[one] if isinstance(one, int) else self._make_worker(*one) for one in sinks
        ]
        new = [worker for worker in workers if worker not in present]
        leaving = [worker for worker in present if worker not in workers]
        try:
            await _open(new, [*self._leaving, *leaving])
        except BaseException:
            await _close_each(new)
            raise
        for worker in leaving:  # `switch` must not have to wait for them
            worker.stop_blocking()
        return SinkChange(workers, new)

    def switch(self, change: SinkChange) -> None:
        """Make a change: what is published from now on goes to its sinks."""
        assert self._group is not None
        leaving = [worker for worker in self._workers if worker not in change.workers]
        self._workers = change.workers
        for worker in leaving:
            self._leaving.append(worker)
            retiring = self._group.create_task(self._retire(worker))
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)
        for worker in change.new:
            former = _list_former(worker, self._leaving)
            self._tasks[worker] = self._group.create_task(worker.run(former))

    async def discard(self, change: SinkChange) -> None:
        """Close the new sinks of a change that is not made."""
        await _close_each(change.new)

    def stop_blocking(self) -> None:
        """Let `publish` wait for no sink from now on: the run is about to end."""
        for worker in self._workers:
            worker.stop_blocking()

    async def idle(self) -> None:
        """Wait until every sink has delivered or dropped what was published."""
        await _wait_until_idle([*self._leaving, *self._workers])

    async def drain(self, deadline: float) -> list[RecordsLeft]:
        """Deliver what is queued within `deadline` seconds, then close the sinks.

        The time for which a sink blocks the event loop is not taken from the others. Returns what
        is left, one for each sink with records. Nothing may be published afterwards.
        """
        workers = [*self._leaving, *self._workers]
        for worker in workers:
            worker.finish()
        await self._wait([worker for worker in workers if not worker.blocks_loop], deadline)
        await self._close()
        ends = [worker.describe_end() for worker in (*self._leaving, *self._workers)]
        return [*self._lost, *(left for left in ends if left is not None)]

    def reopen(self) -> None:
        """Have the sinks that write files reopen them, each before its next write."""
        for worker in self._workers:
            worker.reopen()

    def health(self) -> list[SinkInfo]:
        """Return the counts of each sink, in the order of the configuration."""
        return [worker.health() for worker in self._workers]

    def _make_worker(self, sink: Sink, settings: SinkSettings) -> SinkWorker:
        def end_run() -> None:
            if worker in self._workers:  # else the sink leaves, or never was in the run
                self._on_output_closed()

        worker = SinkWorker(
            sink, settings, end_run, self._jitter, self._executor, watch=self._watch
        )
        return worker

    async def _retire(self, worker: SinkWorker) -> None:
        """Have a sink that leaves deliver its queue, and close it."""
        worker.finish()
        await self._wait([worker], LEAVE_SECONDS)
        await self._end_workers([worker])
        self._leaving.remove(worker)
        left = worker.describe_end(of_run=False)
        if left is not None:
            log.log(logging.ERROR if left.lost else logging.WARNING, "%s", left.text)
            self._lost += [left] if left.lost else []

    async def _wait(self, workers: Sequence[SinkWorker], seconds: float) -> None:
        """Wait until workers are idle, for so long at most."""
        idle = asyncio.create_task(_wait_until_idle(workers))
        try:
            await self._watch.wait(idle, seconds)
        finally:
            idle.cancel()

    async def _close(self) -> None:
        """End the tasks and close the sinks; those that block the event loop come last."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        workers = [*self._leaving, *self._workers]
        blocking = [worker for worker in workers if worker.blocks_loop]
        # Sinks that leave come before those that wait for it.
        for part in (self._leaving, self._workers):
            await self._end_workers([worker for worker in part if worker not in blocking])
        await self._end_workers(blocking)
        self._watch.stop()
        self._executor.shutdown(wait=False)
        self._ended.set()

    async def _end_workers(self, workers: Sequence[SinkWorker]) -> None:
        """End the tasks of workers, and close them."""
        tasks = [self._tasks[worker] for worker in workers if worker in self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _close_each(workers)


async def _open(workers: Sequence[SinkWorker], leaving: Sequence[SinkWorker] = ()) -> None:
    """Open sinks; raises ConfigurationError with all problems."""
    async with asyncio.TaskGroup() as group:
        opening = [
            group.create_task(worker.open(replaces=bool(_list_former(worker, leaving))))
            for worker in workers
        ]
    if problems := [problem for task in opening for problem in task.result()]:
        raise ConfigurationError(problems)


async def _close_each(workers: Sequence[SinkWorker]) -> None:
    async with asyncio.TaskGroup() as group:
        for worker in workers:
            group.create_task(worker.close())


async def _wait_until_idle(workers: Sequence[SinkWorker]) -> None:
    for worker in workers:
        await worker.idle()


def _list_former(worker: SinkWorker, leaving: Sequence[SinkWorker]) -> list[SinkWorker]:
    """Return the sinks that leave before `worker` may begin."""
    return [one for one in leaving if worker.may_share(one)]

"""The queue and the task of one sink.

In: windows (`offer`), a request to reopen files, the end of the run. Out: calls of the sink, and
its counts. The task makes one call after another:

    open    until it succeeds        opening.py
    reopen  after SIGHUP             opening.py
    write   the window in flight     retry.py; between attempts it waits (backoff)

A sink whose last call blocked the event loop (loop_watch.py) pauses for as long before the next
one, so that the rest of the run gets at least half of the time, and gets no further call at the end
of a run, whose deadline it would exceed.

An error of the sink never leaves the task; only `OutputClosedError` ends it. Every record that is
offered, or found in the spool, ends in exactly one count: delivered, dropped, coalesced or queued.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from hogpipe.delivery.coalescing import QueuedWindow
from hogpipe.delivery.disk_queue import make_queue
from hogpipe.delivery.health import Health
from hogpipe.delivery.isolation import IsolatedSink
from hogpipe.delivery.loop_watch import LoopWatch
from hogpipe.delivery.opening import SinkOpening
from hogpipe.delivery.retry import Backoff, WindowDelivery
from hogpipe.delivery.stats_pace import StatsPace
from hogpipe.delivery.window_queue import WindowQueue
from hogpipe.errors import OutputClosedError
from hogpipe.records.schema import SinkInfo
from hogpipe.records.summary import RecordsLeft
from hogpipe.sinks.contract import Sink, SinkSettings
from hogpipe.text import printable


class SinkWorker:
    """Owns a sink from its first open to its close.

    `on_output_closed` is called once if the sink reports that its reader has left. `executor` runs
    the merge jobs of the queue; `watch` watches the calls of the sink.
    """

    def __init__(
        self,
        sink: Sink,
        settings: SinkSettings,
        on_output_closed: Callable[[], None],
        rng: random.Random,
        executor: Executor,
        *,
        watch: LoopWatch,
    ) -> None:
        self._on_output_closed = on_output_closed
        self.settings = settings
        self._health = Health(printable(settings.name or settings.type), settings.type)
        self._sink = IsolatedSink(sink, settings.write_timeout, watch, self._health.report_blocking)
        self._backoff = Backoff(settings.retry_initial, settings.retry_max, rng)
        self._delivery = WindowDelivery(self._sink, self._health, self._backoff)
        self._signals = _Signals(blocks=settings.when_full == "block")
        self._queue = make_queue(settings, self._health, self._update, executor)
        self._opening = SinkOpening(self._sink, self._queue, self._health, self._backoff)
        self._pace = StatsPace(settings.stats)
        self._finishing = False
        """Whether the end of the run waits for the sink."""
        self._ended = False
        """Whether the reader of the output has left."""
        self._closing: asyncio.Task[None] | None = None
        self._acknowledging = False
        """Whether a window is delivered that the spool would still deliver again."""
        self._begun, self._closed = asyncio.Event(), asyncio.Event()
        self._update()

    async def open(self, *, replaces: bool = False) -> Sequence[str]:
        """Open the sink, or leave that to `run`; return why the run must not start.

        With `replaces`, what another sink uses is left to `run`, too.
        """
        try:
            return await self._opening.start(replaces=replaces)
        except OutputClosedError:
            self._end()
            return ()

    def offer(self, window: QueuedWindow) -> None:
        """Queue a window; the overflow policy decides what happens if the queue is full."""
        self._offer(self._pace.apply(window))

    def _offer(self, window: QueuedWindow) -> None:
        if self._ended or self._closing:
            self._health.dropped += len(window)
            return
        self._queue.offer(window)
        self._update()

    async def wait_for_room(self) -> None:
        """Wait while the queue is full, if the overflow policy is `block`."""
        await self._signals.room.wait()

    @property
    def blocks_loop(self) -> bool:
        """Whether the last call of the sink has blocked the event loop."""
        return self._sink.blocked_seconds > 0

    async def idle(self) -> None:
        """Wait until nothing is queued and nothing in flight."""
        await self._signals.idle.wait()

    def may_share(self, other: "SinkWorker") -> bool:
        """Return whether both sinks may need the same file, port, terminal or spool."""
        mine, theirs = self.settings, other.settings
        return mine.type == theirs.type or (mine.spool is not None and mine.spool == theirs.spool)

    async def run(self, after: Sequence["SinkWorker"] = ()) -> None:
        """Deliver until cancelled or until the reader of the output has left; then close.

        No call of the sink is made before those of `after` are closed; windows are queued
        meanwhile.
        """
        try:
            for former in after:
                await former.wait_until_closed()
            await self._opening.open_queue()
            if self._opening.due:
                await self._step()
            self._begun.set()
            while not (self._closing or self._ended):
                self._backoff.rearm()
                if self.blocks_loop:
                    await self._leave_loop_to_others()
                await self._step()
        except OutputClosedError:
            self._end()
        finally:
            self._begun.set()
            await self.close()

    async def wait_until_begun(self) -> None:
        """Wait until `run` has tried once to open the sink, or found it open."""
        await self._begun.wait()

    async def wait_until_closed(self) -> None:
        """Wait until the sink and its queue are closed."""
        await self._closed.wait()

    def reopen(self) -> None:
        """Have the sink reopened before its next write."""
        self._opening.request_reopen()
        self._signals.work.set()
        self._backoff.skip()

    def stop_blocking(self) -> None:
        """Let `room` wait no longer."""
        self._signals.blocks = False
        self._update()

    def finish(self) -> None:
        """Deliver the queue without waits between attempts: nothing more will be offered."""
        if rest := self._pace.flush():
            self._offer(QueuedWindow(rest))
        self._finishing = True
        self._backoff.reset()
        self._backoff.skip()
        self.stop_blocking()

    async def close(self) -> None:
        """Close the sink, once; records that it has not taken stay counted as queued.

        Closing goes on if the caller is cancelled; a second caller waits for its end.
        """
        if self._closing is None:
            self.stop_blocking()
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    def describe_end(self, *, of_run: bool = True) -> RecordsLeft | None:
        """Return what is left of the records at the end of the sink, None if nothing is.

        `of_run` says whether the run ends with it.
        """
        return self._health.describe_end(self._queue, len(self._delivery), of_run=of_run)

    def health(self) -> SinkInfo:
        """Return the counts of the sink: in records, `retries` in attempts."""
        return self._health.describe(self._queue, len(self._delivery))

    async def _leave_loop_to_others(self) -> None:
        if not self._finishing:
            await self._backoff.pause(self._sink.take_pause())
        if self._finishing:
            await asyncio.get_running_loop().create_future()  # until this task is cancelled

    async def _step(self) -> None:
        """Make the next call, or wait for one to be due; raises only OutputClosedError."""
        try:
            if self._opening.due:
                await self._opening.run()
            elif self._delivery:
                await self._deliver()
            else:
                await self._take_window()
        except OutputClosedError:
            raise
        except Exception as error:  # noqa: BLE001 - a plugin may raise any error
            self._health.report_failure(error)
            await self._backoff.wait()
            self._health.retries += 1

    async def _deliver(self) -> None:
        try:
            await self._delivery.attempt()
            if not self._delivery:
                self._acknowledging = True
                await self._queue.acknowledge()
        finally:
            self._acknowledging = False
            self._update()

    async def _take_window(self) -> None:
        self._signals.work.clear()
        self._delivery.begin(await self._queue.take())
        self._update()
        if not self._delivery:
            await self._signals.work.wait()

    async def _close(self) -> None:
        if self._queue.queued:
            await self._opening.open_queue()  # a spool that was in use takes what is queued
        try:
            await self._sink.close()
        except Exception as error:  # noqa: BLE001 - the other sinks are still to be closed
            self._health.report_close_failure(error)
        try:
            await self._queue.close()
        except OSError as error:
            self._health.report_close_failure(error)
        finally:
            self._closed.set()

    def _end(self) -> None:
        """Stop: the reader of the output has left, so no reader misses the queued records."""
        self._ended = True
        self._health.dropped += self._queue.discard(len(self._delivery))
        self._delivery.discard()
        self._update()
        self._on_output_closed()

    def _update(self) -> None:
        """Bring the signals in line with the queue; the queue calls this when it changes."""
        idle = self._ended or not (self._queue.queued or self._delivery or self._acknowledging)
        self._signals.update(self._queue, idle=idle)


class _Signals:
    """Events that follow the state of a queue; `blocks` if its overflow policy is `block`."""

    def __init__(self, *, blocks: bool) -> None:
        self.blocks = blocks
        self.work = asyncio.Event()
        """Set when a window or a request to reopen has come."""
        self.room = asyncio.Event()
        """Set unless the publisher has to wait."""
        self.idle = asyncio.Event()
        """Set while nothing is queued and nothing in flight."""

    def update(self, queue: WindowQueue, *, idle: bool) -> None:
        """Set and clear the events."""
        _set_if(self.idle, condition=idle)
        _set_if(self.room, condition=not (self.blocks and queue.full))
        if queue.ready:
            self.work.set()


def _set_if(event: asyncio.Event, *, condition: bool) -> None:
    if condition:
        event.set()
    else:
        event.clear()

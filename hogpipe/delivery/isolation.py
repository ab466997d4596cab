"""Calls into a sink, each with a time limit and isolated from the run.

In: a sink. Out: what its methods return or raise, within the limit, and never anything but an
Exception. `IsolatedCalls` makes one call at a time, each in a task of its own, so a sink can do
nothing to the task of its caller:

    the call takes too long          it is cancelled: TimeoutError
    it does not end when cancelled   it is left alone, and the next call waits until it has ended
    it cancels its own task          RuntimeError
    it raises SystemExit or such     RuntimeError

`finish` ends a call that refuses cancellation by closing its coroutine: the event loop could not
end with it. Each call is watched (loop_watch.py): one that blocks the event loop is reported, and
the time limits of other sinks do not count that time. One that blocks it for too long is
interrupted: TimeoutError.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import cast

from hogpipe.delivery.loop_watch import LoopWatch, OnBlocking, WatchedCall
from hogpipe.records.schema import Record
from hogpipe.sinks.contract import Probeable, Reopenable, Sink
from hogpipe.text import describe_error

OPEN_SECONDS = 5.0
"""The time limit of an open or a reopen."""
CLOSE_SECONDS = 0.4
"""The time limit of a close: the end of a run waits for it."""
_CANCEL_SECONDS = 0.1
"""The time that a cancelled call has to end."""


class IsolatedSink:
    """Calls a sink with the time limits of a run; each method raises what the sink raises."""

    def __init__(
        self,
        sink: Sink,
        write_seconds: float,
        watch: LoopWatch | None = None,
        on_blocking: OnBlocking = lambda _place: None,
    ) -> None:
        self._sink = sink
        self._write_seconds = write_seconds
        self._watch = watch or LoopWatch()
        self._calls = IsolatedCalls(self._watch, on_blocking)
        self._opening: asyncio.Task[None] | None = None
        self.opened = False
        self.reopenable = isinstance(sink, Reopenable)

    @property
    def blocked_seconds(self) -> float:
        """For how long the last call has blocked the event loop; 0 if it has not."""
        return self._calls.blocked_seconds

    def take_pause(self) -> float:
        """Return `blocked_seconds`, once for each call: afterwards 0 until the next one."""
        return self._calls.take_pause()

    async def open(self, patience: float | None = None) -> bool:
        """Open the sink; return whether it was open within `patience` seconds.

        If it was not, the call goes on, and a later `open` waits for the same call.
        """
        if self._opening is None:
            opening = self._calls.call(self._sink.open, OPEN_SECONDS)
            self._opening = asyncio.create_task(opening)
        if not await self._watch.wait(self._opening, patience):
            return False
        opened, self._opening = self._opening, None
        opened.result()
        self.opened = True
        return True

    async def probe(self) -> str:
        """Return what the sink connects to; a sink that cannot report it is opened."""
        sink, found = self._sink, "opened"

        async def probe() -> None:
            nonlocal found
            if isinstance(sink, Probeable):
                found = str(await sink.probe())
            else:
                await sink.open()

        await self._calls.call(probe, OPEN_SECONDS)
        return found

    async def write(self, records: Sequence[Record]) -> None:
        """Write records."""
        await self._calls.call(partial(self._sink.write, records), self._write_seconds)

    async def reopen(self) -> None:
        """Reopen the files of the sink, which is `reopenable`."""
        assert isinstance(self._sink, Reopenable)
        await self._calls.call(self._sink.reopen, OPEN_SECONDS)

    async def close(self) -> None:
        """Close the sink, in the middle of any other call."""
        if self._opening is not None:
            self._opening.cancel()
        await self._calls.finish()
        try:
            await self._calls.call(self._sink.close, CLOSE_SECONDS)
        finally:
            await self._calls.finish()


class IsolatedCalls:
    """Runs one call at a time in a task of its own."""

    def __init__(self, watch: LoopWatch, on_blocking: OnBlocking) -> None:
        self._watch = watch
        self._on_blocking = on_blocking
        self._task: asyncio.Task[None] | None = None
        self._last: WatchedCall | None = None
        self._paused_after: WatchedCall | None = None

    @property
    def blocked_seconds(self) -> float:
        """For how long the last call has blocked the event loop; 0 if it has not."""
        return self._last.blocked_seconds if self._last else 0.0

    def take_pause(self) -> float:
        """Return `blocked_seconds`, once for each call."""
        if self._last is self._paused_after:
            return 0.0
        self._paused_after = self._last
        return self.blocked_seconds

    async def call(self, call: Callable[[], Awaitable[None]], seconds: float) -> None:
        """Run `call` within `seconds`; raises its error as in the table of this module.

        It waits first for an earlier call that did not end when it was cancelled.
        """
        if self._task is not None:
            await asyncio.wait({self._task})
        watched = self._last = WatchedCall(
            partial(_contain, call), self._watch, self._on_blocking, seconds
        )
        task = self._task = asyncio.create_task(_await(watched))
        task.add_done_callback(_retrieve_error)
        try:
            if not await self._watch.wait(task, seconds):
                task.cancel()
                if not await self._watch.wait(task, _CANCEL_SECONDS) or task.cancelled():
                    raise TimeoutError(f"it took longer than {seconds:g} s")
        except asyncio.CancelledError:
            task.cancel()
            raise
        if task.cancelled():
            raise RuntimeError("the sink was cancelled from within")
        task.result()

    async def finish(self) -> None:
        """End a call that is still running, by force if it refuses cancellation."""
        task = self._task
        if task is None or task.done():
            return
        task.cancel()
        if not await self._watch.wait(task, _CANCEL_SECONDS):
            with suppress(RuntimeError):  # the coroutine refuses this, too; no means are left
                cast("Coroutine[object, object, None]", task.get_coro()).close()
            task.cancel()
            await self._watch.wait(task, _CANCEL_SECONDS)


async def _await(call: WatchedCall) -> None:
    await call


async def _contain(call: Callable[[], Awaitable[None]]) -> None:
    try:
        await call()
    except (Exception, asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:
        # SystemExit, raised in a task, would end the event loop.
        raise RuntimeError(f"the sink raised {describe_error(error)}") from error


def _retrieve_error(task: asyncio.Task[None]) -> None:
    """Retrieve the error of a call that timed out: asyncio would log it otherwise."""
    if not task.cancelled():
        task.exception()

"""Calls into a sink, each with a time limit and isolated from the run.

In: a sink. Out: what its methods return or raise, within the limit, and never anything but an
Exception. `IsolatedCalls` makes one call at a time, each in a task of its own, so a sink can do
nothing to the task of its caller:

    the call takes too long          it is cancelled: TimeoutError
    it does not end when cancelled   it is left alone, and the next call waits until it has ended
    it cancels its own task          RuntimeError
    it raises SystemExit or such     RuntimeError

`finish` ends a call that refuses cancellation by closing its coroutine: the event loop could not
end with it. Known limit: a sink that blocks the event loop itself blocks the whole run.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import cast

from hogpipe.records.schema import Record
from hogpipe.sinks.contract import Reopenable, Sink
from hogpipe.text import describe_error

OPEN_SECONDS = 5.0
"""The time limit of an open or a reopen."""
CLOSE_SECONDS = 0.4
"""The time limit of a close: the end of a run waits for it."""
_CANCEL_SECONDS = 0.1
"""The time that a cancelled call has to end."""


class IsolatedSink:
    """Calls a sink with the time limits of a run; each method raises what the sink raises."""

    def __init__(self, sink: Sink, write_seconds: float) -> None:
        self._sink = sink
        self._write_seconds = write_seconds
        self._calls = IsolatedCalls()
        self._opening: asyncio.Task[None] | None = None
        self.opened = False
        self.reopenable = isinstance(sink, Reopenable)

    async def open(self, patience: float | None = None) -> bool:
        """Open the sink; return whether it was open within `patience` seconds.

        If it was not, the call goes on, and a later `open` waits for the same call.
        """
        if self._opening is None:
            opening = self._calls.call(self._sink.open, OPEN_SECONDS)
            self._opening = asyncio.create_task(opening)
        await asyncio.wait({self._opening}, timeout=patience)
        if not self._opening.done():
            return False
        opened, self._opening = self._opening, None
        opened.result()
        self.opened = True
        return True

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

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    async def call(self, call: Callable[[], Awaitable[None]], seconds: float) -> None:
        """Run `call` within `seconds`; raises its error as in the table of this module.

        It waits first for an earlier call that did not end when it was cancelled.
        """
        if self._task is not None:
            await asyncio.wait({self._task})
        task = self._task = asyncio.create_task(_contain(call))
        task.add_done_callback(_retrieve_error)
        try:
            await asyncio.wait({task}, timeout=seconds)
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=_CANCEL_SECONDS)
                if not task.done() or task.cancelled():
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
        await asyncio.wait({task}, timeout=_CANCEL_SECONDS)
        if not task.done():
            with suppress(RuntimeError):  # the coroutine refuses this, too; no means are left
                cast("Coroutine[object, object, None]", task.get_coro()).close()
            task.cancel()
            await asyncio.wait({task}, timeout=_CANCEL_SECONDS)


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

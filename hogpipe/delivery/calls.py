"""Calls into a sink, kept at arm's length: a sink may hang, die of anything, or never let go.

Each call has a task of its own, so that what a sink does to its task does nothing to ours. There is
one call at a time: one that was given up is cancelled, and the next waits until it is over.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import cast

from hogpipe.text import describe_error

_LET_GO_SECONDS = 0.1


class Calls:
    """The calls of one sink."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    async def call(self, call: Callable[[], Awaitable[None]], seconds: float) -> None:
        """Have `call` made within `seconds`; raises what it raises, and nothing but Exceptions.

        TimeoutError if it takes longer, RuntimeError for a cancellation that did not come from us
        and for SystemExit and the like.
        """
        if self._task is not None:
            await asyncio.wait({self._task})
        task = self._task = asyncio.create_task(_contain(call))
        task.add_done_callback(_retrieve)
        try:
            await asyncio.wait({task}, timeout=seconds)
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=_LET_GO_SECONDS)
                if not task.done() or task.cancelled():
                    raise TimeoutError(f"it took longer than {seconds:g} s")
        except asyncio.CancelledError:
            task.cancel()
            raise
        if task.cancelled():
            raise RuntimeError("the sink was cancelled from within")
        task.result()

    async def finish(self) -> None:
        """Be done with a call that was given up; it is ended the hard way if need be."""
        task = self._task
        if task is None or task.done():
            return
        task.cancel()
        await asyncio.wait({task}, timeout=_LET_GO_SECONDS)
        if not task.done():
            # It refuses to be cancelled, and the event loop could never end with it.
            with suppress(RuntimeError):  # it refuses this as well, and nothing else is left to do
                cast("Coroutine[object, object, None]", task.get_coro()).close()
            task.cancel()
            await asyncio.wait({task}, timeout=_LET_GO_SECONDS)


async def _contain(call: Callable[[], Awaitable[None]]) -> None:
    try:
        await call()
    except (Exception, asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:
        # SystemExit and the like are a plugin's own; they must not end the run.
        raise RuntimeError(f"the sink raised {describe_error(error)}") from error


def _retrieve(task: asyncio.Task[None]) -> None:
    """Look at the outcome: that of a call that was given up is of no use to anybody."""
    if not task.cancelled():
        task.exception()

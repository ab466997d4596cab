"""A call of a sink's method in a task of its own, cut off as a run cuts it off, or cancelled."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from functools import partial

from hogpipe.testing.case import BrokenPromiseError
from hogpipe.testing.leaks import Traces

HUNG = 60.0
"""Seconds that a call may take while nothing holds it up."""
LET_GO = 5.0
"""Seconds within which a call that is cancelled has to end."""


class Cancelling:
    """Awaits a call and cancels the task that does so, once, at the call's `step`-th await.

    Only those count at which the call really waits.
    """

    def __init__(self, call: Awaitable[None], step: int) -> None:
        self._call = call
        self._step = step
        self.reached = False

    def __await__(self) -> Generator[object, object, None]:
        inner = self._call.__await__()
        resume: Callable[[], object] = partial(next, inner)
        waits = 0
        while True:
            try:
                waited_for = resume()
            except StopIteration:
                return
            waits += 1
            if waits == self._step:
                self.reached = True
                task = asyncio.current_task()
                assert task is not None
                task.cancel()  # takes effect where the next line waits
            try:
                yield waited_for
                resume = partial(next, inner)
            except BaseException as error:  # noqa: BLE001 - it is the call's, whatever it is
                resume = partial(inner.throw, error)


async def perform(
    name: str, call: Awaitable[None], seconds: float, traces: Traces
) -> BaseException | None:
    """Await `call`, for `seconds` at the most; return what it raised, None for nothing.

    TimeoutError stands for a call that had to be cancelled, and let itself be. Raises
    BrokenPromiseError for one that did not.
    """
    task = traces.start(_catch(call))
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=LET_GO)
    if not done:
        raise BrokenPromiseError(f"{name} goes on {LET_GO:g} s after it was cancelled")
    if not task.cancelled():
        if (error := task.result()) is None and task.cancelling():
            raise BrokenPromiseError(f"{name} swallowed a cancellation")
        return error
    if not task.cancelling():
        raise BrokenPromiseError(f"{name} raised CancelledError though nobody cancelled it")
    return TimeoutError("it was cancelled")


async def _catch(call: Awaitable[None]) -> BaseException | None:
    """Return what `call` raises: SystemExit and the like would end the event loop."""
    try:
        await call
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 - a sink may raise whatever it likes
        return error
    return None

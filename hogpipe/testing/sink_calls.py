"""One call of a sink's method, in a task of its own: with a time limit, or cancelled half-way.

In: the coroutine of a call. Out: its error, None for success; BrokenPromiseError for a call that
mishandles cancellation, or that blocks the event loop.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from functools import partial

from hogpipe.delivery.loop_watch import BLOCKING_SECONDS, LoopWatch, Step, WatchedCall
from hogpipe.linux.self_usage import read_run_delay
from hogpipe.testing.case import BrokenPromiseError
from hogpipe.testing.leaks import ResourceMonitor

CALL_SECONDS = 60.0
"""The time limit of a call without trouble."""
CANCEL_SECONDS = 5.0
"""The time limit for a cancelled call to end."""


class CancelAtStep:
    """Awaits a call, and cancels the current task once, at the call's await number `step`.

    Only awaits at which the call suspends are counted.
    """

    def __init__(self, call: Awaitable[None], step: int) -> None:
        self._call = call
        self._step = step
        self.reached = False

    def __await__(self) -> Generator[object, object, None]:
        inner = self._call.__await__()
        resume: Callable[[], object] = partial(next, inner)
        suspensions = 0
        while True:
            try:
                awaited = resume()
            except StopIteration:
                return
            suspensions += 1
            if suspensions == self._step:
                self.reached = True
                task = asyncio.current_task()
                assert task is not None
                task.cancel()  # takes effect at the next line that suspends
            try:
                yield awaited
                resume = partial(next, inner)
            except BaseException as error:  # noqa: BLE001 - passed on to the call
                resume = partial(inner.throw, error)


class _WaitMeter(LoopWatch):
    """Finds steps of one call that wait in the thread of the event loop.

    Neither computing nor waiting for a CPU counts, so that the result does not depend on how fast
    or how busy the machine is.
    """

    def __init__(self) -> None:
        super().__init__()
        self._run_delay = read_run_delay()

    def end(self, step: Step) -> float:
        """End the step; return for how long it waited, 0 if that was not long."""
        elapsed = time.monotonic() - step.started
        if elapsed < BLOCKING_SECONDS:
            return 0.0
        waited = elapsed - (time.thread_time() - step.cpu_seconds)
        waited -= read_run_delay() - self._run_delay
        return waited if waited >= BLOCKING_SECONDS else 0.0


async def call_sink(
    name: str, call: Awaitable[None], seconds: float, monitor: ResourceMonitor
) -> BaseException | None:
    """Await `call` for at most `seconds`; return its error, None for success.

    TimeoutError stands for a call that was cancelled at its time limit. Raises BrokenPromiseError
    for a call that ignores or swallows a cancellation, raises one of its own, or blocks the event
    loop.
    """
    watched = WatchedCall(lambda: call, _WaitMeter(), lambda _place: None, seconds)
    task = monitor.start(_return_error(watched))
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=CANCEL_SECONDS)
    if not done:
        raise BrokenPromiseError(f"{name} goes on {CANCEL_SECONDS:g} s after it was cancelled")
    if watched.blocked_seconds:
        waited = f"{watched.blocked_seconds:.1f} s"
        raise BrokenPromiseError(
            f"{name} blocked the event loop for {waited}; make blocking calls in a thread"
        )
    if not task.cancelled():
        if (error := task.result()) is None and task.cancelling():
            raise BrokenPromiseError(f"{name} swallowed a cancellation")
        return error
    if not task.cancelling():
        raise BrokenPromiseError(f"{name} raised CancelledError though it was not cancelled")
    return TimeoutError("it was cancelled")


async def _return_error(call: Awaitable[None]) -> BaseException | None:
    """Return the error of `call`: SystemExit, raised in a task, would end the event loop."""
    try:
        await call
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 - a sink may raise any error
        return error
    return None

"""Which call of a sink blocks the event loop, and for how long it was blocked.

In: calls of sinks, each awaited through a `WatchedCall`, which measures its steps: what runs on the
loop between two awaits. Out: the place in the code where a step has been running for
`BLOCKING_SECONDS`, reported by a thread while it still runs; and the time for which steps blocked
the loop, by which `wait` extends the time limits of others.

A step that is only slow to get the CPU, or belongs to a suspended process, is no blocking one: the
thread has to see it several times, or it has to use the CPU itself.

Known limits: a task or callback that a sink starts itself is not watched. A step that holds the
interpreter's lock, as some C code does, is reported when it has ended.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from functools import partial

from hogpipe.sinks.plugin_errors import describe_place

BLOCKING_SECONDS = 1.0
_POLL_SECONDS = 0.2
_POLLS = 4  # that see a step before it counts as blocking
_LONG_SECONDS = 0.05  # a step that counts for `blocked_seconds`

OnBlocking = Callable[[str], None]
"""Called with the place in the code, in the thread of the watch or of the loop."""


class LoopWatch:
    """Watches the event loop of the thread that calls `start`, until `stop`."""

    def __init__(self) -> None:
        self.blocked_seconds = 0.0
        """The time that long steps took, so far."""
        self._step: Step | None = None
        self._loop_thread: int | None = None
        self._stopping = threading.Event()

    def start(self) -> None:
        """Start the thread."""
        self._loop_thread = threading.get_ident()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def stop(self) -> None:
        """Have the thread end."""
        self._stopping.set()

    async def wait(self, task: asyncio.Future[None], seconds: float | None) -> bool:
        """Wait until `task` is done; return whether it was within `seconds`.

        Time for which steps of other calls block the loop does not count.
        """
        if seconds is None:
            await asyncio.wait({task})
            return True
        clock = asyncio.get_running_loop().time
        end = clock() + seconds - self.blocked_seconds
        while not task.done() and (left := end + self.blocked_seconds - clock()) > 0:
            await asyncio.wait({task}, timeout=left)
        return task.done()

    def begin(self, on_blocking: OnBlocking) -> "Step":
        """Begin a step of a call."""
        self._step = step = Step(on_blocking)
        return step

    def end(self, step: "Step") -> float:
        """End the step; return for how long it blocked the loop, 0 if that was not long."""
        self._step = None
        elapsed = time.monotonic() - step.started
        if elapsed < _LONG_SECONDS:
            return 0.0
        self.blocked_seconds += elapsed
        cpu_seconds = time.thread_time() - step.cpu_seconds
        if elapsed < BLOCKING_SECONDS or not (step.polls >= _POLLS or cpu_seconds >= elapsed / 2):
            return 0.0
        step.report("")
        return elapsed

    def _watch(self) -> None:
        while not self._stopping.wait(_POLL_SECONDS):
            step = self._step
            if step is None:
                continue
            step.polls += 1
            is_long = time.monotonic() - step.started >= BLOCKING_SECONDS
            if is_long and step.polls >= _POLLS:
                step.report(self._find_place())

    def _find_place(self) -> str:
        frame = sys._current_frames().get(self._loop_thread or 0)  # noqa: SLF001 - documented
        frames = []
        while frame is not None and frame.f_code.co_filename != __file__:
            frames.append((frame.f_code.co_filename, frame.f_lineno))
            frame = frame.f_back
        return describe_place(reversed(frames))


class Step:
    """What a call runs between two awaits."""

    def __init__(self, on_blocking: OnBlocking) -> None:
        self.started = time.monotonic()
        self.cpu_seconds = time.thread_time()
        self.polls = 0
        """How often the thread of the watch has seen the step."""
        self._on_blocking: OnBlocking | None = on_blocking

    def report(self, place: str) -> None:
        """Report the step as blocking, once."""
        report, self._on_blocking = self._on_blocking, None
        if report is not None:
            report(place)


class WatchedCall:
    """Awaits a call of a sink, made when this is awaited, and watches each step of it."""

    def __init__(
        self, call: Callable[[], Awaitable[None]], watch: LoopWatch, on_blocking: OnBlocking
    ) -> None:
        self._call = call
        self._watch = watch
        self._on_blocking = on_blocking
        self.blocked_seconds = 0.0
        """The longest time for which a step of it has blocked the loop, 0 if none has."""

    def __await__(self) -> Generator[object, object, None]:
        inner = self._call().__await__()
        resume: Callable[[], object] = partial(next, inner)
        while True:
            step = self._watch.begin(self._on_blocking)
            try:
                awaited = resume()
            except StopIteration:
                return
            finally:
                self.blocked_seconds = max(self.blocked_seconds, self._watch.end(step))
            try:
                yield awaited
                resume = partial(next, inner)
            except BaseException as error:  # noqa: BLE001 - passed on to the call
                resume = partial(inner.throw, error)

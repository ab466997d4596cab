"""Which code of a plugin blocks the event loop, and for how long it was blocked.

In: calls of sinks, each awaited through a `WatchedCall`, which measures its steps: what runs on the
loop between two awaits. Out: the place in the code where a step has been running for
`BLOCKING_SECONDS`, reported by a thread while it still runs; and the time for which the loop was
blocked, by which `wait` extends the time limits of others.

Tasks and callbacks that a sink starts itself have no steps. So the thread also asks the loop for an
answer (`_Heartbeat`) while that runs anything, and logs the place in a plugin where the loop is
when no answer comes. At level debug the log has the stack of the loop's thread.

A step that blocks for as long as its call may take, or for `MOST_BLOCKING_SECONDS`, is interrupted
where that is possible (interrupter.py): TimeoutError is raised in it, again after some seconds.

Code that is only slow to get the CPU, or belongs to a suspended process, does not block: the thread
has to see it several times, or it has to use the CPU itself.

Known limits: what holds the interpreter's lock, as some C code does, is reported when it has ended,
and only if it is a step of a call. Tasks and callbacks of a sink are not interrupted.
"""

import asyncio
import logging
import selectors
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType

from hogpipe.interrupter import Interrupter
from hogpipe.sinks.plugin_errors import describe_place
from hogpipe.text import printable
from hogpipe.threads import keep_running

log = logging.getLogger(__name__)

BLOCKING_SECONDS = 1.0
MOST_BLOCKING_SECONDS = 10.0
_INTERRUPT_AGAIN_SECONDS = 3.0
_POLL_SECONDS = 0.2
_POLLS = 4  # that see a step before it counts as blocking
_LONG_SECONDS = 0.05  # a step that counts for `blocked_seconds`
_MAX_PLACES = 16  # that are logged
_CALLERS = {__file__, asyncio.events.__file__, asyncio.base_events.__file__}

OnBlocking = Callable[[str], None]
"""Called with the place in the code, in the thread of the watch or of the loop."""


class LoopWatch:
    """Watches the event loop of the thread that calls `start`, until `stop`.

    `interrupter` interrupts that thread; without one, steps are only reported.
    """

    def __init__(self, interrupter: Interrupter | None = None) -> None:
        self._interrupter = interrupter
        self.blocked_seconds = 0.0
        """The time that long steps took, or the loop was without an answer, so far."""
        self._step: Step | None = None
        self._loop_thread = 0
        self._heartbeat: _Heartbeat | None = None
        self._places: set[str] = set()
        """Those of plugins, beside the steps, that are logged."""
        self._stopping = threading.Event()

    def start(self) -> None:
        """Start the thread."""
        self._loop_thread = threading.get_ident()
        self._heartbeat = _Heartbeat(asyncio.get_running_loop(), self._add_blocked)
        watch = partial(keep_running, self._watch)
        threading.Thread(target=watch, name="watch", daemon=True).start()

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

    def begin(self, on_blocking: OnBlocking, seconds: float) -> "Step":
        """Begin a step of a call that may take so long."""
        self._step = step = Step(on_blocking, min(seconds, MOST_BLOCKING_SECONDS))
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
            if (step := self._step) is not None:
                self._watch_step(step)
            elif self._heartbeat is not None:
                self._watch_loop(self._heartbeat)

    def _watch_step(self, step: "Step") -> None:
        step.polls += 1
        elapsed = time.monotonic() - step.started
        if elapsed < BLOCKING_SECONDS or step.polls < _POLLS:
            return
        step.report(describe_place(_list_calls(self._list_frames())))
        if self._interrupter is not None and elapsed >= step.interrupted_after:
            step.interrupted_after = elapsed + _INTERRUPT_AGAIN_SECONDS
            text = f"it blocked the event loop for {elapsed:.0f} s"
            self._interrupter.interrupt(lambda: self._step is step, text)

    def _watch_loop(self, heartbeat: "_Heartbeat") -> None:
        frames = self._list_frames()
        is_waiting = [frame.f_code.co_filename for frame in frames] == [selectors.__file__]
        if heartbeat.poll(self.blocked_seconds, is_waiting=is_waiting):
            self._report_loop(frames)

    def _add_blocked(self, seconds: float) -> None:
        self.blocked_seconds += seconds

    def _report_loop(self, frames: Sequence[FrameType]) -> None:
        calls = _list_calls(frames)
        place = describe_place(calls)
        if place in self._places or len(self._places) >= _MAX_PLACES:
            return
        self._places.add(place)
        # Without a plugin it is the host that is slow, or what a window of very many flows takes.
        log.log(
            logging.ERROR if place else logging.INFO,
            "%s the event loop%s, and so delays the whole run%s",
            "a plugin blocks" if place else "something delays",
            place,
            "; make its blocking calls in a thread" if place else "",
        )
        stack = " > ".join(f"{printable(Path(file).name)}:{line}" for file, line in calls)
        log.debug("the event loop is at: %s", stack)

    def _list_frames(self) -> list[FrameType]:
        """Return what the event loop has called, or a step of a call, the outermost first."""
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - documented
        frames = []
        while frame is not None and frame.f_code.co_filename not in _CALLERS:
            frames.append(frame)
            frame = frame.f_back
        frames.reverse()
        return frames


def _list_calls(frames: Sequence[FrameType]) -> list[tuple[str, int]]:
    """Return the file and the line of each call."""
    return [(frame.f_code.co_filename, frame.f_lineno) for frame in frames]


class _Heartbeat:
    """Asks an event loop for an answer while it runs something; for the thread of the watch.

    `on_late` is called on the loop with the seconds that a late answer took.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_late: Callable[[float], None]) -> None:
        self._loop = loop
        self._on_late = on_late
        self._question: _Question | None = None
        """The last one."""
        self._known_blocked = 0.0

    def poll(self, blocked_seconds: float, *, is_waiting: bool) -> bool:
        """Return whether the loop is late with its answer, once for each.

        `blocked_seconds` are those of steps, which are reported as such: the time of the answer
        counts from the end of the last one. A loop that `is_waiting` for events is not asked.
        """
        question, known_blocked = self._question, self._known_blocked
        self._known_blocked = blocked_seconds
        if question is None or question.is_answered:
            self._question = None
            if not is_waiting and not self._loop.is_closed():
                self._question = _Question()
                self._loop.call_soon_threadsafe(self._answer, self._question)
            return False
        if blocked_seconds != known_blocked:
            question.since, question.polls = time.monotonic(), 0
            return False
        question.polls += 1
        late = time.monotonic() - question.since >= BLOCKING_SECONDS and question.polls >= _POLLS
        if not late or question.is_late:
            return False
        question.is_late = True
        return True

    def _answer(self, question: "_Question") -> None:
        question.is_answered = True
        if question.is_late:
            self._on_late(time.monotonic() - question.since)


class _Question:
    """The loop sets `is_answered`, the thread of the watch all else."""

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.polls = 0
        self.is_late = self.is_answered = False


class Step:
    """What a call runs between two awaits."""

    def __init__(self, on_blocking: OnBlocking, interrupted_after: float) -> None:
        self.interrupted_after = interrupted_after
        """Seconds from its start."""
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
    """Awaits a call of a sink, made when this is awaited, and watches each step of it.

    The call may take `seconds`.
    """

    def __init__(
        self,
        call: Callable[[], Awaitable[None]],
        watch: LoopWatch,
        on_blocking: OnBlocking,
        seconds: float,
    ) -> None:
        self._call = call
        self._seconds = seconds
        self._watch = watch
        self._on_blocking = on_blocking
        self.blocked_seconds = 0.0
        """The longest time for which a step of it has blocked the loop, 0 if none has."""

    def __await__(self) -> Generator[object, object, None]:
        inner = self._call().__await__()
        resume: Callable[[], object] = partial(next, inner)
        while True:
            step = self._watch.begin(self._on_blocking, self._seconds)
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

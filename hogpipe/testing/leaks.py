"""What a sink does to its surroundings: what it leaves behind, and how long it holds up the loop.

Left behind are tasks, threads and file descriptors.

A task counts if it was begun by the sink or on its behalf, however indirectly: they all run in a
context that says so. Threads and descriptors cannot be told from others, so it counts how many
there are more than before; a receiver in the same process has to let go of a connection that the
sink closed.
Threads of the event loop's own executor stay and do not count.
"""

import asyncio
import contextvars
import threading
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar
from weakref import WeakSet

from hogpipe.linux.self_usage import read_descriptors
from hogpipe.testing.case import BrokenPromiseError

_LOOP_THREADS = "asyncio_"
_LOOK = 0.01  # seconds between two looks whether something is gone

T = TypeVar("T")

_of_the_sink: contextvars.ContextVar[bool] = contextvars.ContextVar("of_the_sink", default=False)


class Traces:
    """What has been there since it was made, and is there still."""

    def __init__(self) -> None:
        self.tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        self._threads = frozenset(threading.enumerate())
        self._descriptors = read_descriptors()
        self.longest_block = 0.0
        """Seconds for which the event loop was held up, while it was watched."""

    def start(
        self, call: Coroutine[object, object, BaseException | None]
    ) -> asyncio.Task[BaseException | None]:
        """Run a call of the sink's in a task; what it begins is noted."""
        context = contextvars.copy_context()
        context.run(_of_the_sink.set, True)
        return asyncio.get_running_loop().create_task(call, context=context)

    def left(self) -> list[str]:
        """Return a line for each thing that is there beyond what was there before."""
        tasks = [f"a task ({task.get_coro()!r})" for task in self.tasks if not task.done()]
        now = set(threading.enumerate())
        gone = len(self._threads - now)  # a receiver that was started anew has new ones
        threads = [
            f"a thread ({thread.name})"
            for thread in now - self._threads
            if not thread.name.startswith(_LOOP_THREADS)
        ]
        more = Counter(read_descriptors()) - Counter(self._descriptors)
        descriptors = [
            f"{count} more of the file descriptor {kind}" for kind, count in more.items()
        ]
        return [*tasks, *threads[gone:], *descriptors]

    @asynccontextmanager
    async def watching_the_loop(self) -> AsyncIterator[None]:
        """Note for how long nothing else gets its turn within this context."""
        watch = asyncio.create_task(self._watch())
        await asyncio.sleep(0)
        try:
            yield
        finally:
            await asyncio.sleep(0)  # it may be due
            watch.cancel()
            await asyncio.wait({watch})

    async def _watch(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due = clock() + _LOOK
            await asyncio.sleep(_LOOK)
            self.longest_block = max(self.longest_block, clock() - due)

    async def expect_nothing_left(self, patience: float) -> None:
        """Wait until nothing is left; raises BrokenPromiseError after `patience` seconds."""
        clock = asyncio.get_running_loop().time
        end = clock() + patience
        while (left := self.left()) and clock() < end:  # noqa: ASYNC110 - nobody tells when
            await asyncio.sleep(_LOOK)
        if left:
            raise BrokenPromiseError(f"after the sink was closed there is still {', '.join(left)}")


@contextmanager
def noting_tasks(traces: Traces) -> Iterator[None]:
    """Note in `traces` what is begun on a sink's behalf; a task factory of the loop's rests."""
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()

    def make(
        loop: asyncio.AbstractEventLoop,
        call: Coroutine[Any, Any, T] | Generator[Any, None, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Future[T]:
        task = asyncio.Task(call, loop=loop, name=name, context=context)
        if _of_the_sink.get():
            traces.tasks.add(task)
        return task

    loop.set_task_factory(make)
    try:
        yield
    finally:
        loop.set_task_factory(before)

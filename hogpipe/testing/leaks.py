"""What a sink leaks: resources after its close, secrets in errors and logs, time of the event loop.

`ResourceMonitor` counts tasks, threads and file descriptors. A task counts if the sink created it,
however indirectly: calls of the sink run in a context that marks it. Threads and descriptors cannot
be assigned, so their number is compared with that before; a receiver in the same process has to
close its end of a connection that the sink closed. Threads of the event loop's own executor do not
count.

A leak raises BrokenPromiseError.
"""

import asyncio
import contextvars
import logging
import threading
from collections import Counter
from collections.abc import AsyncIterator, Collection, Coroutine, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar
from weakref import WeakSet

from hogpipe.linux.self_usage import read_descriptors
from hogpipe.testing.case import BrokenPromiseError

_LOOP_THREADS = "asyncio_"
_POLL_SECONDS = 0.01

T = TypeVar("T")

_of_the_sink: contextvars.ContextVar[bool] = contextvars.ContextVar("of_the_sink", default=False)


class ResourceMonitor:
    """The resources that exist when it is made, and those that a sink adds."""

    def __init__(self) -> None:
        self.tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        self._threads = frozenset(threading.enumerate())
        self._descriptors = read_descriptors()
        self.longest_block = 0.0
        """The longest time in seconds for which the event loop was blocked while measured."""

    def start(
        self, call: Coroutine[object, object, BaseException | None]
    ) -> asyncio.Task[BaseException | None]:
        """Run a call of the sink in a task whose context marks further tasks as the sink's."""
        context = contextvars.copy_context()
        context.run(_of_the_sink.set, True)
        return asyncio.get_running_loop().create_task(call, context=context)

    def find_leaks(self) -> list[str]:
        """Return a line for each resource that was not there before."""
        tasks = [f"a task ({task.get_coro()!r})" for task in self.tasks if not task.done()]
        now = set(threading.enumerate())
        ended = len(self._threads - now)  # a restarted receiver has other threads
        threads = [
            f"a thread ({thread.name})"
            for thread in now - self._threads
            if not thread.name.startswith(_LOOP_THREADS)
        ]
        more = Counter(read_descriptors()) - Counter(self._descriptors)
        descriptors = [
            f"{count} more of the file descriptor {kind}" for kind, count in more.items()
        ]
        return [*tasks, *threads[ended:], *descriptors]

    async def expect_no_leaks(self, patience: float) -> None:
        """Wait until there is no leak; raises BrokenPromiseError after `patience` seconds."""
        clock = asyncio.get_running_loop().time
        end = clock() + patience
        while (leaks := self.find_leaks()) and clock() < end:  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(_POLL_SECONDS)
        if leaks:
            raise BrokenPromiseError(f"after the sink was closed there is still {', '.join(leaks)}")

    @asynccontextmanager
    async def measure_blocking(self) -> AsyncIterator[None]:
        """Measure for how long other tasks do not run within this context."""
        measuring = asyncio.create_task(self._measure_blocking())
        await asyncio.sleep(0)
        try:
            yield
        finally:
            await asyncio.sleep(0)  # the measuring task may be due
            measuring.cancel()
            await asyncio.wait({measuring})

    async def _measure_blocking(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due = clock() + _POLL_SECONDS
            await asyncio.sleep(_POLL_SECONDS)
            self.longest_block = max(self.longest_block, clock() - due)


@contextmanager
def tracking_tasks(monitor: ResourceMonitor) -> Iterator[None]:
    """Add the tasks of a sink to `monitor`; replaces the task factory of the event loop."""
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
            monitor.tasks.add(task)
        return task

    loop.set_task_factory(make)
    try:
        yield
    finally:
        loop.set_task_factory(before)


def check_secrets(text: str, secrets: Collection[str], where: str) -> None:
    """Raise BrokenPromiseError if `text` contains one of `secrets`; the message does not."""
    for secret in secrets:
        if secret in text:
            place = text.partition(secret)[0][-40:]
            raise BrokenPromiseError(f"{where} discloses a secret, after {place!r}")


@contextmanager
def checking_log(secrets: Collection[str]) -> Iterator[None]:
    """Raise BrokenPromiseError at the end if a secret was logged at any level, as by `-vv`."""
    if not secrets:
        yield
        return
    collector, root = _LogCollector(), logging.getLogger()
    level = root.level
    root.addHandler(collector)
    root.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(collector)
    for name, text in collector.lines:
        check_secrets(text, secrets, f"the log of {name}")


class _LogCollector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.name, self.format(record)))

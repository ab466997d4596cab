"""Keeps the descriptions of processes in use current: exec, and moves to another control group.

In: the processes that have traffic. Out: current descriptions in the cache of a `ProcessReader`,
and a call whenever one has changed, whoever read it.

Every `_INTERVAL` seconds the processes that had traffic within `_IDLE_SECONDS` are checked
(`ProcessReader.check`: two short files of each), in an executor, for at most `_MAX_ROUND_SECONDS`.
Those left over come first in the next round. So the cost follows the processes in use and has a
bound, one percent of a core.

A process is checked for some time after its last traffic because it may execute another program
between a request and the answer.

Known limits: traffic of the first half second after exec, or more if hundreds of processes are in
use, is recorded with the former description. So is that of a process which was idle for longer than
`_IDLE_SECONDS`, until the next round.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Executor
from contextlib import suppress

from hogpipe.enrichment.processes import ProcessReader
from hogpipe.linux.procfs import ProcessIdentity
from hogpipe.model import Process

_INTERVAL = 0.5
_MAX_ROUND_SECONDS = 0.005
_IDLE_SECONDS = 60.0
_MAX_PROCESSES = 4096


class ProcessRefresher:
    """Checks the processes that `list_processes` returns, in `executor`; `run` must be running.

    `on_change` is called after a round in which the description of any process has changed.
    `clock` is in seconds.
    """

    def __init__(
        self,
        reader: ProcessReader,
        executor: Executor,
        list_processes: Callable[[], Iterable[Process]],
        on_change: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = reader
        self._executor = executor
        self._list_processes = list_processes
        self._on_change = on_change
        self._clock = clock
        self._in_use: dict[ProcessIdentity, float] = {}
        """When each had traffic last; the one that was checked longest ago comes first."""
        self._exited: set[ProcessIdentity] = set()
        """Those that `list_processes` may still return."""
        self._changes = reader.changes

    async def run(self) -> None:
        """Check the processes in use at intervals, until cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL)
            await self.check()

    async def check(self) -> None:
        """Check the processes in use once."""
        self._update_in_use()
        if self._in_use:
            loop = asyncio.get_running_loop()
            lives = await loop.run_in_executor(self._executor, self._check, list(self._in_use))
            for process, is_alive in lives.items():
                used_at = self._in_use.pop(process)
                if is_alive:
                    self._in_use[process] = used_at  # last, as it was checked last
                else:
                    self._exited.add(process)
        if self._reader.changes != self._changes:
            self._changes = self._reader.changes
            self._on_change()

    def _update_in_use(self) -> None:
        """Add the processes that have traffic, and evict those that have had none for long."""
        now = self._clock()
        listed = {
            ProcessIdentity(process.pid, process.start)
            for process in self._list_processes()
            if process.start is not None
        }
        self._exited &= listed
        self._in_use.update(dict.fromkeys(listed - self._exited, now))
        for process, used_at in list(self._in_use.items()):
            if now - used_at > _IDLE_SECONDS or len(self._in_use) > _MAX_PROCESSES:
                del self._in_use[process]

    def _check(self, processes: Collection[ProcessIdentity]) -> dict[ProcessIdentity, bool]:
        """Return of as many processes as there is time for whether they live (executor)."""
        lives: dict[ProcessIdentity, bool] = {}
        ends = time.thread_time() + _MAX_ROUND_SECONDS
        for process in processes:
            lives[process] = True
            with suppress(OSError):  # descriptors are short: the next round reads it
                lives[process] = self._reader.check(process, self._clock())
            if time.thread_time() >= ends:
                break
        return lives

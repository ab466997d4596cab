"""Notices the exits of processes, through pidfds in one epoll instance.

In: processes to watch. Out: for each a `WatchedProcess`, which has the time of the exit once `poll`
has seen that. Nothing raises: a process that cannot be watched (descriptors are short, the kernel
refuses, `procfs` shows the pids of another pid namespace) never seems to exit.

A watched process costs nothing until it exits. At most `max_watched` are watched; the one watched
longest is dropped for the next one.

Known limits: the time is that of `poll`, so it is a little later than the exit.
"""

import os
import select
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import msgspec

from hogpipe.linux.procfs import ProcessIdentity, parse_stat

_MAX_WATCHED = 256


class WatchedProcess(msgspec.Struct, eq=False, gc=False):
    """A process, and when it was seen to have exited."""

    exited_ns: int | None = None
    """Nanoseconds since the epoch; None while it lives, as far as `poll` has seen."""


class ProcessExits:
    """Watches processes of `procfs`; `clock_ns` is the clock of the packets.

    For one thread at a time.
    """

    def __init__(
        self,
        procfs: Path,
        *,
        max_watched: int = _MAX_WATCHED,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._procfs = procfs
        self._can_watch: bool | None = None
        """Whether `procfs` shows the pids by which pidfds are opened; None until that is needed."""
        self._max_watched = max_watched
        self._clock_ns = clock_ns
        self._watched: OrderedDict[ProcessIdentity, tuple[int, WatchedProcess]] = OrderedDict()
        """The pidfd of each; the process watched longest comes first."""
        self._by_pidfd: dict[int, ProcessIdentity] = {}
        self._epoll: select.epoll | None = None

    def watch(self, process: ProcessIdentity) -> WatchedProcess:
        """Watch a process, and return the same object for the same process while it is watched."""
        known = self._watched.get(process)
        if known is not None:
            return known[1]
        watched = WatchedProcess()
        try:
            pidfd = self._open(process)
            if pidfd is not None:
                self._add(process, pidfd, watched)
        except ProcessLookupError:
            watched.exited_ns = self._clock_ns()
        except OSError:
            pass  # it cannot be watched
        return watched

    def poll(self) -> list[ProcessIdentity]:
        """Record the exits until now, and return the processes that have exited."""
        if not self._by_pidfd or self._epoll is None:
            return []
        exited = [self._by_pidfd[pidfd] for pidfd, _events in self._epoll.poll(0)]
        for process in exited:
            self._watched[process][1].exited_ns = self._clock_ns()
            self._drop(process)
        return exited

    def close(self) -> None:
        """Watch nothing any more. May be called again."""
        for process in list(self._watched):
            self._drop(process)
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None

    def _open(self, process: ProcessIdentity) -> int | None:
        """Return a pidfd of exactly this process, None if `procfs` has other pids.

        Raises ProcessLookupError if the process has exited, OSError if it cannot be watched.
        """
        if self._can_watch is None:
            self._can_watch = _shows_own_pids(self._procfs)
        if not self._can_watch:
            return None
        pidfd = os.pidfd_open(process.pid)
        if _read_start(self._procfs, process.pid) == process.start:
            return pidfd
        os.close(pidfd)
        raise ProcessLookupError

    def _add(self, process: ProcessIdentity, pidfd: int, watched: WatchedProcess) -> None:
        try:
            if self._epoll is None:
                self._epoll = select.epoll()
            self._epoll.register(pidfd, select.EPOLLIN)
        except BaseException:
            os.close(pidfd)
            raise
        self._watched[process] = pidfd, watched
        self._by_pidfd[pidfd] = process
        if len(self._watched) > self._max_watched:
            self._drop(next(iter(self._watched)))

    def _drop(self, process: ProcessIdentity) -> None:
        pidfd, _watched = self._watched.pop(process)
        del self._by_pidfd[pidfd]
        assert self._epoll is not None
        self._epoll.unregister(pidfd)
        os.close(pidfd)


def _shows_own_pids(procfs: Path) -> bool:
    """Return whether the pids of `procfs` are those by which this process opens pidfds."""
    try:
        return str((procfs / "self").readlink()) == str(os.getpid())
    except OSError:
        return False


def _read_start(procfs: Path, pid: int) -> int | None:
    """Return the start time of a process in clock ticks since boot, None if it has exited."""
    try:
        return parse_stat((procfs / str(pid) / "stat").read_bytes()).start
    except (OSError, ValueError):
        return None

"""Process start times by pid, as of a moment: with its start, a pid identifies one process.

In: a pid that the kernel recorded, and when (nanoseconds since boot). Out: that process's
/proc/PID/stat, or None where the process cannot be identified.

Algorithm
---------
/proc/PID/stat is read when a pid first occurs, and at most once a second after that. A process that
started later than the moment asked about is another one with a reused pid. Once a process is gone,
what was read before stays valid for moments up to ten seconds after it was last seen, as long as
its pid cannot have been reused: the kernel hands out pids in sequence, so that takes nearly as many
forks as there are pids. A storm of forks gets there within seconds.

Known limits: a process that exits before its pid is first looked up is not identified (`missed`).
"""

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from hogpipe.linux.clocks import TICK_NS, boot_clock
from hogpipe.linux.procfs import ProcessStat, parse_stat

_RECHECK_SECONDS = 1.0
_REUSE_NS = 10_000_000_000
_FORKS_SECONDS = 0.25
_FEWEST_PIDS = 32_768  # of a host, unless pid_max is lowered (PID_MAX_DEFAULT, linux/threads.h)
_MAX_PROCESSES = 8192
# PROC_PID_INIT_INO of include/linux/proc_ns.h: the inode of the host's own pid namespace.
_HOST_PID_NAMESPACE = 0xEFFFFFFC


def shows_host_pids(procfs: Path) -> bool:
    """Return whether a procfs shows the host's own pids, which the BPF programs record.

    If its process 1 may not be examined, the reader's own pid namespace decides. Also True for a
    /proc without namespaces.
    """
    for process in ("1", "self"):
        try:
            return (procfs / process / "ns" / "pid").stat().st_ino == _HOST_PID_NAMESPACE
        except PermissionError:
            continue
        except OSError:
            break
    return True


class _ForkCounter:
    """The number of forks since boot, read at most four times a second (proc(5), stat)."""

    def __init__(self, procfs: Path) -> None:
        self._procfs = procfs
        self.until_reuse = self._read_pids() // 2
        """So many forks reuse no pid, if no more than half of all pids are in use."""
        self._forks = 0
        self._read_at = -math.inf

    def count(self, now: float) -> int:
        """Return the number; the one before if it cannot be read, as in a recorded tree."""
        if now - self._read_at >= _FORKS_SECONDS:
            self._read_at = now
            with suppress(OSError, ValueError):
                text = (self._procfs / "stat").read_bytes().partition(b"\nprocesses ")[2]
                self._forks = int(text.partition(b"\n")[0])
        return self._forks

    def _read_pids(self) -> int:
        try:
            return int((self._procfs / "sys" / "kernel" / "pid_max").read_bytes())
        except (OSError, ValueError):
            return _FEWEST_PIDS


class _CachedStat(msgspec.Struct, eq=False, gc=False):
    stat: ProcessStat | None
    """None if the process has never been read."""
    seen_ns: int
    """When the process last existed, nanoseconds since boot."""
    read_at: float
    """When /proc was last read for it, by the caller's clock."""
    forks: int
    """The number of forks when it last existed."""


class ProcessStarts:
    """A cache of /proc/PID/stat for a procfs that shows the host's pids. Safe from any thread.

    `boot_clock` returns nanoseconds since boot, by the clock of the kernel's events.
    """

    def __init__(self, procfs: Path, boot_clock: Callable[[], int] = boot_clock) -> None:
        self._root = os.fsencode(procfs)
        self._forks = _ForkCounter(procfs)
        self._boot_clock = boot_clock
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, _CachedStat] = OrderedDict()
        """By pid; the least recently read first."""
        self.missed = 0
        """Processes that were gone before they could be read; the number only grows."""

    def find(self, pid: int, boot_ns: int, now: float) -> ProcessStat | None:
        """Return the process that had `pid` at `boot_ns` nanoseconds since boot, None if unknown.

        `now` is the caller's clock in seconds.
        """
        cached = self._cache.get(pid)
        if cached is not None and now - cached.read_at < _RECHECK_SECONDS:
            return self._as_of(cached, boot_ns)
        fresh = self._read(pid, cached or _CachedStat(None, 0, now, 0), now)
        found = self._as_of(fresh, boot_ns)
        if cached is None or fresh.stat is not None:
            self.missed += found is None and fresh.seen_ns < boot_ns
        return found

    def add(self, pid: int, stat: ProcessStat, seen_ns: int, now: float) -> None:
        """Add a stat that was read elsewhere, `seen_ns` nanoseconds since boot."""
        self._store(pid, _CachedStat(stat, seen_ns, now, self._forks.count(now)))

    def _read(self, pid: int, cached: _CachedStat, now: float) -> _CachedStat:
        seen_ns, stat, forks = self._boot_clock(), self._read_stat(pid), self._forks.count(now)
        if stat is None:
            may_be_reused = forks - cached.forks >= self._forks.until_reuse
            stat = None if may_be_reused else cached.stat
            seen_ns, forks = cached.seen_ns, cached.forks
        return self._store(pid, _CachedStat(stat, seen_ns, now, forks))

    def _store(self, pid: int, fresh: _CachedStat) -> _CachedStat:
        """Cache `fresh`, unless another thread has seen the process later."""
        with self._lock:
            before = self._cache.pop(pid, None)
            if before is not None and before.seen_ns > fresh.seen_ns:
                fresh = before
            self._cache[pid] = fresh
            if len(self._cache) > _MAX_PROCESSES:
                self._cache.popitem(last=False)
        return fresh

    def _as_of(self, cached: _CachedStat, boot_ns: int) -> ProcessStat | None:
        """Return the cached process, unless another one may have had its pid at that moment."""
        if cached.stat is None or cached.stat.start * TICK_NS > boot_ns:
            return None
        return cached.stat if boot_ns - cached.seen_ns < _REUSE_NS else None

    def _read_stat(self, pid: int) -> ProcessStat | None:
        try:
            with open(b"%b/%d/stat" % (self._root, pid), "rb", buffering=0) as file:  # noqa: PTH123 (bytes)
                return parse_stat(file.read())
        except (OSError, ValueError):
            return None  # gone, hidden (hidepid) or malformed: counted as `missed`

"""Reads the ancestors of processes: who started them.

In: the pid of a parent, with the start time of its child. Out: `Ancestor`s, the parent first, as
many as asked for; fewer where one has exited, or is outside of what /proc shows.

A parent is never younger than its child. A process that is has the pid of a parent that has exited,
and is left out with all beyond it.

Costs: a short file for each ancestor; its executable is read once, and again after exec.

Known limits: the kernel gives the children of a process that exits another parent (init, or a
subreaper such as a systemd of a user). So of a process that is read only after its parent has
exited, the parent is that one, as of every daemon that detaches itself.
"""

import threading
from collections import OrderedDict

from hogpipe.linux.procfs import ProcessStat, Procfs
from hogpipe.model import Ancestor

_MAX_CACHED = 1024
_Key = tuple[int, int, int, str]


class AncestorReader:
    """Reads ancestors, and caches the `_MAX_CACHED` that were used last. Safe from any thread."""

    def __init__(self, procfs: Procfs) -> None:
        self._procfs = procfs
        self._cache: OrderedDict[_Key, Ancestor] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, parent_pid: int, start: int, most: int) -> tuple[Ancestor, ...]:
        """Return at most `most` ancestors of a process that started at `start`."""
        found: list[Ancestor] = []
        while parent_pid and len(found) < most:
            stat = self._procfs.read_stat(parent_pid)
            if stat is None or stat.start > start:
                break
            found.append(self._describe(parent_pid, stat))
            parent_pid, start = stat.parent_pid, stat.start
        return tuple(found)

    def _describe(self, pid: int, stat: ProcessStat) -> Ancestor:
        # exec begins another stack, and keeps pid and start.
        key = pid, stat.start, stat.stack_start, stat.command
        known = self._cache.get(key)
        if known is None:
            known = Ancestor(pid, stat.start, stat.command, self._procfs.read_executable(pid))
            if known.executable is None and not stat.is_kernel_thread:
                return known  # it exits, or may not be read yet
        with self._lock:
            self._cache[key] = known
            self._cache.move_to_end(key)
            if len(self._cache) > _MAX_CACHED:
                self._cache.popitem(last=False)
        return known

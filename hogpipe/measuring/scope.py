"""Whose traffic is measured: a process, with or without its children, or a control group.

In: pids and control groups, as the kernel records them of who uses a socket. Out: whether they
belong to the scope, and the processes that do now.

`TreeScope` follows forks as the kernel reports them. Where it does not (process_forks.py), the
children are those that /proc shows when the scope is asked.
"""

import errno
import os
import select
from collections import defaultdict
from threading import Lock
from typing import Protocol

from hogpipe.linux.cgroups import CgroupTree
from hogpipe.linux.fork_messages import Fork
from hogpipe.linux.process_forks import ForkReports
from hogpipe.linux.procfs import Procfs
from hogpipe.measuring.process_tree import ProcessTree
from hogpipe.text import printable

_MAX_GROUPS = 1 << 16
_NO_PROCESS = frozenset({errno.ESRCH, errno.EINVAL, errno.ENOENT})


class Scope(Protocol):
    """Whose traffic is measured. For one thread at a time."""

    follows_children: bool
    """Whether no child can be missed."""

    def refresh(self) -> None:
        """Learn of the processes that were made until now."""

    def list_processes(self) -> list[int]:
        """Return the pids of the processes that belong to it now, and perhaps did before."""

    def includes(self, pid: int, cgroup: int, boot_ns: int) -> bool:
        """Return whether a process belonged to it when it used a socket."""

    def includes_path(self, pid: int, parent_pid: int | None, cgroup: str | None) -> bool:
        """Return whether a process of a record belongs to it."""

    @property
    def lost_forks(self) -> int:
        """How often reports of new processes were lost."""

    def is_running(self) -> bool:
        """Return whether the process, if it is one, still runs."""

    def close(self) -> None:
        """Release what it holds. May be called again."""


class TreeScope:
    """A process, and with `children` all that descend from it.

    Raises ProcessLookupError if there is no such process.
    """

    def __init__(self, pid: int, procfs: Procfs, *, children: bool) -> None:
        self._procfs = procfs
        self._children = children
        self._lock = Lock()
        self._pidfd = _open_process(pid)
        self._tree = ProcessTree([pid], children=children, is_alive=self._is_alive)
        self._reports: ForkReports | None = None
        self.follows_children = True
        if children:
            try:
                self._reports = ForkReports(self._ingest)
            except OSError:
                self.follows_children = False  # as `Traffic` says
            self._add_descendants()

    def refresh(self) -> None:
        """Handle what the kernel has reported, or read /proc."""
        if self._reports is not None:
            self._reports.drain()
        elif self._children:
            self._add_descendants()

    def list_processes(self) -> list[int]:
        """Return the pids of all members so far, except those that were reused."""
        with self._lock:
            return self._tree.pids

    def includes(self, pid: int, cgroup: int, boot_ns: int) -> bool:
        """Return whether a pid was that of a member."""
        del cgroup
        with self._lock:
            return self._tree.includes(pid, boot_ns)

    def includes_path(self, pid: int, parent_pid: int | None, cgroup: str | None) -> bool:
        """Return whether a pid is or was that of a member, or of a child of one."""
        del cgroup
        with self._lock:
            is_child = parent_pid is not None and self._tree.knows(parent_pid)
            if self._children and self._reports is None and is_child:
                self._tree.add(pid)
                return True
            return self._tree.knows(pid)

    @property
    def lost_forks(self) -> int:
        """How often reports were lost."""
        return 0 if self._reports is None else self._reports.lost

    def is_running(self) -> bool:
        """Return whether the process itself still runs."""
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        return not poller.poll(0)

    def close(self) -> None:
        """Follow no forks any more."""
        if self._reports is not None:
            self._reports.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _ingest(self, fork: Fork) -> None:
        with self._lock:
            self._tree.ingest(fork)

    def _add_descendants(self) -> None:
        """Add the descendants that /proc shows."""
        children = defaultdict(list)
        for pid in self._procfs.list_pids():
            stat = self._procfs.read_stat(pid)
            if stat is not None:
                children[stat.parent_pid].append(pid)
        with self._lock:
            waiting = self._tree.pids
            while waiting:
                for child in children.pop(waiting.pop(), ()):
                    self._tree.add(child)
                    waiting.append(child)

    def _is_alive(self, pid: int) -> bool:
        return self._procfs.read_stat(pid) is not None


def _open_process(pid: int) -> int:
    """Return a descriptor of a process. Raises ProcessLookupError if there is none."""
    try:
        return os.pidfd_open(pid)
    except (OSError, OverflowError) as error:
        # Of a thread that is not the first one of its process, the kernel says EINVAL or ENOENT.
        known = isinstance(error, OverflowError) or error.errno in _NO_PROCESS
        if not known:
            raise
        raise ProcessLookupError(f"there is no process with the pid {pid}") from error


class CgroupScope:
    """A control group (v2) and those below it. Raises BpfUnavailableError, FileNotFoundError.

    `path` is that of the group in the tree, or of its folder.

    Known limit: a group below it that is made and removed between two readings of the kernel's
    counters is not recognised.
    """

    follows_children = True
    lost_forks = 0

    def __init__(self, path: str, procfs: Procfs) -> None:
        self._procfs = procfs
        self._tree = CgroupTree()
        root = os.fspath(self._tree.root)
        # Two slashes at the beginning stay two.
        self._path = os.path.normpath("/" + path.removeprefix(root).lstrip("/"))
        self._known: dict[int, bool] = {}
        if not self._tree.has_group(self._path):
            self.close()
            name = printable(self._path)
            raise FileNotFoundError(f"there is no control group {name} below {root}")

    def refresh(self) -> None:
        """Learn the ids of the groups, which have no path any more once they are removed."""
        if len(self._known) > _MAX_GROUPS:
            self._known.clear()
        self._known |= dict.fromkeys(self._tree.list_groups(self._path), True)

    def list_processes(self) -> list[int]:
        """Return the pids of the processes in the group and in those below it."""
        return self._tree.list_processes(self._path)

    def includes(self, pid: int, cgroup: int, boot_ns: int) -> bool:
        """Return whether a control group is this one or below it."""
        del pid, boot_ns
        if cgroup not in self._known:
            path = self._tree.path_of(cgroup)
            if path is None:
                return False  # it is gone, or outside of the tree that is visible here
            self._known[cgroup] = self._is_below(path)
        return self._known[cgroup]

    def includes_path(self, pid: int, parent_pid: int | None, cgroup: str | None) -> bool:
        """Return whether the path of a control group is this one's or below it."""
        del pid, parent_pid
        return cgroup is not None and self._is_below(cgroup)

    def is_running(self) -> bool:
        """Return whether any process is in the group."""
        return bool(self.list_processes())

    def close(self) -> None:
        """Close the tree."""
        self._tree.close()

    def _is_below(self, path: str) -> bool:
        return self._path in {"/", path} or path.startswith(f"{self._path}/")

"""PURE: the known fds of all processes, and an index from socket inodes to the fds that hold them.

A thread whose fds are not in the table of its process's first thread is an entry of its own, under
the thread's id: processes and threads have their ids from one range of numbers.

Lookups of `FdCache` are numbered. Fields that are named `last_…` hold the number of a lookup.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterator

import msgspec

from hogpipe.linux.procfs import FdDirectory, ProcessIdentity

FdReference = tuple[int, int]
"""A pid, or the id of a thread with its own entry, and an fd number in its table."""

_MAX_RECENT_FDS = 1024  # of each process


class KnownProcess(msgspec.Struct, eq=False):
    """A process, or a thread with a table of its own, whose fds were read."""

    pid: int
    """Of a thread: its id."""
    start: int
    """When the process, or the thread, started."""
    identity: ProcessIdentity
    """The process; of a thread: the process that it belongs to."""
    directory: FdDirectory
    """The state of /proc/PID/fd when its new fds were last read."""
    last_scan: int
    """The lookup since which all its fds have been read."""
    scan_began: int = 0
    """The lookup in which the unfinished scan of all its fds began."""
    unscanned: list[int] = msgspec.field(default_factory=list)
    """The fds that are left to that scan, the next one last; none if no scan is unfinished."""
    last_match: int = 0
    """The lookup in which it held a wanted socket."""
    last_thread_scan: int = 0
    """The lookup in which its threads were searched for tables of their own."""
    may_hide_fds: bool = False
    """Whether fds may be open although the fd directory shows none."""
    last_active: int = 0
    """The lookup in which it held a wanted socket, or its fds changed."""
    fds: dict[int, int] = msgspec.field(default_factory=dict)
    """The inode of the socket at each fd, 0 for anything but a socket; the latest change last."""
    recent_fds: OrderedDict[int, None] = msgspec.field(default_factory=OrderedDict)
    """The fd numbers, open or not, that changed last; the latest last."""
    accept_fds: dict[int, None] = msgspec.field(default_factory=dict)
    """The fd numbers that were reserved and then in use: the next accept() reserves them again."""
    highest_fd: int = -1
    """The highest fd number that was ever open."""

    @property
    def is_thread(self) -> bool:
        """Whether this is the entry of a thread."""
        return self.pid != self.identity.pid

    @property
    def reserved_fds(self) -> int:
        """How many fd numbers were reserved, and without a file, when its new fds were last read.

        The kernel counts those in `directory.open_fds`: accept() reserves a number before it waits.
        """
        return max(0, self.directory.open_fds - len(self.fds))

    def record_change(self, fd: int) -> None:
        """Record that another file, or none, is open at this fd number."""
        self.recent_fds.pop(fd, None)
        self.recent_fds[fd] = None
        if len(self.recent_fds) > _MAX_RECENT_FDS:
            self.recent_fds.popitem(last=False)


class FdTable:
    """The known processes by pid, and the fds that hold each socket."""

    def __init__(self) -> None:
        self._processes: dict[int, KnownProcess] = {}
        self._references: dict[int, list[FdReference]] = {}
        self._seen_at: dict[int, float] = {}
        """When a socket was first seen at an fd; later than it was opened."""
        self.now = 0.0
        """The time of the current lookup, in seconds of any clock."""
        self._active: dict[int, None] = {}
        """Pids in the order of `last_active`."""
        self._threads: dict[int, KnownProcess] = {}
        """The entries of threads."""
        self.size = 0
        """The number of cached fds."""

    def __iter__(self) -> Iterator[KnownProcess]:
        return iter(self._processes.values())

    def pids(self) -> set[int]:
        """Return the pids of all entries."""
        return set(self._processes)

    def threads(self) -> list[KnownProcess]:
        """Return the entries of threads."""
        return list(self._threads.values())

    def get(self, pid: int) -> KnownProcess | None:
        """Return a known process."""
        return self._processes.get(pid)

    def add(self, process: KnownProcess) -> None:
        """Add a process without fds; it replaces an earlier process with the same pid."""
        self.remove(process.pid)
        self._processes[process.pid] = process
        if process.is_thread:
            self._threads[process.pid] = process

    def remove(self, pid: int) -> None:
        """Remove a process and its fds."""
        self._active.pop(pid, None)
        self._threads.pop(pid, None)
        process = self._processes.pop(pid, None)
        if process is not None:
            self.evict_fds(process)

    def mark_active(self, process: KnownProcess, lookup: int) -> None:
        """Record that the fds of a process changed or matched in this lookup."""
        process.last_active = lookup
        self._active.pop(process.pid, None)
        self._active[process.pid] = None

    def by_activity(self) -> Iterator[KnownProcess]:
        """Yield the processes that were ever active, the latest first."""
        return (self._processes[pid] for pid in reversed(self._active))

    def priority(self, pid: int, user_id: int, users: Collection[int]) -> tuple[bool, int, int]:
        """Return a sort key by which a search begins with the likely holders of a socket.

        Likely are processes of the `users` of the sockets, then those that held a wanted socket in
        a recent lookup, then those with a high pid.
        """
        process = self.get(pid)
        return user_id in users, process.last_match if process else 0, pid

    def references(self, inode: int) -> tuple[FdReference, ...]:
        """Return the known fds that hold a socket."""
        return tuple(self._references.get(inode, ()))

    def seen_at(self, inode: int) -> float | None:
        """Return when a socket was first seen at an fd; None if it is at no known fd."""
        return self._seen_at.get(inode)

    def set_fd(self, process: KnownProcess, fd: int, inode: int) -> None:
        """Record the socket at an open fd; 0 if the fd is not a socket."""
        if process.fds.get(fd) == inode:
            return
        self._drop(process, fd)
        process.fds[fd] = inode
        process.highest_fd = max(process.highest_fd, fd)
        process.record_change(fd)
        self.size += 1
        if inode:
            self._references.setdefault(inode, []).append((process.pid, fd))
            self._seen_at.setdefault(inode, self.now)

    def close_fd(self, process: KnownProcess, fd: int) -> None:
        """Record that an fd is not open."""
        if fd in process.fds:
            self._drop(process, fd)
            process.record_change(fd)

    def evict_fds(self, process: KnownProcess) -> int:
        """Remove the fds of a process, but not the process; return the number of fds removed."""
        before = self.size
        for fd in list(process.fds):
            self._drop(process, fd)
        process.recent_fds.clear()
        process.unscanned.clear()
        return before - self.size

    def _drop(self, process: KnownProcess, fd: int) -> None:
        inode = process.fds.pop(fd, None)
        if inode is None:
            return
        self.size -= 1
        if inode:
            references = self._references[inode]
            references.remove((process.pid, fd))
            if not references:
                del self._references[inode], self._seen_at[inode]

"""PURE: what is known of the fds of all processes, and so of who holds which socket."""

from collections.abc import Iterator

import msgspec

from hogpipe.linux.procfs import FdDirectory

Place = tuple[int, int]
"""A pid and the fd at which it holds something."""

_CHURN_KEPT = 64  # numbers of each process


class KnownProcess(msgspec.Struct, eq=False):
    """A process whose fds were read.

    `fds` gives the inode of the socket at each fd, 0 for what is no socket; what changed last comes
    last. `read_at`, `useful` and `lively` number the looks in which all its fds were read, in which
    it last held a socket that was asked for, and in which that or its fds changed. `churn` has the
    numbers, open or not, at which something changed last, the latest one last; `top` is the highest
    number that was ever open.
    """

    pid: int
    start: int
    folder: FdDirectory
    read_at: int
    useful: int = 0
    lively: int = 0
    fds: dict[int, int] = msgspec.field(default_factory=dict)
    churn: dict[int, None] = msgspec.field(default_factory=dict)
    top: int = -1

    def note_change(self, fd: int) -> None:
        """Note that something else is at this number now, or nothing."""
        self.churn.pop(fd, None)
        self.churn[fd] = None
        if len(self.churn) > _CHURN_KEPT:
            del self.churn[next(iter(self.churn))]


class FdTable:
    """The known processes by pid, and the places at which each socket is held."""

    def __init__(self) -> None:
        self._processes: dict[int, KnownProcess] = {}
        self._places: dict[int, list[Place]] = {}
        self._lively: dict[int, None] = {}
        self.size = 0
        """The number of fds that are kept."""

    def __iter__(self) -> Iterator[KnownProcess]:
        return iter(self._processes.values())

    def pids(self) -> set[int]:
        """Return the pids of all known processes."""
        return set(self._processes)

    def get(self, pid: int) -> KnownProcess | None:
        """Return what is known of a process."""
        return self._processes.get(pid)

    def add(self, process: KnownProcess) -> None:
        """Take up a process of which no fds are known; what was known of its pid is forgotten."""
        self.forget(process.pid)
        self._processes[process.pid] = process

    def note_lively(self, process: KnownProcess, look: int) -> None:
        """Note that the fds of a process have changed, or were of use, in this look."""
        process.lively = look
        self._lively.pop(process.pid, None)
        self._lively[process.pid] = None

    def lively(self) -> Iterator[KnownProcess]:
        """Yield the processes of which that was noted, the latest first."""
        return (self._processes[pid] for pid in reversed(self._lively))

    def places(self, inode: int) -> tuple[Place, ...]:
        """Return where a socket is held, as far as known."""
        return tuple(self._places.get(inode, ()))

    def put(self, process: KnownProcess, fd: int, inode: int) -> None:
        """Note what is at an fd now."""
        if process.fds.get(fd) == inode:
            return
        self._remove(process, fd)
        process.fds[fd] = inode
        process.top = max(process.top, fd)
        process.note_change(fd)
        self.size += 1
        if inode:
            self._places.setdefault(inode, []).append((process.pid, fd))

    def drop(self, process: KnownProcess, fd: int) -> None:
        """Note that an fd is not open."""
        if fd in process.fds:
            self._remove(process, fd)
            process.note_change(fd)

    def empty(self, process: KnownProcess) -> int:
        """Forget the fds of a process, but not the process; return how many there were."""
        before = self.size
        for fd in list(process.fds):
            self._remove(process, fd)
        process.churn.clear()
        return before - self.size

    def forget(self, pid: int) -> None:
        """Forget a process."""
        self._lively.pop(pid, None)
        process = self._processes.pop(pid, None)
        if process is not None:
            self.empty(process)

    def _remove(self, process: KnownProcess, fd: int) -> None:
        inode = process.fds.pop(fd, None)
        if inode is None:
            return
        self.size -= 1
        if inode:
            places = self._places[inode]
            places.remove((process.pid, fd))
            if not places:
                del self._places[inode]

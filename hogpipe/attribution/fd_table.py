"""PURE: what is known of the fds of all processes, and so of who holds which socket."""

from collections.abc import Iterator

import msgspec

from hogpipe.attribution.procfs import FdFolder

Place = tuple[int, int]
"""A pid and the fd at which it holds something."""


class KnownProcess(msgspec.Struct, eq=False):
    """A process whose fds were read.

    `fds` gives the inode of the socket at each fd, 0 for what is no socket; what changed last comes
    last. `read_at` and `useful` number the looks in which all its fds were read, and in which it
    last held a socket that was asked for.
    """

    pid: int
    start: int
    folder: FdFolder
    read_at: int
    useful: int = 0
    fds: dict[int, int] = msgspec.field(default_factory=dict)


class FdTable:
    """The known processes by pid, and the places at which each socket is held."""

    def __init__(self) -> None:
        self._processes: dict[int, KnownProcess] = {}
        self._places: dict[int, list[Place]] = {}
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

    def places(self, inode: int) -> tuple[Place, ...]:
        """Return where a socket is held, as far as known."""
        return tuple(self._places.get(inode, ()))

    def put(self, process: KnownProcess, fd: int, inode: int) -> None:
        """Note what is at an fd now."""
        if process.fds.get(fd) == inode:
            return
        self.drop(process, fd)
        process.fds[fd] = inode
        self.size += 1
        if inode:
            self._places.setdefault(inode, []).append((process.pid, fd))

    def drop(self, process: KnownProcess, fd: int) -> None:
        """Note that an fd is not open."""
        inode = process.fds.pop(fd, None)
        if inode is None:
            return
        self.size -= 1
        if inode:
            places = self._places[inode]
            places.remove((process.pid, fd))
            if not places:
                del self._places[inode]

    def empty(self, process: KnownProcess) -> int:
        """Forget the fds of a process, but not the process; return how many there were."""
        before = self.size
        for fd in list(process.fds):
            self.drop(process, fd)
        return before - self.size

    def forget(self, pid: int) -> None:
        """Forget a process."""
        process = self._processes.pop(pid, None)
        if process is not None:
            self.empty(process)

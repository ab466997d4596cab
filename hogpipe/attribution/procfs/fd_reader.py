"""Reading the fds of processes into a table, and counting what that took.

A look is one question put to the whole of /proc. What was read in a look holds for it, and a
process that refuses is asked no further in it.
"""

from collections.abc import Iterable, Iterator

from hogpipe.attribution.procfs.fd_table import FdTable, KnownProcess, Place
from hogpipe.attribution.procfs.shared_sockets import SharedSocketRules
from hogpipe.linux.procfs import FdDirectory, Procfs

_UNUSED = 3  # numbers in a row that are free: higher ones are then hardly in use


class FdReader:
    """Reads fds into `table`. The counters only grow."""

    def __init__(self, procfs: Procfs) -> None:
        self._procfs = procfs
        self.table = FdTable()
        self._refused: set[int] = set()
        """The pids whose fds the kernel refused to show in this look."""
        self._read_now: set[Place] = set()
        self._folders: dict[int, FdDirectory | None] = {}
        """The folders of processes as they were asked for one by one in this look."""
        self._walked = False
        self.fds_read = 0
        self.walks = 0
        """Looks that read the fds of processes beyond verifying what was known."""
        self.not_permitted = 0
        """Processes whose fds the kernel refused to show, once for each look."""

    def begin_look(self) -> None:
        """Take nothing that was read before for what is there now."""
        self._refused.clear()
        self._read_now.clear()
        self._folders.clear()
        self._walked = False

    def list_folders(self, *, new_only: bool = False) -> dict[int, FdDirectory]:
        """Return the processes that are there now, or those not known, and forget the dead."""
        pids = self._procfs.list_pids()
        known = self.table.pids()
        for pid in known - pids:
            self.table.forget(pid)
        asked = pids - known if new_only else pids
        listed = ((pid, self._procfs.read_fd_directory(pid)) for pid in asked)
        folders = {pid: folder for pid, folder in listed if folder is not None}
        for pid in () if new_only else known - folders.keys():
            self.table.forget(pid)
        return folders

    def is_current(self, pid: int, folder: FdDirectory) -> bool:
        """Tell whether a process shows no sign of a change since its fds were read."""
        process = self.table.get(pid)
        counted = folder.open_fds > 0 or self._procfs.reports_fd_counts
        return process is not None and counted and process.folder == folder

    def learn(self, pid: int, folder: FdDirectory, kinship: SharedSocketRules, look: int) -> None:
        """Read a new process, or the new fds of a known one."""
        process, stat = self.table.get(pid), kinship.read_stat(pid)
        if stat is None:
            self.table.forget(pid)
            return
        is_new = process is None or process.start != stat.start
        if process is None or is_new:
            process = KnownProcess(pid, stat.start, folder, read_at=look)
            self.table.add(process)
        else:
            self.table.note_lively(process, look)
        process.folder = folder
        self.read(process, self._list_new(process), set())
        if is_new:
            process.churn.clear()  # nothing of it has changed yet
            self._compare(process, self.table.get(stat.parent_pid))

    def verify(self, inode: int, kinship: SharedSocketRules, look: int) -> bool:
        """Make sure of each place at which a socket is held; return whether there is any."""
        for place in self.table.places(inode):
            pid, fd = place
            process, folder = self.table.get(pid), self._folder(pid)
            if process is None or process.fds.get(fd) != inode:
                continue  # it has just been read again
            if folder is None:
                self.table.forget(pid)
            elif folder.inode != process.folder.inode:
                self.learn(pid, folder, kinship, look)
            elif place not in self._read_now:
                self._read_one(process, fd)
        return bool(self.table.places(inode))

    def read_again(self, process: KnownProcess, missing: set[int], look: int) -> None:
        """Read all fds of a process, what changed last first, or until nothing is missing."""
        fds = [*self._list_new(process), *reversed(process.fds)]
        if self.read(process, fds, missing):
            process.read_at = look

    def read_churn(self, process: KnownProcess, missing: set[int] | None = None) -> None:
        """Read the numbers of a process at which new sockets are likely, until none is missing."""
        folder = self._folder(process.pid)
        if folder is None or folder.inode != process.folder.inode:
            return  # gone, or another process by now
        for fd in _likely_numbers(process):
            if missing is not None and not missing:
                return
            self.read(process, [fd], missing or set())

    def read(self, process: KnownProcess, fds: Iterable[int], missing: set[int]) -> bool:
        """Read these fds; return False if it ended early, with the last of `missing` found."""
        for fd in fds:
            if process.pid in self._refused:
                break
            if not self._walked:
                self._walked = True
                self.walks += 1
            inode = self._read_one(process, fd)
            if inode in missing:
                missing.discard(inode)
                if not missing:
                    return False
        return True

    def _folder(self, pid: int) -> FdDirectory | None:
        if pid not in self._folders:
            self._folders[pid] = self._procfs.read_fd_directory(pid)
        return self._folders[pid]

    def _compare(self, child: KnownProcess, parent: KnownProcess | None) -> None:
        """Read of a parent what differs in its child, which has the fds that were open at fork."""
        if parent is not None:
            inherited = [(fd, inode) for fd, inode in child.fds.items() if inode]
            differing = [fd for fd, inode in inherited if parent.fds.get(fd) != inode]
            self.read(parent, differing, set())

    def _list_new(self, process: KnownProcess) -> list[int]:
        """Return the open fds of a process that are not known, and forget those not open."""
        try:
            fds = self._procfs.list_fds(process.pid)
        except PermissionError:
            self._refuse(process.pid)
            return []
        for closed in process.fds.keys() - fds:
            self.table.drop(process, closed)
        return [fd for fd in fds if fd not in process.fds]

    def _read_one(self, process: KnownProcess, fd: int) -> int | None:
        """Read what is at an fd; return the inode, 0 for no socket and None for nothing."""
        inode = self._socket_at(process.pid, fd)
        if inode is None:
            self.table.drop(process, fd)
        else:
            self.table.put(process, fd, inode)
        return inode

    def _socket_at(self, pid: int, fd: int) -> int | None:
        self.fds_read += 1
        self._read_now.add((pid, fd))
        try:
            return self._procfs.read_socket_inode(pid, fd)
        except PermissionError:
            self._refuse(pid)
            return None

    def _refuse(self, pid: int) -> None:
        """Forget a process whose fds may not be seen: it is tried again in the next look."""
        self.table.forget(pid)
        if pid not in self._refused:
            self._refused.add(pid)
            self.not_permitted += 1


def _likely_numbers(process: KnownProcess) -> Iterator[int]:
    """Yield numbers of a process at which new sockets are likely; each is read before the next.

    The kernel gives out the lowest free number, so sockets that come and go share a few: first
    those that were free, as far as they are in use, then those whose socket is the oldest.
    """
    taken = [fd for fd in process.churn if fd in process.fds]
    unused = 0
    for fd in sorted(process.churn.keys() - process.fds):
        yield fd
        unused = 0 if fd in process.fds else unused + 1
        if unused == _UNUSED:
            break
    yield from taken
    fd = process.top
    while fd == process.top:
        fd += 1
        yield fd

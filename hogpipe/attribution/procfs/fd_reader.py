"""Reads the fds of single processes into a table, and counts the reads.

Results hold for one lookup: an fd is verified at most once in it, the directory of fds of a process
is read at most once for verifying, and a process that refuses is not asked again.

Threads. /proc/PID/fd shows the table of the first thread, which nearly all threads share. Two kinds
of process have sockets elsewhere, and get entries for threads:

- The first thread has exited while others live: /proc/PID/fd is empty. The tables of the others are
  added when the process is read. An empty directory stays the same when the first thread exits, so
  a process without open fds is read at each refresh; ordinary processes have some.
- A thread has left the shared table (CLONE_FILES of unshare(2)): nothing in /proc/PID shows it.
  `scan_threads` compares the tables of the threads of one process; `fd_scanner` decides when.

Known limits: of a process, at most 64 tables are read. Where kcmp(2) does not answer, tables with
the same number of open fds are taken to be one.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice

from hogpipe.attribution.procfs.fd_table import FdReference, FdTable, KnownProcess
from hogpipe.attribution.procfs.shared_sockets import SharedSocketRules
from hogpipe.linux.procfs import FdDirectory, ProcessIdentity, Procfs

_MAX_TABLES = 64  # of one process
_UNUSED_IN_A_ROW = 3  # free fd numbers after which higher ones are unlikely to be in use
_UNCHANGED_READS = 64  # fds in use that may turn out unchanged, of each process
_READS_A_CHANGE = 4  # further ones for each fd that turns out changed
_MAX_RESERVED = 32  # fd numbers of a process; in a recorded tree the number of fds means nothing


class FdReader:
    """Reads fds into `table`. The counters only grow."""

    def __init__(self, procfs: Procfs) -> None:
        self._procfs = procfs
        self.table = FdTable()
        self._refused: set[int] = set()
        """Pids whose fds the kernel refused to show in this lookup."""
        self._read: set[FdReference] = set()
        """Fds that were read in this lookup."""
        self._directories: dict[int, FdDirectory | None] = {}
        """Directories of fds that were read one by one in this lookup."""
        self._scanned = False
        self.fds_read = 0
        self.threads_compared = 0
        self.fd_scans = 0
        """Lookups that read fds beyond verifying known ones."""
        self.not_permitted = 0
        """Processes whose fds the kernel refused to show, once for each lookup."""

    def begin_lookup(self) -> None:
        """Start a lookup: results of the last one no longer hold."""
        self._refused.clear()
        self._read.clear()
        self._directories.clear()
        self._scanned = False

    def list_fd_directories(self, *, new_only: bool = False) -> dict[int, FdDirectory]:
        """Return the fd directories of all processes, or of the unknown ones.

        Removes processes that have exited from the table. Raises OSError.
        """
        pids = self._procfs.list_pids()
        for thread in self.table.threads():
            if thread.pid in pids or thread.identity.pid not in pids:
                self.table.remove(thread.pid)  # its id is reused, or its process has exited
        pids.update(thread.pid for thread in self.table.threads())
        known = self.table.pids()
        for pid in known - pids:
            self.table.remove(pid)
        wanted = pids - known if new_only else pids
        listed = ((pid, self._procfs.read_fd_directory(pid)) for pid in wanted)
        directories = {pid: directory for pid, directory in listed if directory is not None}
        for pid in () if new_only else known - directories.keys():
            self.table.remove(pid)
        return directories

    def is_unchanged(self, pid: int, directory: FdDirectory) -> bool:
        """Return whether a process shows no sign of a change since its fds were read.

        A number that was reserved may be in use by now all the same (`read_reserved`).
        """
        process = self.table.get(pid)
        has_count = directory.open_fds > 0 or self._procfs.reports_fd_counts
        if process is None or not has_count or process.directory != directory:
            return False
        return not process.may_hide_fds

    def update_process(
        self, pid: int, directory: FdDirectory, rules: SharedSocketRules, lookup: int
    ) -> None:
        """Read all fds of a new process, or the new fds of a known one."""
        process, stat = self.table.get(pid), rules.read_stat(pid)
        if stat is None:
            self.table.remove(pid)
            return
        is_new = process is None or process.start != stat.start
        if process is not None and is_new and process.is_thread:
            self.table.remove(pid)  # the thread has exited, and its id is reused
            return
        if process is None or is_new:
            identity = ProcessIdentity(pid, stat.start)
            process = KnownProcess(pid, stat.start, identity, directory, last_scan=lookup)
            self.table.add(process)
        else:
            self.table.mark_active(process, lookup)
        is_changed = is_new or process.directory != directory
        process.directory = directory
        self.read_fds(process, self._list_new(process), set())
        if is_new:
            process.recent_fds.clear()  # its first fds are not changes
            self._reread_inherited(process, self.table.get(stat.parent_pid))
        process.may_hide_fds = not directory.open_fds and stat.can_open_fds
        if stat.has_exited_leader and (is_changed or not self._threads_of(process)):
            self.scan_threads(process, rules, lookup)

    def scan_threads(self, process: KnownProcess, rules: SharedSocketRules, lookup: int) -> None:
        """Add entries for the threads of a process that have tables of their own."""
        process.last_thread_scan = lookup
        self.threads_compared += 1
        if process.is_thread or self._procfs.count_threads(process.pid) < 2:
            return
        tables = [process.pid, *(thread.pid for thread in self._threads_of(process))]
        share_fds = self._procfs.share_fds
        for thread in self._procfs.list_threads(process.pid):
            self.threads_compared += 1
            if thread in tables or any(share_fds(thread, table) for table in tables):
                continue
            if len(tables) == _MAX_TABLES:
                return
            self._add_thread(thread, process, rules, lookup)
            tables.append(thread)

    def _threads_of(self, process: KnownProcess) -> list[KnownProcess]:
        return [one for one in self.table.threads() if one.identity == process.identity]

    def _add_thread(
        self, thread: int, process: KnownProcess, rules: SharedSocketRules, lookup: int
    ) -> None:
        """Add an entry for a thread, and read the fds in its table."""
        directory, stat = self._procfs.read_fd_directory(thread), rules.read_stat(thread)
        if directory is None or stat is None or stat.has_exited:
            return
        added = KnownProcess(thread, stat.start, process.identity, directory, last_scan=lookup)
        self.table.add(added)
        self.table.mark_active(added, lookup)
        self.read_fds(added, self._list_new(added), set())

    def read_reserved(self, pid: int) -> None:
        """Read the fd numbers that an unchanged process had reserved: one may be in use by now.

        The kernel reserves the lowest free numbers, and the same ones for the next accept().
        """
        process = self.table.get(pid)
        if process is None or not process.fds:
            return
        reserved = process.reserved_fds if process.reserved_fds <= _MAX_RESERVED else 0
        free = islice((fd for fd in count() if fd not in process.fds), reserved)
        numbers = [*process.accept_fds, *(fd for fd in free if fd not in process.accept_fds)]
        self.read_fds(process, numbers, set())
        in_use = (fd for fd in numbers if process.fds.get(fd))
        process.accept_fds.update(dict.fromkeys(islice(in_use, _MAX_RESERVED)))

    def verify(self, inode: int, rules: SharedSocketRules, lookup: int) -> bool:
        """Read each known fd of a socket again; return whether any still holds the socket."""
        for reference in self.table.references(inode):
            pid, fd = reference
            process, directory = self.table.get(pid), self._directory(pid)
            if process is None or process.fds.get(fd) != inode:
                continue  # updated since the references were listed
            if directory is None:
                self.table.remove(pid)
            elif directory.inode != process.directory.inode:
                self.update_process(pid, directory, rules, lookup)
            elif reference not in self._read:
                self._read_fd(process, fd)
        return bool(self.table.references(inode))

    def rescan(self, process: KnownProcess, missing: set[int], lookup: int, max_fds: int) -> bool:
        """Read all fds of a process, the latest change first, until nothing is missing.

        Return False if `max_fds` fds have been read before that; the next call continues.
        """
        if not process.unscanned:
            process.unscanned = [*process.fds, *reversed(self._list_new(process))]
            process.scan_began = lookup
        unscanned = process.unscanned
        fds = (unscanned.pop() for _ in range(min(max_fds, len(unscanned))))
        if not self.read_fds(process, fds, missing):
            unscanned.clear()  # what is missing next is likelier among the latest changes again
        elif unscanned and process.pid not in self._refused:
            return False
        else:
            process.last_scan = process.scan_began
        return True

    def read_likely_fds(self, process: KnownProcess, missing: set[int] | None = None) -> None:
        """Read the fd numbers at which new sockets are likely, until nothing is missing."""
        directory = self._directory(process.pid)
        if directory is None or directory.inode != process.directory.inode:
            return  # the process has exited, and its pid may be reused
        for fd in _likely_fds(process):
            if missing is not None and not missing:
                return
            self.read_fds(process, [fd], missing or set())

    def read_fds(self, process: KnownProcess, fds: Iterable[int], missing: set[int]) -> bool:
        """Read these fds, and remove their sockets from `missing`.

        Return False if the last of `missing` was found before the end.
        """
        for fd in fds:
            if process.pid in self._refused:
                break
            if not self._scanned:
                self._scanned = True
                self.fd_scans += 1
            inode = self._read_fd(process, fd)
            if inode in missing:
                missing.discard(inode)
                if not missing:
                    return False
        return True

    def _directory(self, pid: int) -> FdDirectory | None:
        if pid not in self._directories:
            self._directories[pid] = self._procfs.read_fd_directory(pid)
        return self._directories[pid]

    def _reread_inherited(self, child: KnownProcess, parent: KnownProcess | None) -> None:
        """Read the fds of a parent that differ in its child, which inherited them at fork."""
        if parent is not None:
            inherited = [(fd, inode) for fd, inode in child.fds.items() if inode]
            differing = [fd for fd, inode in inherited if parent.fds.get(fd) != inode]
            self.read_fds(parent, differing, set())

    def _list_new(self, process: KnownProcess) -> list[int]:
        """Return the open fds of a process that are unknown; close known fds that are not open."""
        try:
            fds = self._procfs.list_fds(process.pid)
        except PermissionError:
            self._refuse(process.pid)
            return []
        for closed in process.fds.keys() - fds:
            self.table.close_fd(process, closed)
        return [fd for fd in fds if fd not in process.fds]

    def _read_fd(self, process: KnownProcess, fd: int) -> int | None:
        """Read one fd; return the inode of its socket, 0 if not a socket, None if not open."""
        inode = self._read_socket_inode(process.pid, fd)
        if inode is None:
            self.table.close_fd(process, fd)
        else:
            self.table.set_fd(process, fd, inode)
        return inode

    def _read_socket_inode(self, pid: int, fd: int) -> int | None:
        self.fds_read += 1
        self._read.add((pid, fd))
        try:
            return self._procfs.read_socket_inode(pid, fd)
        except PermissionError:
            self._refuse(pid)
            return None

    def _refuse(self, pid: int) -> None:
        """Remove a process that refuses to show its fds; the next lookup tries again."""
        self.table.remove(pid)
        if pid not in self._refused:
            self._refused.add(pid)
            self.not_permitted += 1


def _likely_fds(process: KnownProcess) -> Iterator[int]:
    """Yield fd numbers at which new sockets are likely; the caller reads each before the next.

    The kernel assigns the lowest free number, so short-lived sockets share a few numbers. First
    come recently changed numbers that were free, until several in a row are free still; then
    recently changed numbers that were in use, while enough of them turn out changed; then numbers
    above the highest one, while they are in use.
    """
    in_use = [fd for fd in process.recent_fds if fd in process.fds]
    unused = 0
    for fd in sorted(process.recent_fds.keys() - process.fds):
        yield fd
        unused = 0 if fd in process.fds else unused + 1
        if unused == _UNUSED_IN_A_ROW:
            break
    yield from _while_changing(process, _from_both_ends(in_use))
    fd = process.highest_fd
    while fd == process.highest_fd:
        fd += 1
        yield fd


def _while_changing(process: KnownProcess, fds: Iterable[int]) -> Iterator[int]:
    """Yield fds in use until too many of them, for those that turned out changed, have not."""
    allowance = _UNCHANGED_READS
    for fd in fds:
        before = process.fds.get(fd)
        yield fd
        allowance += -1 if process.fds.get(fd) == before else _READS_A_CHANGE
        if not allowance:
            return


def _from_both_ends(fds: Sequence[int]) -> Iterator[int]:
    """Yield the oldest change, the latest, the second oldest, and so on.

    Of sockets that live equally long the oldest are closed first; beside lasting ones the latest
    are.
    """
    for first, last in zip(range(len(fds)), reversed(range(len(fds))), strict=True):
        if first > last:
            return
        yield fds[first]
        if first < last:
            yield fds[last]

"""From socket inodes to their owners, at a cost that follows what has changed in /proc.

The fds of all processes are read once, and kept. A look then begins with what has changed since:

1. Processes are listed, and each folder of fds is asked for its state, which tells new processes
   and those with another number of fds. Of the new ones all fds are read, of the others those
   whose numbers are new.
2. Places that hold a wanted socket are verified: the same process, the same socket at that fd.
   Where that is not so, a process has closed and opened as many, and all its fds are read again.
3. Sockets that are still missing may have taken the numbers of others. They are searched for in
   all processes, where it is likely first, and no further than needed; once for each socket, so
   that one that nobody holds (the kernel's own, as of WireGuard and NFS) costs this only once.

Only when 1 is done for all processes are the holders of a socket known, and so its owner
(`kinship`): then the answer does not depend on what was asked before. One thing is not noticed: a
second holder that got the socket by a message, at a number of which it had just closed something.

Both reading and memory have bounds. A look that reaches one goes on where it stopped when it is
asked again; its sockets are not in the answer, and count in `put_off`.
"""

from collections.abc import Mapping, Sequence

from hogpipe.attribution.fd_table import FdTable, KnownProcess
from hogpipe.attribution.kinship import Identity, Kinship
from hogpipe.attribution.procfs import FdFolder, Procfs

_MAX_FDS_READ = 100_000
# Most sockets that are missing are closed already. The next look asks only for those that are not.
_SEARCH_SHARE = 20
_MAX_FDS_KEPT = 262_144
_MAX_SOUGHT = 16_384


class FdCache:
    """Who owns which socket. The counters only grow; one thread at a time may call `find`.

    At most `max_fds` fds are read in a look, beyond those of the last process, and `max_kept` are
    kept from one look to the next.
    """

    def __init__(
        self, procfs: Procfs, *, max_fds: int = _MAX_FDS_READ, max_kept: int = _MAX_FDS_KEPT
    ) -> None:
        self._procfs = procfs
        self._max_fds = max_fds
        self._max_kept = max_kept
        self._table = FdTable()
        self._sought: dict[int, int] = {}
        """By inode that no process seems to hold: the look in which it was first missing."""
        self._look = self._walked_in = 0
        self._refused: set[int] = set()
        """The pids whose fds the kernel refused to show in this look."""
        self.fds_read = 0
        self.walks = 0
        """Looks that read the fds of processes beyond verifying what was known."""
        self.not_permitted = 0
        """Processes whose fds the kernel refused to show, once for each look."""
        self.put_off = 0
        """Sockets whose owner was left to the next look, once for each look."""
        self.shared = 0
        """Sockets without an owner because strangers hold them, once for each look."""
        self.forgotten = 0
        """Fds and sought sockets that were forgotten because they were too many."""

    def prepare(self, kinship: Kinship) -> None:
        """Read what a first look would have to read: on a large host that takes its time."""
        self._look += 1
        self._refused.clear()
        self._refresh(set(), kinship)

    def find(self, wanted: Mapping[int, int], kinship: Kinship) -> dict[int, Identity]:
        """Return the owner of each inode that has one; `wanted` gives the users of the sockets.

        `kinship` is that of this look. Raises OSError if processes cannot be listed.
        """
        if not wanted:
            return {}
        self._look += 1
        self._refused.clear()
        if not self._refresh(set(wanted.values()), kinship):
            self.put_off += len(wanted)
            return {}
        self._search({inode for inode in wanted if not self._verify(inode, kinship)}, wanted)
        found = {inode: self._own(inode, kinship) for inode in wanted}
        self._shrink()
        return {inode: owner for inode, owner in found.items() if owner is not None}

    def _refresh(self, users: set[int], kinship: Kinship) -> bool:
        """Read what is new in all processes; return False if it was too much."""
        folders = self._list_folders()
        due = [pid for pid, folder in folders.items() if not self._is_current(pid, folder)]
        due.sort(key=lambda pid: self._eagerness(pid, folders[pid], users), reverse=True)
        limit = self.fds_read + self._max_fds
        for pid in due:
            if self.fds_read >= limit:
                return False
            self._learn(pid, folders[pid], kinship)
        return True

    def _list_folders(self) -> dict[int, FdFolder]:
        """Return the processes that are there now, and forget the others."""
        listed = ((pid, self._procfs.fd_folder(pid)) for pid in self._procfs.pids())
        folders = {pid: folder for pid, folder in listed if folder is not None}
        for pid in self._table.pids() - folders.keys():
            self._table.forget(pid)
        return folders

    def _is_current(self, pid: int, folder: FdFolder) -> bool:
        process = self._table.get(pid)
        counted = folder.count > 0 or self._procfs.counts_fds
        return process is not None and counted and process.folder == folder

    def _eagerness(self, pid: int, folder: FdFolder, users: set[int]) -> tuple[bool, int, int]:
        """Sort processes: those of the right user, those lately useful, the young."""
        process = self._table.get(pid)
        return folder.user_id in users, process.useful if process else 0, pid

    def _learn(self, pid: int, folder: FdFolder, kinship: Kinship) -> None:
        """Read a new process, or the new fds of a known one."""
        process, stat = self._table.get(pid), kinship.stat(pid)
        if stat is None:
            self._table.forget(pid)
            return
        is_new = process is None or process.start != stat.start
        if process is None or is_new:
            process = KnownProcess(pid, stat.start, folder, read_at=self._look)
            self._table.add(process)
        process.folder = folder
        self._read(process, self._list_new(process), set())
        if is_new:
            self._compare(process, self._table.get(stat.parent_pid))

    def _compare(self, child: KnownProcess, parent: KnownProcess | None) -> None:
        """Read of a parent what differs in its child, which has the fds that were open at fork."""
        if parent is not None:
            inherited = [(fd, inode) for fd, inode in child.fds.items() if inode]
            differing = [fd for fd, inode in inherited if parent.fds.get(fd) != inode]
            self._read(parent, differing, set())

    def _verify(self, inode: int, kinship: Kinship) -> bool:
        """Make sure of each place at which a socket is held; return whether there is any."""
        for pid, fd in self._table.places(inode):
            process, stat = self._table.get(pid), kinship.stat(pid)
            if process is None or process.fds.get(fd) != inode:
                continue  # it has just been read again
            if stat is None or stat.start != process.start:
                self._learn(pid, process.folder, kinship)
            elif self._socket_at(pid, fd) != inode:
                self._read_again(process, set())
        return bool(self._table.places(inode))

    def _search(self, missing: set[int], wanted: Mapping[int, int]) -> None:
        """Look for sockets in the processes that were not read since they were first missing."""
        for inode in wanted.keys() - missing:
            self._sought.pop(inode, None)
        for inode in missing:
            self._sought.setdefault(inode, self._look)
        limit = self.fds_read + max(1, self._max_fds // _SEARCH_SHARE)
        for process in self._order_search(missing, {wanted[inode] for inode in missing}):
            here = {inode for inode in missing if self._sought[inode] > process.read_at}
            if here and self.fds_read >= limit:
                self.put_off += len(here)
                return
            if here:
                self._read_again(process, here)
                missing = {inode for inode in missing if not self._table.places(inode)}

    def _order_search(self, missing: set[int], users: set[int]) -> list[KnownProcess]:
        """Return the processes in which something that is missing was not yet looked for."""
        newest = max((self._sought[inode] for inode in missing), default=0)
        due = [process for process in self._table if process.read_at < newest]
        due.sort(key=lambda known: self._eagerness(known.pid, known.folder, users), reverse=True)
        return due

    def _read_again(self, process: KnownProcess, missing: set[int]) -> None:
        """Read all fds of a process, what changed last first, or until nothing is missing."""
        fds = [*self._list_new(process), *reversed(process.fds)]
        if self._read(process, fds, missing):
            process.read_at = self._look

    def _list_new(self, process: KnownProcess) -> list[int]:
        """Return the open fds of a process that are not known, and forget those not open."""
        try:
            fds = self._procfs.fds(process.pid)
        except PermissionError:
            self._refuse(process.pid)
            return []
        for closed in process.fds.keys() - fds:
            self._table.drop(process, closed)
        return [fd for fd in fds if fd not in process.fds]

    def _read(self, process: KnownProcess, fds: Sequence[int], missing: set[int]) -> bool:
        """Read these fds; return False if it ended early, with the last of `missing` found."""
        if fds and self._walked_in != self._look:
            self._walked_in = self._look
            self.walks += 1
        for fd in fds:
            inode = self._socket_at(process.pid, fd)
            if inode is None:
                self._table.drop(process, fd)
                continue
            self._table.put(process, fd, inode)
            if inode in missing:
                missing.discard(inode)
                if not missing:
                    return False
        return True

    def _socket_at(self, pid: int, fd: int) -> int | None:
        if pid in self._refused:
            return None
        self.fds_read += 1
        try:
            return self._procfs.socket_inode(pid, fd)
        except PermissionError:
            self._refuse(pid)
            return None

    def _refuse(self, pid: int) -> None:
        """Forget a process whose fds may not be seen: it is tried again in the next look."""
        self._table.forget(pid)
        if pid not in self._refused:
            self._refused.add(pid)
            self.not_permitted += 1

    def _own(self, inode: int, kinship: Kinship) -> Identity | None:
        pids = {pid for pid, _ in self._table.places(inode)}
        for process in map(self._table.get, pids):
            if process is not None:
                process.useful = self._look
        owner = kinship.owner_of_socket(pids)
        self.shared += owner is None and len(pids) > 1
        return owner

    def _shrink(self) -> None:
        """Keep to the bounds: forget the fds of those that were useful longest ago."""
        while len(self._sought) > _MAX_SOUGHT:
            del self._sought[next(iter(self._sought))]
            self.forgotten += 1
        if self._table.size > self._max_kept:
            for process in sorted(self._table, key=lambda known: known.useful):
                self.forgotten += self._table.empty(process)
                if self._table.size <= self._max_kept:
                    return

"""From socket inodes to the processes that hold them, without walking /proc again each time.

What was seen on a walk is kept, and looked at again before it is used: the process must still be
the same, and the socket still at the same fd. Only for inodes that are not known then are processes
walked, the promising ones first, and no further than needed.

A socket that was inherited over fork is held by several. Its owner is found by climbing: as long as
the parent holds the same socket at the same fd, the parent owns it. Of holders that are not related
in this way the one that was met first counts.
"""

from collections.abc import Callable, Collection
from functools import cache

import msgspec

from hogpipe.attribution.procfs import ProcessStat, Procfs

_Stat = Callable[[int], ProcessStat | None]


class Holder(msgspec.Struct, frozen=True):
    """A process that holds a socket at `fd`."""

    pid: int
    start: int
    fd: int


class FdCache:
    """Who holds which socket. The counters only grow; one thread at a time may call `find`."""

    def __init__(self, procfs: Procfs) -> None:
        self._procfs = procfs
        self._holders: dict[int, Holder] = {}
        self._sockets: dict[int, frozenset[int]] = {}
        """By pid: the socket inodes of each process that was walked."""
        self._useful: dict[int, None] = {}
        """The pids that held a wanted socket on a walk, the latest last."""
        self._refused: set[int] = set()
        """The pids whose fds the kernel refused to show in this call."""
        self.fds_read = 0
        self.walks = 0
        """Passes over the list of processes."""
        self.not_permitted = 0
        """Processes whose fds the kernel refused to show, once for each call."""

    def find(self, inodes: Collection[int]) -> dict[int, Holder]:
        """Return the owner of each inode that has one."""
        # A start time that was read before the fds keeps its sense for the whole call: should the
        # pid pass to another process, what is read of that one later has another start time.
        stat = cache(self._procfs.stat)
        self._refused.clear()
        missing = {inode for inode in inodes if not self._is_current(inode, stat)}
        if missing:
            self._walk(missing, stat)
        held = ((inode, self._holders.get(inode)) for inode in inodes)
        return {inode: self._climb(holder, inode, stat) for inode, holder in held if holder}

    def _is_current(self, inode: int, stat: _Stat) -> bool:
        holder = self._holders.get(inode)
        if holder is None:
            return False
        process = stat(holder.pid)
        same = process is not None and process.start == holder.start
        if same and self._read(holder.pid, holder.fd) == inode:
            return True
        del self._holders[inode]
        return False

    def _walk(self, missing: set[int], stat: _Stat) -> None:
        """Look at processes until all `missing` inodes have been met."""
        self.walks += 1
        pids = self._procfs.pids()
        for gone in self._sockets.keys() - pids:
            self._forget(gone)
            self._useful.pop(gone, None)
        for pid in self._in_order(pids):
            found = missing & self._look(pid, stat)
            if found:
                self._useful.pop(pid, None)
                self._useful[pid] = None
                missing -= found
            if not missing:
                return

    def _in_order(self, pids: set[int]) -> list[int]:
        """Order processes: the lately useful, then the new ones, then the rest; young before old.

        A young process is more likely to be the user of a socket that an old one, such as the
        service manager, made for it.
        """
        useful = [pid for pid in reversed(self._useful) if pid in pids]
        rest = pids - self._useful.keys()
        new = sorted(rest - self._sockets.keys(), reverse=True)
        return useful + new + sorted(rest & self._sockets.keys(), reverse=True)

    def _look(self, pid: int, stat: _Stat) -> frozenset[int]:
        """Read all fds of a process and return the inodes of its sockets."""
        self._forget(pid)
        process = stat(pid)
        if process is None:
            return frozenset()
        held: dict[int, int] = {}
        for fd in self._fds(pid):
            inode = self._read(pid, fd)
            if inode is not None:
                held.setdefault(inode, fd)
        for inode, fd in held.items():
            self._holders.setdefault(inode, Holder(pid, process.start, fd))
        self._sockets[pid] = frozenset(held)
        return self._sockets[pid]

    def _forget(self, pid: int) -> None:
        for inode in self._sockets.pop(pid, ()):
            holder = self._holders.get(inode)
            if holder is not None and holder.pid == pid:
                del self._holders[inode]

    def _climb(self, holder: Holder, inode: int, stat: _Stat) -> Holder:
        """Return the eldest ancestor that holds the same socket at the same fd."""
        met = {holder.pid}
        process = stat(holder.pid)
        while process is not None:
            parent = process.parent_pid
            if parent in met or self._read(parent, holder.fd) != inode:
                break
            met.add(parent)  # read while processes die, parents might seem to go round
            process = stat(parent)
            if process is not None:
                holder = Holder(parent, process.start, holder.fd)
        return holder

    def _fds(self, pid: int) -> list[int]:
        try:
            return self._procfs.fds(pid)
        except PermissionError:
            self._refuse(pid)
            return []

    def _read(self, pid: int, fd: int) -> int | None:
        if pid in self._refused:
            return None
        self.fds_read += 1
        try:
            return self._procfs.socket_inode(pid, fd)
        except PermissionError:
            self._refuse(pid)
            return None

    def _refuse(self, pid: int) -> None:
        if pid not in self._refused:
            self._refused.add(pid)
            self.not_permitted += 1

"""Network namespaces by the cookies that the kernel tells, found among those that processes are in.

The rest of the program knows a namespace by the inode of /proc/PID/ns/net.
"""

from contextlib import suppress
from pathlib import Path

from hogpipe.ledger.cookies import read_cookie, read_own_cookie
from hogpipe.model import OWN_NAMESPACE
from hogpipe.namespaces import NamespaceScan, read_own_namespace

_PAUSE = 1.0  # a namespace that no process is in is looked for no more often than this


class NamespaceInodes:
    """For one thread at a time. Raises OSError where the kernel tells no cookies."""

    def __init__(self, procfs: Path) -> None:
        self._procfs = procfs
        self._scan = NamespaceScan(procfs, read_own_namespace())
        self.own = read_own_cookie()
        """The cookie of our own namespace."""
        self._inodes: dict[int, int] = {}
        self._looked = float("-inf")

    def inode_of(self, cookie: int, now: float) -> int | None:
        """Return the inode of a namespace, None where it is not found; `now` is in seconds.

        Our own is OWN_NAMESPACE.
        """
        if cookie == self.own:
            return OWN_NAMESPACE
        if cookie not in self._inodes and now - self._looked >= _PAUSE:
            self._looked = now
            with suppress(OSError):  # /proc cannot be listed now: it is looked for again
                self._look(now)
        return self._inodes.get(cookie)

    def _look(self, now: float) -> None:
        self._scan.refresh(now)
        self._inodes = {}
        for inode in list(self._scan.namespaces()):
            pid = self._scan.find_process(inode)
            with suppress(OSError):  # it may not be entered: its flows stay without an owner
                cookie = None if pid is None else read_cookie(pid, inode, self._procfs)
                if cookie is not None:
                    self._inodes[cookie] = inode

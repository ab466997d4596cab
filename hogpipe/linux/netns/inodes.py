"""Network namespaces by the cookies that the kernel tells, found among those that processes are in.

The rest of the program knows a namespace by the inode of /proc/PID/ns/net, which the kernel gives
to another one when the namespace is gone; a cookie it gives once. What was found holds as long as a
process that was in there stays there: that keeps the namespace.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from hogpipe.linux.netns.cookies import call_inside, read_cookie, read_own_cookie
from hogpipe.linux.netns.scan import NamespaceScan, read_own_namespace
from hogpipe.model import OWN_NAMESPACE

T = TypeVar("T")

_PAUSE = 1.0  # a namespace that no process is in is looked for no more often than this


class NamespaceInodes:
    """For one thread at a time. Raises OSError where the kernel tells no cookies."""

    def __init__(self, procfs: Path) -> None:
        self._procfs = procfs
        self._scan = NamespaceScan(procfs, read_own_namespace())
        self.own = read_own_cookie()
        """The cookie of our own namespace."""
        self._inodes: dict[int, int] = {}
        self._confirmed: dict[int, float] = {}
        """When a process was seen in each of these last."""
        self._looked = float("-inf")

    def inode_of(self, cookie: int, now: float) -> int | None:
        """Return the inode of a namespace, None where it is not found; `now` is in seconds.

        Our own is OWN_NAMESPACE. One that is gone may be told for a second more.
        """
        if cookie == self.own:
            return OWN_NAMESPACE
        if not self._is_there(cookie, now) and now - self._looked >= _PAUSE:
            self._looked = now
            with suppress(OSError):  # /proc cannot be listed now: it is looked for again
                self._look(now)
        return self._inodes.get(cookie)

    def call_in(self, cookie: int, work: Callable[[], T], now: float) -> T | None:
        """Return what `work` returns in a namespace; `now` is in seconds.

        None where it raises OSError, and where the namespace is not found or cannot be entered.
        """
        inode = self.inode_of(cookie, now)
        if inode is None:
            return None
        with suppress(OSError):
            if inode == OWN_NAMESPACE:
                return work()
            pid = self._scan.find_process(inode)
            if pid is not None:
                visit = partial(_call_if, cookie, work)
                return call_inside(pid, inode, visit, self._procfs)
        return None

    def _is_there(self, cookie: int, now: float) -> bool:
        """Tell whether a namespace is known; it is forgotten when nobody stayed in there."""
        inode = self._inodes.get(cookie)
        if inode is None:
            return False
        if now - self._confirmed[cookie] < _PAUSE:
            return True
        if self._scan.find_process(inode) is None:
            del self._inodes[cookie]
            return False
        self._confirmed[cookie] = now
        return True

    def _look(self, now: float) -> None:
        self._scan.refresh(now)
        self._inodes, self._confirmed = {}, {}
        for inode in list(self._scan.namespaces()):
            pid = self._scan.find_process(inode)
            with suppress(OSError):  # it may not be entered: its flows stay without an owner
                cookie = None if pid is None else read_cookie(pid, inode, self._procfs)
                if cookie is not None:
                    self._inodes[cookie], self._confirmed[cookie] = inode, now


def _call_if(cookie: int, work: Callable[[], T]) -> T | None:
    """Return what `work` returns if this thread is in the namespace of a cookie."""
    return work() if read_own_cookie() == cookie else None

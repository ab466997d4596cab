"""Network namespaces by inode and by cookie: which inode has which cookie, and the reverse.

In: a /proc, and the caller's clock. Out: cookies of inodes, inodes of cookies, and the results of
functions that run inside a namespace. A namespace that no visible process is in, or that may not be
entered (setns(2), CAP_SYS_ADMIN), has neither.

Validity
--------
The kernel reuses an inode once its namespace is gone, and a cookie never. Both stay paired while
the namespace lives, and a process inside keeps the namespace alive. So a pair is valid as long as a
process that was in the namespace when its processes were listed is still there:

- Before the processes are listed again, pairs without such a process are evicted.
- An evicted pair stays the answer for its inode until a process is seen in that inode again: flows
  of the namespace may still be looked up after its last process has exited.
- The inode of a cookie is checked at most once a second, so an inode may be returned for one second
  after its namespace is gone.

The processes are listed again when a lookup of an inode finds no process there, and when a cookie
is unknown, the latter at most once a second.

The namespace of the thread that makes a `NetworkNamespaces` is OWN_NAMESPACE and needs no process.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from hogpipe.linux.netns.cookies import call_inside, read_cookie, read_own_cookie
from hogpipe.linux.netns.namespace_processes import NamespaceProcesses, read_own_namespace
from hogpipe.model import OWN_NAMESPACE

T = TypeVar("T")

_RECHECK_SECONDS = 1.0
_MAX_EVICTED = 4096


class NetworkNamespaces:
    """The network namespaces of a host by inode and by cookie. For one thread at a time.

    Raises OSError if the kernel reports no cookies (before Linux 5.14).
    """

    def __init__(self, procfs: Path) -> None:
        self._procfs = procfs
        self._processes = NamespaceProcesses(procfs, read_own_namespace())
        self.own_cookie = read_own_cookie()
        self.not_entered = 0
        """Times that a namespace could not be entered; the number only grows."""
        self._cookies: dict[int, int] = {}
        """Cookies by inode."""
        self._inodes: dict[int, int] = {}
        """The reverse of `_cookies`."""
        self._evicted: OrderedDict[int, int] = OrderedDict()
        """Cookies by inode, of pairs that were evicted; the oldest first."""
        self._checked: dict[int, float] = {}
        """By cookie: when a process was last seen in the namespace."""
        self._listed = float("-inf")
        """When the processes were last listed for an unknown cookie."""

    def find_cookies(self, inodes: Collection[int], now: float) -> dict[int, int]:
        """Return the cookies of those inodes whose cookie can be found; `now` is in seconds.

        Raises OSError if the processes cannot be listed.
        """
        others = {*inodes} - {OWN_NAMESPACE}
        if any(self._processes.find_process(inode) is None for inode in others):
            self._refresh(now)
        found = {inode: self._find_cookie(inode) for inode in others}
        if OWN_NAMESPACE in inodes:
            found[OWN_NAMESPACE] = self.own_cookie
        return {inode: cookie for inode, cookie in found.items() if cookie is not None}

    def find_inode(self, cookie: int, now: float) -> int | None:
        """Return the inode of the namespace, None if it is not found; `now` is in seconds."""
        if cookie == self.own_cookie:
            return OWN_NAMESPACE
        if not self._is_valid(cookie, now) and now - self._listed >= _RECHECK_SECONDS:
            self._listed = now
            with suppress(OSError):  # /proc cannot be listed now: the next lookup tries again
                self._refresh(now)
                self._read_all_cookies(now)
        return self._inodes.get(cookie)

    def call_in(self, cookie: int, function: Callable[[], T], now: float) -> T | None:
        """Return what `function` returns inside the namespace of a cookie; `now` is in seconds.

        None if `function` raises OSError, or the namespace is not found or may not be entered.
        """
        inode = self.find_inode(cookie, now)
        if inode is None:
            return None
        with suppress(OSError):
            if inode == OWN_NAMESPACE:
                return function()
            pid = self._processes.find_process(inode)
            if pid is not None:
                return call_inside(pid, inode, partial(_call_if, cookie, function), self._procfs)
        return None

    def call_in_others(self, function: Callable[[], T], now: float) -> Iterator[T]:
        """Yield what `function` returns inside each namespace but this thread's.

        Namespaces that may not be entered, or in which `function` raises OSError, are left out;
        `now` is in seconds. Raises OSError if the processes cannot be listed.
        """
        self._refresh(now)
        for inode in list(self._processes.by_namespace()):
            pid = self._processes.find_process(inode)
            if pid is None:
                continue
            try:
                visit = partial(_call_with_cookie, function)
                found = call_inside(pid, inode, visit, self._procfs)
            except OSError:
                self.not_entered += 1
                continue
            if found is not None:
                cookie, result = found
                self._add(inode, cookie)
                yield result

    def _find_cookie(self, inode: int) -> int | None:
        pid = self._processes.find_process(inode)
        if inode not in self._cookies and pid is not None:
            self._read_cookie(inode, pid)
        cookie = self._cookies.get(inode)
        return self._evicted.get(inode) if cookie is None and pid is None else cookie

    def _read_cookie(self, inode: int, pid: int) -> None:
        try:
            cookie = read_cookie(pid, inode, self._procfs)
        except OSError:
            self.not_entered += 1
            return
        if cookie is not None:
            self._add(inode, cookie)

    def _read_all_cookies(self, now: float) -> None:
        for inode in list(self._processes.by_namespace()):
            pid = self._processes.find_process(inode)
            if inode not in self._cookies and pid is not None:
                self._read_cookie(inode, pid)
        self._checked = dict.fromkeys(self._inodes, now)

    def _is_valid(self, cookie: int, now: float) -> bool:
        """Return whether the inode of a cookie is known and a process has stayed there."""
        inode = self._inodes.get(cookie)
        if inode is None:
            return False
        if now - self._checked.get(cookie, float("-inf")) < _RECHECK_SECONDS:
            return True
        if self._processes.find_process(inode) is None:
            self._evict(inode)
            return False
        self._checked[cookie] = now
        return True

    def _refresh(self, now: float) -> None:
        """List the processes again, and before that evict pairs whose processes are gone.

        After it, another namespace may have the same inode.
        """
        for inode in list(self._cookies):
            if self._processes.find_process(inode) is None:
                self._evict(inode)
        self._processes.refresh(now)

    def _add(self, inode: int, cookie: int) -> None:
        if inode in self._cookies:
            self._inodes.pop(self._cookies[inode], None)
        self._cookies[inode], self._inodes[cookie] = cookie, inode

    def _evict(self, inode: int) -> None:
        cookie = self._cookies.pop(inode)
        self._inodes.pop(cookie, None)
        self._checked.pop(cookie, None)
        self._evicted.pop(inode, None)
        self._evicted[inode] = cookie
        if len(self._evicted) > _MAX_EVICTED:
            self._evicted.popitem(last=False)


def _call_if(cookie: int, function: Callable[[], T]) -> T | None:
    """Return what `function` returns if this thread is in the namespace of the cookie."""
    return function() if read_own_cookie() == cookie else None


def _call_with_cookie(function: Callable[[], T]) -> tuple[int, T]:
    return read_own_cookie(), function()

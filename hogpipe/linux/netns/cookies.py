"""Network namespaces by their cookies, the numbers that the kernel gives each of them once.

The rest of the program knows a namespace by the inode of /proc/PID/ns/net. A socket tells the
cookie of the namespace that it was made in (SO_NETNS_COOKIE, Linux 5.14), so for another one than
our own a thread goes there for a moment, which takes CAP_SYS_ADMIN.
"""

import ctypes
import os
import socket
import struct
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TypeVar

from hogpipe.linux.netns.scan import NamespaceScan, read_own_namespace
from hogpipe.model import OWN_NAMESPACE

T = TypeVar("T")

_SO_NETNS_COOKIE = 71  # include/uapi/asm-generic/socket.h
_CLONE_NEWNET = 0x40000000
_KEPT = 4096


def read_own_cookie() -> int:
    """Return the cookie of the namespace that this thread is in. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        raw = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    return int(struct.unpack("=Q", raw)[0])


def read_cookie(pid: int, namespace: int, procfs: Path = Path("/proc")) -> int | None:
    """Return the cookie of the namespace of a process, None if that is not `namespace` by now.

    Raises OSError where it may not be entered.
    """
    return call_inside(pid, namespace, read_own_cookie, procfs)


def call_inside(
    pid: int, namespace: int, work: Callable[[], T], procfs: Path = Path("/proc")
) -> T | None:
    """Return what `work` returns in a thread of its own in the namespace of a process.

    None if that is not `namespace` by now. Raises OSError where it may not be entered, and what
    `work` raises.
    """
    try:
        file = os.open(procfs / str(pid) / "ns" / "net", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        if os.fstat(file).st_ino != namespace:
            return None
        return _call_inside(file, work)
    finally:
        os.close(file)


def _call_inside(namespace: int, work: Callable[[], T]) -> T:
    found: list[T] = []
    errors: list[BaseException] = []

    def visit() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)  # os.setns comes with Python 3.12
            if libc.setns(namespace, _CLONE_NEWNET):
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))  # noqa: TRY301
            found.append(work())
        except BaseException as error:  # noqa: BLE001 - it is raised again in the caller
            errors.append(error)

    visitor = threading.Thread(target=visit, name="netns-visit")
    visitor.start()
    visitor.join()
    if errors:
        raise errors[0]
    return found[0]


class NamespaceCookies:
    """The cookies of namespaces that were asked for. Raises OSError where even ours is not told."""

    def __init__(self, own_namespace: int, procfs: Path = Path("/proc")) -> None:
        self._procfs = procfs
        self._own_namespace = own_namespace
        self._own = read_own_cookie()
        self._known: dict[int, int] = {}
        self._former: dict[int, int] = {}
        """Of namespaces that no process is in, the last one last."""
        self.refused = 0
        """Namespaces that could not be entered; the number only grows."""

    def cookie_of(self, namespace: int, pid: int | None) -> int | None:
        """Return the cookie of a namespace, through the process `pid` in it; None if not to be had.

        The kernel may give the inode of a namespace that is gone to another one, so what was read
        holds only as long as `keep` says. After that it is the answer as long as there is no `pid`:
        what is asked for was seen when there was one.
        """
        if namespace == self._own_namespace:
            return self._own
        cookie = self._known.get(namespace)
        if cookie is None and pid is not None:
            try:
                cookie = read_cookie(pid, namespace, self._procfs)
            except OSError:
                self.refused += 1
                return None
            if cookie is not None:
                self._known[namespace] = cookie
        return self._former.get(namespace) if cookie is None and pid is None else cookie

    def visit(self, namespace: int, pid: int, work: Callable[[], T]) -> T | None:
        """Return what `work` returns in a namespace, through the process `pid` in it; learn it.

        None if it cannot be entered, or is another one by now, or `work` raises OSError.
        """
        try:
            found = call_inside(pid, namespace, lambda: (read_own_cookie(), work()), self._procfs)
        except OSError:
            self.refused += 1
            return None
        if found is None:
            return None
        self._known[namespace] = found[0]
        return found[1]

    def keep(self, namespaces: "set[int]") -> None:
        """Take those that are not among these for gone: processes are in these now."""
        for gone in self._known.keys() - namespaces:
            self._former.pop(gone, None)
            self._former[gone] = self._known.pop(gone)
        while len(self._former) > _KEPT:
            del self._former[next(iter(self._former))]


class NamespaceNames:
    """Finds the cookies of namespaces in which flows are. For one thread at a time.

    Raises OSError where the kernel tells no cookies.
    """

    def __init__(self, procfs: Path) -> None:
        self._scan = NamespaceScan(procfs, read_own_namespace())
        self._cookies = NamespaceCookies(OWN_NAMESPACE, procfs)
        self.own = self._cookies.cookie_of(OWN_NAMESPACE, None)
        """The cookie of the namespace that is captured in."""

    @property
    def refused(self) -> int:
        """Return how often a namespace could not be entered."""
        return self._cookies.refused

    def recognise(self, namespaces: Collection[int], now: float) -> dict[int, int]:
        """Return the cookies of those that can be recognised; `now` is in seconds."""
        guests = {*namespaces} - {OWN_NAMESPACE}
        if any(self._scan.find_process(one) is None for one in guests):
            # What is not lived in by a known process may be another one under the same number.
            known = list(self._scan.namespaces())
            self._cookies.keep({one for one in known if self._scan.find_process(one) is not None})
            self._scan.refresh(now)
        found = {}
        for namespace in namespaces:
            pid = None if namespace == OWN_NAMESPACE else self._scan.find_process(namespace)
            cookie = self._cookies.cookie_of(namespace, pid)
            if cookie is not None:
                found[namespace] = cookie
        return found

    def visit_guests(self, work: Callable[[], T], now: float) -> Iterator[T]:
        """Yield what `work` returns in each other namespace that a process is in.

        Those that cannot be entered are left out; `now` is in seconds. Raises OSError if the
        processes cannot be listed.
        """
        self._scan.refresh(now)
        for namespace in list(self._scan.namespaces()):
            pid = self._scan.find_process(namespace)
            found = None if pid is None else self._cookies.visit(namespace, pid, work)
            if found is not None:
                yield found

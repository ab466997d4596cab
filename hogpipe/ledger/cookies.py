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
from pathlib import Path

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
    try:
        file = os.open(procfs / str(pid) / "ns" / "net", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        if os.fstat(file).st_ino != namespace:
            return None
        return _read_inside(file)
    finally:
        os.close(file)


def _read_inside(namespace: int) -> int:
    found: list[int] = []
    errors: list[OSError] = []

    def visit() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)  # os.setns comes with Python 3.12
            if libc.setns(namespace, _CLONE_NEWNET):
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))  # noqa: TRY301
            found.append(read_own_cookie())
        except OSError as error:
            errors.append(error)

    visitor = threading.Thread(target=visit, name="netns-cookie")
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
        self.refused = 0
        """Namespaces that could not be entered; the number only grows."""

    def cookie_of(self, namespace: int, pid: int | None) -> int | None:
        """Return the cookie of a namespace, through the process `pid` in it; None if not to be had.

        The kernel may give the inode of a namespace that is gone to another one, so answers are
        kept only as long as `keep` says.
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
        return cookie

    def keep(self, namespaces: "set[int]") -> None:
        """Forget all namespaces but these, which are there now."""
        self._known = {one: self._known[one] for one in self._known.keys() & namespaces}

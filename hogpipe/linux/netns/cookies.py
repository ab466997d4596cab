"""Reading the cookie of a network namespace, and running a function inside another namespace.

A socket reports the cookie of the namespace that it was made in (SO_NETNS_COOKIE, Linux 5.14). For
another namespace than this thread's, a short-lived thread enters it with setns(2), which takes
CAP_SYS_ADMIN, and makes its socket there.
"""

import ctypes
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hogpipe.linux.netns.namespace_processes import netns_path

T = TypeVar("T")

_SO_NETNS_COOKIE = 71  # include/uapi/asm-generic/socket.h
_CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h


def read_own_cookie() -> int:
    """Return the cookie of this thread's namespace. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        raw = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    return int(struct.unpack("=Q", raw)[0])


def read_cookie(pid: int, namespace: int, procfs: Path = Path("/proc")) -> int | None:
    """Return the cookie of a process's namespace; None if its inode is not `namespace` any more.

    Raises OSError if the namespace may not be entered.
    """
    return call_inside(pid, namespace, read_own_cookie, procfs)


def call_inside(
    pid: int, namespace: int, function: Callable[[], T], procfs: Path = Path("/proc")
) -> T | None:
    """Return what `function` returns in a thread inside the namespace of a process.

    None if the inode of that namespace is not `namespace` any more. Raises OSError if the namespace
    may not be entered, and whatever `function` raises.
    """
    try:
        descriptor = os.open(netns_path(procfs, pid), os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        if os.fstat(descriptor).st_ino != namespace:
            return None
        return _call_in_thread(descriptor, function)
    finally:
        os.close(descriptor)


def _call_in_thread(descriptor: int, function: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def enter_and_call() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)  # os.setns comes with Python 3.12
            if libc.setns(descriptor, _CLONE_NEWNET):
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))  # noqa: TRY301
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - it is raised again in the caller
            errors.append(error)

    thread = threading.Thread(target=enter_and_call, name="netns-visit")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]

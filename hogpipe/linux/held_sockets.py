"""The sockets of IP that a process holds, by their cookies.

In: a pid. Out: a `HeldSocket` for each socket of IPv4 or IPv6 among its descriptors. A process that
has exited holds none. Raises PermissionError where its descriptors may not be examined
(CAP_SYS_PTRACE), and OSError where descriptors are short.

Each socket is duplicated into this process for some microseconds (pidfd_getfd(2), Linux 5.6), so it
may be in any network namespace. Those of this very process are examined in place.

Known limits: threads with a table of descriptors of their own (unshare) are not examined.
"""

import errno
import os
import socket
import struct
from pathlib import Path

import msgspec

from hogpipe.linux.procfs import Procfs
from hogpipe.linux.system_calls import call_kernel

_SYS_PIDFD_GETFD = 438  # include/uapi/asm-generic/unistd.h, the same on every architecture
_SO_COOKIE = 57  # include/uapi/asm-generic/socket.h
_SO_NETNS_COOKIE = 71
_COOKIE = struct.Struct("=Q")
_IP = {socket.AF_INET, socket.AF_INET6}


class HeldSocket(msgspec.Struct, frozen=True, gc=False):
    """A socket of IP that a process holds."""

    cookie: int
    namespace: int
    """The cookie of its network namespace."""
    listening_port: int
    """Of a listening socket of TCP; 0 of any other."""


def read_held_sockets(pid: int, procfs: Procfs) -> list[HeldSocket]:
    """Return the sockets of a process."""
    numbers = [fd for fd in procfs.list_fds(pid) if procfs.read_socket_inode(pid, fd)]
    if not numbers:
        return []
    if pid == os.getpid() and procfs.root == Path("/proc"):
        return [one for fd in numbers if (one := _describe(fd)) is not None]
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return []
    try:
        return [one for fd in numbers if (one := _describe_in(pidfd, fd)) is not None]
    finally:
        os.close(pidfd)


def _describe_in(pidfd: int, number: int) -> HeldSocket | None:
    try:
        duplicate = call_kernel(_SYS_PIDFD_GETFD, pidfd, number, 0)
    except (ProcessLookupError, FileNotFoundError):
        return None
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        return None  # closed meanwhile
    try:
        return _describe(duplicate)
    finally:
        os.close(duplicate)


def _describe(descriptor: int) -> HeldSocket | None:
    """Return what a descriptor refers to, None if it is no socket of IP (any more)."""
    try:
        one = socket.socket(fileno=descriptor)
    except OSError:
        return None  # closed meanwhile, or another file by now
    try:
        if one.family not in _IP:
            return None
        port = 0
        if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            port = int(one.getsockname()[1])
        return HeldSocket(_read(one, _SO_COOKIE), _read(one, _SO_NETNS_COOKIE), port)
    except OSError:
        return None
    finally:
        one.detach()


def _read(one: socket.socket, option: int) -> int:
    return int(_COOKIE.unpack(one.getsockopt(socket.SOL_SOCKET, option, _COOKIE.size))[0])

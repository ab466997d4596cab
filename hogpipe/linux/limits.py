"""Descriptors and memory as limits: how to raise the first, and errors that report either.

A shortage is temporary: callers keep what is open and retry what failed.
"""

import errno
import resource
import socket
from contextlib import suppress

SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors that report exhausted descriptors or memory, whatever the call was for."""

_SO_RCVBUFFORCE = 33  # include/uapi/asm-generic/socket.h
_REMEDIES = dict.fromkeys(
    (errno.EMFILE, errno.ENFILE), "allow more open files (ulimit -n, LimitNOFILE=)"
) | dict.fromkeys((errno.ENOBUFS, errno.ENOMEM), "the host is out of memory")


def raise_descriptor_limit() -> None:
    """Raise the soft limit of open descriptors to the hard limit."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A sandbox may forbid the change; the soft limit then stays, and EMFILE reports it.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def set_receive_buffer(receiver: socket.socket, size: int) -> None:
    """Give a socket a receive buffer of `size` bytes.

    Without CAP_NET_ADMIN the kernel allows no more than net.core.rmem_max.
    """
    try:
        receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except PermissionError:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def explain_os_error(error: OSError) -> str:
    """Return the text of `error`, with the remedy if it reports a shortage."""
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{error.strerror or error}" + (f"; {remedy}" if remedy else "")

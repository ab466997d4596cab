"""Connections that the kernel tracks (conntrack), over NETLINK_NETFILTER.

In: tuples as on the wire. Out: the connection of each, with its tuples of both directions. The
connections are those of the calling thread's network namespace. Each call opens its own socket.

Raises OSError: EPERM without CAP_NET_ADMIN in the namespace, EINVAL or EPROTONOSUPPORT if the
kernel has no ctnetlink.

Known limit: connections in a conntrack zone of their own are not found.
"""

import errno
import os
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hogpipe.linux.ctnetlink_messages import (
    Answer,
    Connection,
    ConnectionTuple,
    build_query,
    parse_answer,
)

_NETLINK_NETFILTER = 12
_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")
_RECEIVE_BYTES = 1 << 13
# All answers to a batch must fit into the receive buffer, whose default is 208 KiB.
_REQUESTS_AT_ONCE = 64
# The kernel answers before `send` returns; the timeout only ends a wait for a lost answer.
_RECEIVE_TIMEOUT = struct.pack("@ll", 2, 0)


def has_connections() -> bool:
    """Return whether the kernel tracks any connection in this thread's namespace.

    It tracks none unless a rule of the packet filter there needs it, as translation does.
    """
    with suppress(OSError, ValueError):
        return int(_COUNT.read_bytes()) > 0
    return False


def read_connections(tuples: Sequence[ConnectionTuple]) -> list[Connection | None]:
    """Return the connection of each tuple; None where the kernel tracks none. Raises OSError."""
    found: list[Connection | None] = []
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, _NETLINK_NETFILTER) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _RECEIVE_TIMEOUT)
        for start in range(0, len(tuples), _REQUESTS_AT_ONCE):
            batch = tuples[start : start + _REQUESTS_AT_ONCE]
            link.send(b"".join(map(build_query, batch)))
            # One datagram answers each query, in the same order.
            found += [_accept(parse_answer(link.recv(_RECEIVE_BYTES))) for _ in batch]
    return found


def _accept(answer: Answer) -> Connection | None:
    if answer.error not in (0, errno.ENOENT):
        raise OSError(answer.error, os.strerror(answer.error), "conntrack")
    return answer.connection

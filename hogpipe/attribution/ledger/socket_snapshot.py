"""The sockets that were there before the ledger, and whose they are, for it to begin with.

Events tell nothing of a socket that was made, bound and connected before the programs were
attached. The kernel's tables do, over sock_diag, with the same cookie that events name it by. They
are read once for each network namespace in sight, after attaching, so that nothing falls between;
what events have told by then stands (`Ledger.ingest_snapshot`). The fds of processes are read after
that: a socket that nobody holds by then is gone, or its owner is for /proc to tell.

At some 10 us a socket, all told, this is for the thread that looks owners up, before the capture
begins.
"""

import errno
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping

import msgspec

from hogpipe.attribution.procfs.matching import protocol_of, unmap
from hogpipe.linux.netns.cookies import read_own_cookie
from hogpipe.linux.netns.network_namespaces import NetworkNamespaces
from hogpipe.linux.sock_diag import read_full_dump
from hogpipe.linux.socket_table import TCP_LISTEN, SocketRow
from hogpipe.model import (
    Owner,
    Process,
    SnapshotSocket,
)
from hogpipe.protocols import TCP
from hogpipe.text import describe_error

log = logging.getLogger(__name__)

# In this order: there are few sockets that take datagrams, and of TCP the kernel gives those that
# listen first, so where there are too many it is connections that are left out.
_TABLES = ("udp", "udp6", "udplite", "udplite6", "tcp")


class SeenSocket(msgspec.Struct, frozen=True, gc=False):
    """A socket that somebody holds, as a table showed it."""

    cookie: int
    namespace: int
    """The cookie of its network namespace."""
    protocol: int
    local_address: bytes
    local_port: int
    remote_address: bytes
    remote_port: int
    user_id: int
    inode: int


def read_sockets(namespaces: NetworkNamespaces, now: float, most: int) -> list[SeenSocket]:
    """Return the sockets of this thread's network namespace and of others, `most` at the most.

    Namespaces that may not be entered are left out; `now` is in seconds. Raises OSError where the
    processes in others cannot be listed.
    """
    seen = list(_read_here(most))

    def read() -> list[SeenSocket]:
        return list(_read_here(most - len(seen)))

    for found in namespaces.call_in_others(read, now):
        seen.extend(found)
    return seen


def make_seeds(
    sockets: Collection[SeenSocket], holders: Mapping[int, Process]
) -> Iterator[SnapshotSocket]:
    """Yield what the ledger is to know of `sockets`; `holders` are their owners by inode.

    Those that take what comes to a port come first.
    """
    owners: dict[tuple[int, int | None], Owner] = {}
    for is_connected in (False, True):
        for one in sockets:
            if (one.remote_port > 0) is is_connected:
                yield SnapshotSocket(
                    one.cookie,
                    one.namespace,
                    one.protocol,
                    one.local_address,
                    one.local_port,
                    one.remote_address,
                    one.remote_port,
                    _owner(holders.get(one.inode), one.user_id, owners),
                )


def inodes_of(sockets: Iterable[SeenSocket]) -> Collection[int]:
    """Return the inodes by which their holders are found."""
    return [one.inode for one in sockets]


def _owner(
    process: Process | None, user_id: int, known: dict[tuple[int, int | None], Owner]
) -> Owner | None:
    """Return the owner that a process is; one object for each."""
    if process is None:
        return None
    key = process.pid, process.start
    if key not in known:
        known_id = user_id if process.user_id is None else process.user_id
        known[key] = Owner(*key, known_id, process.command or "", cgroup=0)
    return known[key]


def _read_here(most: int) -> Iterator[SeenSocket]:
    namespace = read_own_cookie()
    addresses: dict[bytes, bytes] = {}  # equal ones are one object: there are few, many times
    for table in _TABLES:
        try:
            dump = read_full_dump(table, most)
        except OSError as error:
            if error.errno != errno.ENOENT:  # the kernel has no such protocol
                reason = describe_error(error)
                log.info("sockets from before the start are told by /proc alone: %s", reason)
            continue
        protocol = protocol_of(table)
        for cookie, row in zip(dump.cookies, dump.rows, strict=True):
            if most > 0 and _can_be_found(protocol, row):
                most -= 1
                here, there = unmap(row.local_address), unmap(row.remote_address)
                yield SeenSocket(
                    cookie,
                    namespace,
                    protocol,
                    addresses.setdefault(here, here),
                    row.local_port,
                    addresses.setdefault(there, there),
                    row.remote_port,
                    row.user_id,
                    row.inode,
                )


def _can_be_found(protocol: int, row: SocketRow) -> bool:
    """Tell whether somebody holds the socket, and flows can be matched to it."""
    if not row.inode or not row.local_port:
        return False
    if row.remote_port:
        return True
    return row.state == TCP_LISTEN if protocol == TCP else not any(row.remote_address)

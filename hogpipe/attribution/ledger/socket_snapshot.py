"""Reads the sockets that are open, with their owners, for the ledger to begin with.

Events report nothing of a socket that was made, bound and connected before the programs were
attached, nor of one whose events were lost. The kernel's tables do: sock_diag reports each socket
with the cookie by which events name it.

Order
-----
1. The programs are attached (at the start), or the ledger prepares for a snapshot (after a loss).
2. The sockets of each visible network namespace are read. A socket made from now on is reported by
   events; the ledger keeps what events have reported meanwhile (`Ledger.ingest_snapshot`).
3. The fds of the processes are read. A socket that no process holds by then is closed, or its owner
   is left to /proc.

A snapshot costs some 10 us a socket, for the thread that resolves flows: the first one is taken
before the capture begins, the others `_MIN_INTERVAL` apart.
"""

import errno
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress

import msgspec

from hogpipe.attribution.ledger.socket_ledger import SocketLedger
from hogpipe.attribution.procfs.matching import protocol_of
from hogpipe.attribution.procfs.procfs_resolver import ProcfsResolver
from hogpipe.linux.netns.cookies import read_own_cookie
from hogpipe.linux.netns.network_namespaces import NetworkNamespaces
from hogpipe.linux.sock_diag import read_full_dump
from hogpipe.linux.socket_table import TCP_LISTEN, SocketRow
from hogpipe.model import MAX_SOCKETS, Process, SnapshotSocket, SocketOwner, unmap
from hogpipe.protocols import TCP
from hogpipe.text import describe_error

log = logging.getLogger(__name__)

_MIN_INTERVAL = 5.0
# Beyond the limit connections are left out: there are few datagram sockets, and the kernel reports
# the listening sockets of TCP first.
_TABLES = ("udp", "udp6", "udplite", "udplite6", "tcp")


class DumpedSocket(msgspec.Struct, frozen=True, gc=False):
    """A socket that a process holds, as the kernel's table shows it."""

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


class SnapshotTaker:
    """Takes snapshots for `ledger`; the owners come from `procfs_resolver`. For one thread."""

    def __init__(
        self,
        ledger: SocketLedger,
        namespaces: NetworkNamespaces,
        procfs_resolver: ProcfsResolver,
    ) -> None:
        self._ledger = ledger
        self._namespaces = namespaces
        self._procfs_resolver = procfs_resolver
        self._not_before = 0.0

    def take_first(self, now: float) -> None:
        """Take the snapshot that the ledger begins with, and prepare the resolver of /proc.

        `now` is in seconds. Raises OSError if /proc cannot be read.
        """
        sockets = read_sockets(self._namespaces, now, MAX_SOCKETS)
        self._procfs_resolver.prepare()
        owners = self._procfs_resolver.recall_socket_owners([one.inode for one in sockets])
        self._ledger.ingest_snapshot(with_owners(sockets, owners))

    def take_if_needed(self, now: float) -> None:
        """Take a snapshot if events were lost; one that fails is tried again later."""
        if now >= self._not_before and self._ledger.needs_snapshot():
            self._not_before = now + _MIN_INTERVAL
            with suppress(OSError):  # the ledger still needs it
                self._take(now)

    def _take(self, now: float) -> None:
        self._ledger.begin_snapshot()
        sockets = read_sockets(self._namespaces, now, MAX_SOCKETS)
        owners = self._procfs_resolver.recall_socket_owners([one.inode for one in sockets])
        missing = {one.inode: one.user_id for one in sockets if one.inode not in owners}
        owners |= self._procfs_resolver.find_socket_owners(missing)
        self._ledger.ingest_snapshot(with_owners(sockets, owners))


def read_sockets(namespaces: NetworkNamespaces, now: float, max_sockets: int) -> list[DumpedSocket]:
    """Return at most `max_sockets` sockets of this thread's network namespace and of the others.

    Namespaces that may not be entered are left out; `now` is in seconds. Raises OSError if the
    processes of other namespaces cannot be listed.
    """
    sockets = list(_read_here(max_sockets))

    def read() -> list[DumpedSocket]:
        return list(_read_here(max_sockets - len(sockets)))

    for found in namespaces.call_in_others(read, now):
        sockets.extend(found)
    return sockets


def with_owners(
    sockets: Collection[DumpedSocket], owners: Mapping[int, Process]
) -> Iterator[SnapshotSocket]:
    """Yield `sockets` with their owners, which are given by inode; unconnected sockets first."""
    known: dict[tuple[int, int | None], SocketOwner] = {}
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
                    _owner(owners.get(one.inode), one.user_id, known),
                )


def _owner(
    process: Process | None, user_id: int, known: dict[tuple[int, int | None], SocketOwner]
) -> SocketOwner | None:
    """Return a process as an owner; one object for each process."""
    if process is None:
        return None
    key = process.pid, process.start
    if key not in known:
        known_id = user_id if process.user_id is None else process.user_id
        known[key] = SocketOwner(*key, known_id, process.command or "", cgroup=0)
    return known[key]


def _read_here(max_sockets: int) -> Iterator[DumpedSocket]:
    namespace = read_own_cookie()
    addresses: dict[bytes, bytes] = {}  # many sockets share few addresses: keep each once
    left = max_sockets
    for table in _TABLES:
        try:
            dump = read_full_dump(table, left)
        except OSError as error:
            if error.errno != errno.ENOENT:  # this kernel lacks the protocol
                log.info(
                    "owners of sockets opened before the start come from /proc: %s",
                    describe_error(error),
                )
            continue
        protocol = protocol_of(table)
        for cookie, row in zip(dump.cookies, dump.rows, strict=True):
            if left > 0 and _can_be_matched(protocol, row):
                left -= 1
                local, remote = unmap(row.local_address), unmap(row.remote_address)
                yield DumpedSocket(
                    cookie,
                    namespace,
                    protocol,
                    addresses.setdefault(local, local),
                    row.local_port,
                    addresses.setdefault(remote, remote),
                    row.remote_port,
                    row.user_id,
                    row.inode,
                )


def _can_be_matched(protocol: int, row: SocketRow) -> bool:
    """Return whether a process holds the socket and flows can be matched to it."""
    if not row.inode or not row.local_port:
        return False
    if row.remote_port:
        return True
    return row.state == TCP_LISTEN if protocol == TCP else not any(row.remote_address)

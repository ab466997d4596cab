"""Sockets and their owners as the kernel recorded them: what a ledger ingests and returns.

Three types name a process, by how much is known of it:

- `SocketOwner`: what the kernel recorded at the moment when a process used a socket. It stays true
  after the process has exited.
- `linux.procfs.ProcessIdentity`: pid and start time, enough to tell whether two are the same.
- `Process`: the description that records carry, from /proc while the process is alive.

`User` stands where the process is unknown and only the user of a socket is known.
"""

import msgspec

from hogpipe.model.owners import Quality

MAX_SOCKETS = 32_768
"""The default bound on the sockets that a ledger keeps."""

SERVICE_MANAGER = "systemd"
"""The command of the system's service manager and of each user's. It binds sockets for the services
that it starts, and transmits none of their bytes. Its children that have yet to call exec have
other names."""


class SocketOwner(msgspec.Struct, frozen=True, gc=False):
    """A process as the kernel recorded it when it used a socket."""

    pid: int
    start: int | None
    """Clock ticks since boot; None if the process had exited before its start could be read."""
    user_id: int
    command: str
    cgroup: int
    """The id of its control group (v2), 0 if unknown."""
    cgroup_path: str | None = None
    """The path of that group in the v2 tree, as of when the process was first recorded; None if
    unknown."""


class LedgerEntry(msgspec.Struct, frozen=True, gc=False):
    """The socket and owner that a ledger found for a flow."""

    quality: Quality
    """EXACT: the owner connected the socket, transmitted on it first, or served the connection.
    LISTENER: the owner holds the local port, or the listening socket that accepted."""
    owner: SocketOwner
    cookie: int
    """The cookie of the socket."""
    may_outlive_owner: bool = False
    """Whether the socket may still be open in another process if the owner has exited: its release
    was not recorded, and its last event is some time ago."""
    is_released: bool = False
    """Whether the release of the socket was recorded: /proc shows nothing of it any more."""
    is_lasting: bool = False
    """Whether the socket may be open and its last event is some time ago, so that a process may
    have passed it on to another one since; no event reports that."""
    used_ns: int = 0
    """When its last event happened, nanoseconds since boot; 0 if unknown."""
    awaits_release: bool = False
    """Whether the ledger records who closes an accepted connection, but some time after that."""


class Contested(msgspec.Struct, frozen=True):
    """The result for a flow that several processes owned one after the other in the time asked for.

    Also for one that a process owned for a part of that time only.
    """


CONTESTED = Contested()


class SnapshotSocket(msgspec.Struct, frozen=True, gc=False):
    """An open socket as the kernel's tables show it, with its owner.

    Addresses are in network byte order, 4 bytes (also for v4-mapped ones) or 16. Without a remote
    port the socket listens or is not connected, and receives what arrives at its local port.
    """

    cookie: int
    namespace_cookie: int
    """The cookie of its network namespace."""
    protocol: int
    local_address: bytes
    local_port: int
    remote_address: bytes
    remote_port: int
    owner: SocketOwner | None
    """None if no visible process holds the socket, or several unrelated ones do."""


def is_same_process(one: SocketOwner | None, other: SocketOwner | None) -> bool:
    """Return whether two owners are the same process, whichever of its threads used the socket."""
    if one is None or other is None:
        return False
    return (one.pid, one.start) == (other.pid, other.start)

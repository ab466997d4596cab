"""What a ledger answers with, and what it tells of its work."""

import msgspec

from hogpipe.model.owners import Quality

MOST_SOCKETS = 32_768
"""So many are known at the most, if nothing else is asked for."""

SERVICE_MANAGER = "systemd"
"""The system's manager and each user's: it binds sockets for the services that it starts, and moves
none of their bytes. Children that wait for exec have other names."""


class Owner(msgspec.Struct, frozen=True, gc=False):
    """A process as the kernel told it when it used a socket."""

    pid: int
    start: int | None
    """Clock ticks since boot; None where the process was gone before it could be looked at."""
    user_id: int
    command: str
    cgroup: int
    """The id of its control group (v2), 0 where it is not known."""
    cgroup_path: str | None = None
    """The path of that in the v2 tree, as it was when the process was first named; None where it
    is not known."""


class LedgerEntry(msgspec.Struct, frozen=True, gc=False):
    """Whose a flow is, and how that is known."""

    quality: Quality
    """EXACT: the owner connected, sent or served it. LISTENER: by its local port, or accepted."""
    owner: Owner
    cookie: int
    """The socket's."""
    lasting: bool = False
    """Whether the socket may still be open, and in other hands than the owner's should that be
    gone: its end was not told, and it was used some time ago."""
    over: bool = False
    """Whether its end was told: no more than this is known of it by anybody."""


class Contested(msgspec.Struct, frozen=True):
    """Several had a flow one after the other while its packets passed, or one for a part of it."""


CONTESTED = Contested()


class SnapshotSocket(msgspec.Struct, frozen=True, gc=False):
    """A socket that was there before the ledger, as the kernel's tables show it.

    Addresses are in network order, 4 bytes (also those of v4-mapped ones) or 16. Without a remote
    port it takes what comes to its local one: it listens, or is not connected.
    """

    cookie: int
    namespace: int
    """The cookie of its network namespace."""
    protocol: int
    local_address: bytes
    local_port: int
    remote_address: bytes
    remote_port: int
    owner: Owner | None
    """None where nobody is seen to hold it, or strangers are."""


def is_same(one: Owner | None, other: Owner | None) -> bool:
    """Tell whether two are the same process, known by whichever of its threads."""
    if one is None or other is None:
        return False
    return (one.pid, one.start) == (other.pid, other.start)

"""What a ledger answers with, and what it tells of its work."""

import msgspec

from hogpipe.model import Quality


class Owner(msgspec.Struct, frozen=True, gc=False):
    """A process as the kernel told it when it used a socket."""

    pid: int
    start: int | None
    """Clock ticks since boot; None where the process was gone before it could be looked at."""
    user_id: int
    command: str
    cgroup: int
    """The id of its control group (v2)."""


class LedgerEntry(msgspec.Struct, frozen=True, gc=False):
    """Whose a flow is, and how that is known."""

    quality: Quality
    """EXACT: the owner connected, sent or served it. LISTENER: by its local port, or accepted."""
    owner: Owner
    cookie: int
    """The socket's."""


class LedgerCounts(msgspec.Struct):
    """What a ledger has done since it was made; only `sockets` also falls."""

    sockets: int = 0
    """Sockets that are known now."""
    noted: int = 0
    """Events."""
    forgotten: int = 0
    """Sockets and answers that were forgotten before their time, because there were too many."""
    unknown: int = 0
    """Releases of sockets that were not known: forgotten before, or their events were lost."""
    shared: int = 0
    """Answers that were not given because sockets of several owners fit."""


def is_same(one: Owner | None, other: Owner | None) -> bool:
    """Tell whether two are the same process, known by whichever of its threads."""
    if one is None or other is None:
        return False
    return (one.pid, one.start) == (other.pid, other.start)

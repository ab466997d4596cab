"""The sockets that were there before the ledger: what it needs to remember of them.

Pure. Events come first, then what the tables of the kernel showed a little later. A socket that was
released in between must not come to life again: releases of sockets that nobody knows are noted
until the seeds are in.
"""

from collections.abc import Sequence

from hogpipe.attribution.ledger.known_socket import ANYWHERE, KnownSocket
from hogpipe.attribution.ledger.socket_events import SocketEvent
from hogpipe.linux.bpf.shapes import EventKind
from hogpipe.model import (
    Quality,
    SnapshotSocket,
    SocketOwner,
    is_same_process,
)


def says_less(event: SocketEvent, owner: SocketOwner | None, known: KnownSocket | None) -> bool:
    """Tell whether an event only names one of several that share a socket from before.

    Its owner is who of its holders bound it (kinship.py), not who happened to send first.
    """
    if known is None or not known.seeded or event.kind is not EventKind.SENT:
        return False
    return known.by_port and known.owner is not None and not is_same_process(known.owner, owner)


def is_shared(known: KnownSocket, seed: SnapshotSocket) -> bool:
    """Tell whether one of those that share a port was told because it has just sent."""
    both = known.owner is not None and seed.owner is not None
    return (
        both
        and known.by_port
        and not seed.remote_port
        and not is_same_process(known.owner, seed.owner)
    )


def the_owner(sockets: Sequence[KnownSocket]) -> SocketOwner | None:
    """Return the one owner of sockets, None if there is none or more than one."""
    owners = [one.owner for one in sockets]
    return owners[0] if owners and all(is_same_process(one, owners[0]) for one in owners) else None


class Seeding:
    """Which sockets from before may be taken in; `most` releases are noted until they are."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._released: dict[int, None] | None = {}
        """Unknown sockets by cookie, in the order of their release; None when the seeds are in."""
        self._losses = self._losses_at_reading = self._losses_made_good = 0
        self._since_ns = 0
        """From when on seeds are known; 0 for ages ago."""

    @property
    def is_wanted(self) -> bool:
        """Return whether events were lost, and sockets were not read since."""
        return self._losses > self._losses_made_good

    @property
    def is_sure(self) -> bool:
        """Return whether no events were lost since sockets are being read."""
        return self._losses == self._losses_at_reading

    def note_loss(self) -> None:
        """Note that events were lost."""
        self._losses += 1

    def note_release(self, cookie: int) -> None:
        """Note that a socket which is not known is gone."""
        if self._released is None:
            return
        self._released[cookie] = None
        if len(self._released) > self._most:
            del self._released[next(iter(self._released))]

    def admits(self, seed: SnapshotSocket) -> bool:
        """Tell whether a seed was not released meanwhile."""
        return self._released is None or seed.cookie not in self._released

    def begin(self, lost_until_ns: int) -> None:
        """Note releases: sockets are to be read anew.

        Those that are not known were made while events were lost, at the latest: others are told.
        """
        self._released = {}
        self._since_ns = lost_until_ns
        self._losses_at_reading = self._losses

    def socket_of(self, seed: SnapshotSocket) -> KnownSocket:
        """Return a socket as the ledger knows sockets, in no place yet.

        Another may have taken its place if events were lost since it was read.
        """
        return KnownSocket(
            seed.cookie,
            seed.namespace_cookie,
            seed.protocol,
            seed.owner,
            Quality.EXACT,
            seed.local_address,
            seed.local_port,
            seed.remote_address if seed.remote_port else ANYWHERE,
            seed.remote_port,
            since_ns=self._since_ns,
            sure_ns=None if self.is_sure else self._since_ns,
            seeded=True,
        )

    def end(self) -> None:
        """Note no more releases: the seeds are in."""
        self._released = None
        self._losses_made_good = self._losses_at_reading

"""The guests of this host as its links face them: which namespaces, and at which addresses.

Nothing tells when an address is given to a guest or when a process enters it, so that guests are
looked for again when links have changed, when packets pass of which no guest is known to be a part,
and now and then while packets pass at all. On a host whose captured links face no guest, and on one
where nothing passes, it costs nothing; else no more than a share of one core, saved up so that the
first look after a while is made at once.
"""

import logging
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from hogpipe.capture.addresses import LocalAddresses, add_guests
from hogpipe.capture.facing import Facing
from hogpipe.capture.interfaces import Selection
from hogpipe.capture.namespace_ids import read_namespace_ids
from hogpipe.capture.netlink import Link
from hogpipe.capture.recorded import read_local_addresses
from hogpipe.namespaces import NamespaceScan, read_own_namespace

log = logging.getLogger(__name__)

_CPU_SHARE = 0.02  # of one core
_MOST_SAVED = 0.02  # seconds
_PERIOD = 5.0  # to forget what is no more, while everything that passes is known
# Strangers may just be other hosts: while looks for them find nothing new, they become rarer.
_LEAST_PATIENCE, _MOST_PATIENCE = 0.02, 0.5


class _Guest(msgspec.Struct, frozen=True):
    namespace: int
    pid: int
    addresses: LocalAddresses


class Guests:
    """Follows the guests that captured links face. For one thread, in the captured namespace."""

    def __init__(self, procfs: Path) -> None:
        self._procfs = procfs
        self._scan: NamespaceScan | None = None
        self._faced: dict[int, frozenset[int]] = {}
        """By index of a captured link: the ids of the namespaces that it faces."""
        self._guests: dict[int, _Guest] = {}
        """By id of the namespace."""
        self._others: set[int] = set()
        """Namespaces that no link of ours faced when links last changed."""
        self._wanted = False
        self._doubted: set[int] = set()
        """Captured links that strangers passed since the last look."""
        self._saved = _MOST_SAVED
        self._patience = 0.0
        self._looked = self._looked_at_all = 0.0

    def follow(self, links: Iterable[Link], captured: Iterable[Selection]) -> None:
        """Take note that links have changed, and which of them are captured on."""
        facing = Facing(links)
        faced = {one.link.index: facing.faced_by(one.link.index, one.elsewhere) for one in captured}
        self._faced = {index: ids for index, ids in faced.items() if ids}
        self._others.clear()
        self._doubted.update(self._faced)
        self._wanted = True
        self._patience = 0.0

    def want(self, index: int) -> None:
        """Take note that the link of `index` may face a guest or an address not known yet."""
        self._doubted.add(index)
        self._wanted = True

    def is_due(self, now: float) -> bool:
        """Tell whether it is time for another look; `now` is in seconds."""
        if not self._faced:
            return bool(self._guests)
        pause = max(-self._saved / _CPU_SHARE, self._patience) if self._wanted else _PERIOD
        return now >= self._looked + pause

    def refresh(self, now: float) -> bool:
        """Look for the guests again and return whether anything about them has changed."""
        before, started = self._guests, time.thread_time()
        wanted = frozenset().union(*self._faced.values())
        if now - self._looked_at_all >= _PERIOD:
            self._looked_at_all = now
            self._doubted.update(self._faced)
        self._guests = self._find(wanted, now) if wanted else {}
        self._wanted = False
        self._doubted.clear()
        if len(self._guests) != len(before):
            log.info("network namespaces at captured interfaces: %d", len(self._guests))
        self._saved += (now - self._looked) * _CPU_SHARE
        self._saved = min(self._saved, _MOST_SAVED) - (time.thread_time() - started)
        self._looked = now
        if self._guests != before:
            self._patience = 0.0
            return True
        self._patience = min(max(2 * self._patience, _LEAST_PATIENCE), _MOST_PATIENCE)
        return False

    def faces_any(self, index: int) -> bool:
        """Tell whether the link of `index` faces guests, known or not."""
        return index in self._faced

    def add_to(
        self, local: LocalAddresses, index: int, *, guests_only: bool = False
    ) -> LocalAddresses:
        """Return `local` with what the link of `index` faces."""
        guests = [self._guests[one] for one in self._faced.get(index, ()) if one in self._guests]
        known = {guest.namespace: guest.addresses for guest in guests}
        return add_guests(local, known, guests_only=guests_only)

    def _find(self, wanted: frozenset[int], now: float) -> dict[int, _Guest]:
        if self._scan is None:
            self._scan = NamespaceScan(self._procfs, read_own_namespace())
        scan = self._scan
        try:
            scan.refresh(now)
        except OSError:
            return {}  # attribution meets the same and tells it
        # While a known process is in its namespace, both keep their numbers.
        found = {
            one: (guest.namespace, guest.pid)
            for one, guest in self._guests.items()
            if one in wanted and scan.is_in(guest.pid, guest.namespace)
        }
        if missing := wanted - found.keys():
            known = self._others.union(namespace for namespace, _pid in found.values())
            asked = [
                (namespace, pid)
                for namespace in scan.namespaces().keys() - known
                if (pid := scan.find_process(namespace)) is not None
            ]
            paths = [self._procfs / str(pid) / "ns/net" for _namespace, pid in asked]
            ids = zip(read_namespace_ids(paths) if paths else [], asked, strict=True)
            found.update((one, place) for one, place in ids if one in missing)
            self._others.update(namespace for namespace, _pid in asked)
            self._others.difference_update(namespace for namespace, _pid in found.values())
        doubted = frozenset().union(*[self._faced.get(index, ()) for index in self._doubted])
        return {
            one: self._read(place, None if one in doubted else self._guests.get(one))
            for one, place in found.items()
        }

    def _read(self, place: tuple[int, int], known: _Guest | None) -> _Guest:
        """Return the guest at (namespace, pid), as it is `known` if it is still that one."""
        if known is not None and (known.namespace, known.pid) == place:
            return known
        namespace, pid = place
        return _Guest(namespace, pid, read_local_addresses(self._procfs / str(pid)))

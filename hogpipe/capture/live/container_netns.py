"""The guests of this host as its links face them: which namespaces, and at which addresses.

Nothing tells when an address is given to a guest or when a process enters it, so that guests are
looked for again when links have changed, when packets pass of which no guest is known to be a part,
and now and then while packets pass at all. On a host whose captured links face no guest, and on one
where nothing passes, it costs nothing; else no more than a share of one core, saved up so that the
first look after a while is made at once, and that on a host of many guests the addresses of all are
read again in several looks. Only the first look of all, before anything is captured, is one.
"""

import logging
import math
import time
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from pathlib import Path

import msgspec

from hogpipe.capture.live.link_selection import Selection
from hogpipe.capture.live.link_topology import LinkTopology
from hogpipe.capture.local_addresses import LocalAddresses, add_guests
from hogpipe.linux.limits import explain_os_error
from hogpipe.linux.netns.namespace_processes import (
    NamespaceProcesses,
    netns_path,
    read_own_namespace,
)
from hogpipe.linux.netns.nsid import read_nsids
from hogpipe.linux.procfs_addresses import read_local_addresses
from hogpipe.linux.rtnetlink import Link

log = logging.getLogger(__name__)

_CPU_SHARE = 0.02  # of one core
_MOST_SAVED = 0.02  # seconds
_MOST_READING = 0.01  # seconds of CPU for addresses in one look
_PERIOD = 5.0  # to forget what is no more, while everything that passes is known
# Strangers may just be other hosts: while looks for them find nothing new, they become rarer.
_LEAST_PATIENCE, _MOST_PATIENCE = 0.02, 0.5


class _Guest(msgspec.Struct, frozen=True):
    namespace: int
    pid: int
    addresses: LocalAddresses


class ContainerNamespaces:
    """Follows the guests that captured links face. For one thread, in the captured namespace."""

    def __init__(self, procfs: Path) -> None:
        self._procfs = procfs
        self._processes: NamespaceProcesses | None = None
        self._faced: dict[int, frozenset[int]] = {}
        """By index of a captured link: the ids of the namespaces that it faces."""
        self._guests: dict[int, _Guest] = {}
        """By id of the namespace."""
        self._others: set[int] = set()
        """Namespaces that no link of ours faced when all were last asked."""
        self._wanted = False
        self._unfound = False
        """Whether a namespace that a link faces has no process that is known."""
        self._doubted: set[int] = set()
        """Captured links that strangers passed since the last look, or that face others now."""
        self._stale: set[int] = set()
        """Ids of namespaces whose addresses are to be read again."""
        self._saved = _MOST_SAVED
        self._patience = 0.0
        self._looked = self._looked_at_all = 0.0
        self._short = False
        """Whether the last look failed, which has been told."""

    def follow(self, links: Iterable[Link], captured: Iterable[Selection]) -> None:
        """Take note that links have changed, and which of them are captured on."""
        facing = LinkTopology(links)
        faced = {one.link.index: facing.faced_by(one.link.index, one.elsewhere) for one in captured}
        before, self._faced = self._faced, {index: ids for index, ids in faced.items() if ids}
        self._others.clear()
        self._doubted.update(
            index for index, ids in self._faced.items() if before.get(index) != ids
        )
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
        return now >= self._looked + self._pause()

    def _pause(self) -> float:
        spent = -self._saved / _CPU_SHARE
        if self._wanted:
            return max(spent, self._patience)
        # A process may have entered a namespace that was empty.
        return max(spent, _MOST_PATIENCE) if self._unfound else _PERIOD

    def refresh(self, now: float) -> bool:
        """Look for the guests again and return whether anything about them has changed.

        Those that were known stay if there are no descriptors or no memory to look.
        """
        before, started = self._guests, time.thread_time()
        if now - self._looked_at_all >= _PERIOD:
            self._looked_at_all = now
            self._stale.update(*self._faced.values())
            self._others.clear()
        try:
            self._guests = self._find(now)
        except OSError as error:
            self._tell(error)
            unread = True
        else:
            self._short = False
            unread = bool(self._stale)
            self._doubted.clear()
        self._wanted = unread
        if len(self._guests) != len(before):
            log.info("network namespaces at captured interfaces: %d", len(self._guests))
        self._saved += (now - self._looked) * _CPU_SHARE
        self._saved = min(self._saved, _MOST_SAVED) - (time.thread_time() - started)
        self._looked = now
        if self._short:
            self._patience = _MOST_PATIENCE
        elif self._guests != before or unread:
            self._patience = 0.0
        else:
            self._patience = min(max(2 * self._patience, _LEAST_PATIENCE), _MOST_PATIENCE)
        return self._guests != before

    def _tell(self, error: OSError) -> None:
        if not self._short:
            log.warning(
                "network namespaces at captured interfaces cannot be looked for now: %s; those "
                "known stay, and it is tried again",
                explain_os_error(error),
            )
        self._short = True

    def faces_any(self, index: int) -> bool:
        """Tell whether the link of `index` faces a namespace, whether or not that is known."""
        return index in self._faced

    def add_to(
        self, local: LocalAddresses, index: int, *, guests_only: bool = False
    ) -> LocalAddresses:
        """Return `local` with what the link of `index` faces."""
        guests = [self._guests[one] for one in self._faced.get(index, ()) if one in self._guests]
        known = {guest.namespace: guest.addresses for guest in guests}
        return add_guests(local, known, guests_only=guests_only)

    def _find(self, now: float) -> dict[int, _Guest]:
        wanted = frozenset().union(*self._faced.values())
        first = self._processes is None
        places = self._find_places(wanted, now) if wanted else {}
        doubted = frozenset().union(*[self._faced.get(index, ()) for index in self._doubted])
        known = {
            one: _Guest(*place, guest.addresses)
            for one, place in places.items()
            if (guest := self._guests.get(one)) and guest.namespace == place[0]
        }
        self._stale = (self._stale | doubted | (places.keys() - known.keys())) & places.keys()
        # What is not known at all comes first, then what strangers make doubtful.
        order = sorted(self._stale, key=lambda one: (one in known, one not in doubted))
        until = math.inf if first else time.thread_time() + _MOST_READING
        for one in order:
            namespace, pid = places[one]
            addresses = LocalAddresses.from_procfs(read_local_addresses(self._procfs, pid))
            known[one] = _Guest(namespace, pid, addresses)
            self._stale.discard(one)
            if time.thread_time() >= until:
                break
        return known

    def _find_places(self, wanted: AbstractSet[int], now: float) -> dict[int, tuple[int, int]]:
        """Return the namespace and a process in it of each id that is `wanted`, where known."""
        if self._processes is None:
            self._processes = NamespaceProcesses(self._procfs, read_own_namespace())
        processes = self._processes
        processes.refresh(now, thorough=self._unfound)
        # While a known process is in its namespace, both keep their numbers.
        found = {
            one: (guest.namespace, guest.pid)
            for one, guest in self._guests.items()
            if one in wanted and processes.is_in(guest.pid, guest.namespace)
        }
        if missing := wanted - found.keys():
            known = self._others.union(namespace for namespace, _pid in found.values())
            asked = [
                (namespace, pid)
                for namespace in processes.by_namespace().keys() - known
                if (pid := processes.find_process(namespace)) is not None
            ]
            paths = [netns_path(self._procfs, pid) for _namespace, pid in asked]
            for one, place in zip(read_nsids(paths) if paths else [], asked, strict=True):
                if one in missing:
                    found[one] = place
                elif one is not None:  # None: it could not be asked, and may be one of ours
                    self._others.add(place[0])
        self._unfound = found.keys() != wanted
        return found

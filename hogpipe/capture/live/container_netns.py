"""The containers behind captured links: their network namespaces and addresses.

A container here is any other network namespace that a captured link leads to and that has a
process. In: links, selections, reports of unknown endpoints, the time. Out: for each link, the
addresses of the containers behind it, by the inode of their namespace.

When it reads
    The kernel reports neither that a namespace gets an address nor that a process enters it. So
    both are read again when links have changed, when packets pass between unknown endpoints, and
    every `_REREAD_SECONDS` while packets pass at all. Where no captured link leads to a container,
    nothing is read.

What it costs
    At most `_CPU_SHARE` of a core. Unused CPU time is saved up to `_MAX_CPU_SAVED`, so that the
    first refresh after a quiet time is immediate. The addresses of many containers are read in
    several refreshes, except in the first one, before any packet is captured.

What may fail
    A refresh that lacks descriptors or memory keeps what was known and is retried. A container
    whose processes all exit before they are seen, or that procfs does not show, stays unknown.

For one thread, in the network namespace that is captured in.
"""

import logging
import math
import time
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NamedTuple

import msgspec

from hogpipe.capture.live.link_selection import Selection
from hogpipe.capture.live.link_topology import LinkTopology
from hogpipe.capture.local_addresses import LocalAddresses
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
_MAX_CPU_SAVED = 0.02  # seconds
_MAX_READ_SECONDS = 0.01  # of CPU time, for addresses in one refresh
_REREAD_SECONDS = 5.0  # between refreshes while all endpoints are known, and between full ones
# Unknown endpoints may just be other hosts: refreshes that find nothing new become rarer.
_MIN_BACKOFF, _MAX_BACKOFF = 0.02, 0.5


class _Namespace(NamedTuple):
    """A network namespace by its inode, and a process in it."""

    namespace: int
    pid: int


class _Container(msgspec.Struct, frozen=True):
    netns: _Namespace
    addresses: LocalAddresses


class ContainerNamespaces:
    """Follows the containers that captured links lead to; `procfs` shows their processes.

    Namespaces are kept by their nsid, by which a link names the namespace of its peer.
    """

    def __init__(self, procfs: Path) -> None:
        self._procfs = procfs
        self._processes: NamespaceProcesses | None = None
        self._leads_to: dict[int, frozenset[int]] = {}
        """By index of a captured link: the nsids of the namespaces that it leads to."""
        self._containers: dict[int, _Container] = {}
        """By nsid."""
        self._unrelated: set[int] = set()
        """Namespaces (inodes) that no captured link led to when the kernel was last asked."""
        self._requested = False
        """Whether a refresh was requested, or the last one could not read everything."""
        self._has_unknown = False
        """Whether a captured link leads to a namespace without a known process."""
        self._suspect_links: set[int] = set()
        """Links with an unknown endpoint, or that lead elsewhere, since the last refresh."""
        self._stale: set[int] = set()
        """Nsids of namespaces whose addresses are to be read again."""
        self._cpu_saved = _MAX_CPU_SAVED
        self._backoff = 0.0
        self._refreshed_at = self._reread_at = 0.0
        self._failing = False
        """Whether the last refresh failed, which has been logged."""

    def update_links(self, links: Iterable[Link], captured: Iterable[Selection]) -> None:
        """Take over `links`, all of this namespace, and those that are captured on."""
        topology = LinkTopology(links)
        before, self._leads_to = self._leads_to, {}
        for one in captured:
            index = one.link.index
            if nsids := topology.leads_to(index, one.counted_elsewhere):
                self._leads_to[index] = nsids
        self._unrelated.clear()
        self._suspect_links.update(
            index for index, nsids in self._leads_to.items() if before.get(index) != nsids
        )
        self._requested = True
        self._backoff = 0.0

    def request_refresh(self, index: int) -> None:
        """Record that the link of `index` may lead to an unknown container or address."""
        self._suspect_links.add(index)
        self._requested = True

    def is_due(self, now: float) -> bool:
        """Return whether a refresh is due; `now` is in seconds."""
        if not self._leads_to:
            return bool(self._containers)
        return now >= self._refreshed_at + self._pause()

    def refresh(self, now: float) -> bool:
        """Read the containers and their addresses; return whether any changed.

        Known containers are kept if there are no descriptors or no memory for reading.
        """
        before, started = self._containers, time.thread_time()
        if now - self._reread_at >= _REREAD_SECONDS:
            self._reread_at = now
            self._stale.update(*self._leads_to.values())
            self._unrelated.clear()
        try:
            self._containers = self._read_containers(now)
        except OSError as error:
            self._warn(error)
            incomplete = True
        else:
            self._failing = False
            incomplete = bool(self._stale)
            self._suspect_links.clear()
        self._requested = incomplete
        if len(self._containers) != len(before):
            log.info("network namespaces at captured interfaces: %d", len(self._containers))
        self._cpu_saved += (now - self._refreshed_at) * _CPU_SHARE
        self._cpu_saved = min(self._cpu_saved, _MAX_CPU_SAVED) - (time.thread_time() - started)
        self._refreshed_at = now
        changed = self._containers != before
        self._backoff = self._next_backoff(found_new=changed or incomplete)
        return changed

    def are_behind(self, index: int) -> bool:
        """Return whether the link of `index` leads to a namespace, known or not."""
        return index in self._leads_to

    def addresses_behind(self, index: int) -> dict[int, LocalAddresses]:
        """Return the addresses of the known containers behind the link of `index`, by namespace."""
        nsids = self._leads_to.get(index, ())
        known = [self._containers[one] for one in nsids if one in self._containers]
        return {container.netns.namespace: container.addresses for container in known}

    def _pause(self) -> float:
        """Return the seconds from the last refresh to the next one."""
        overspent = -self._cpu_saved / _CPU_SHARE
        if self._requested:
            return max(overspent, self._backoff)
        # A process may have entered a namespace that was empty.
        return max(overspent, _MAX_BACKOFF) if self._has_unknown else _REREAD_SECONDS

    def _next_backoff(self, *, found_new: bool) -> float:
        if self._failing:
            return _MAX_BACKOFF
        return 0.0 if found_new else min(max(2 * self._backoff, _MIN_BACKOFF), _MAX_BACKOFF)

    def _warn(self, error: OSError) -> None:
        if not self._failing:
            log.warning(
                "network namespaces at captured interfaces cannot be read now: %s; the known ones "
                "stay in use, and reading is retried",
                explain_os_error(error),
            )
        self._failing = True

    def _read_containers(self, now: float) -> dict[int, _Container]:
        """Return the containers behind captured links; what is left to read stays in `_stale`."""
        nsids = frozenset().union(*self._leads_to.values())
        is_first = self._processes is None
        namespaces = self._find_namespaces(nsids, now) if nsids else {}
        suspect = frozenset().union(*[self._leads_to.get(one, ()) for one in self._suspect_links])
        known = {
            one: _Container(netns, container.addresses)
            for one, netns in namespaces.items()
            if (container := self._containers.get(one))
            and container.netns.namespace == netns.namespace
        }
        self._stale = (
            self._stale | suspect | (namespaces.keys() - known.keys())
        ) & namespaces.keys()
        # Unknown addresses first, then those behind links with unknown endpoints.
        order = sorted(self._stale, key=lambda one: (one in known, one not in suspect))
        until = math.inf if is_first else time.thread_time() + _MAX_READ_SECONDS
        for one in order:
            found = read_local_addresses(self._procfs, namespaces[one].pid)
            known[one] = _Container(namespaces[one], LocalAddresses.from_procfs(found))
            self._stale.discard(one)
            if time.thread_time() >= until:
                break
        return known

    def _find_namespaces(self, nsids: AbstractSet[int], now: float) -> dict[int, _Namespace]:
        """Return the inode and a process of each namespace in `nsids`, where known."""
        if self._processes is None:
            self._processes = NamespaceProcesses(self._procfs, read_own_namespace())
        processes = self._processes
        processes.refresh(now, thorough=self._has_unknown)
        # While a known process is in its namespace, both keep their numbers.
        found = {
            one: container.netns
            for one, container in self._containers.items()
            if one in nsids and processes.is_in(container.netns.pid, container.netns.namespace)
        }
        if missing := nsids - found.keys():
            known = {netns.namespace for netns in found.values()}
            found |= self._ask_nsids(processes, missing, known)
        self._has_unknown = found.keys() != nsids
        return found

    def _ask_nsids(
        self, processes: NamespaceProcesses, missing: AbstractSet[int], known: AbstractSet[int]
    ) -> dict[int, _Namespace]:
        """Ask the kernel for the nsid of each other namespace; return the `missing` ones."""
        asked = [
            _Namespace(namespace, pid)
            for namespace in processes.by_namespace().keys() - self._unrelated - known
            if (pid := processes.find_process(namespace)) is not None
        ]
        paths = [netns_path(self._procfs, netns.pid) for netns in asked]
        found = {}
        for nsid, netns in zip(read_nsids(paths) if paths else [], asked, strict=True):
            if nsid is None:
                continue  # the kernel could not be asked: it may be one of the missing
            if nsid in missing:
                found[nsid] = netns
            else:
                self._unrelated.add(netns.namespace)
        return found

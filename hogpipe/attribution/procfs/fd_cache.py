"""Owners of sockets by inode, at a cost that follows the changes in /proc.

The fds of all processes are read once and cached. A lookup goes only as far as it must:

1. Fds that are known to hold a wanted socket are verified: the same process, the same socket.
2. Missing sockets are looked for in a few recently active processes, at likely fd numbers: first in
   those that are in the network namespace of the socket.
3. New processes are listed and read. From time to time, and for a socket that is missing again,
   all processes are refreshed.
4. A socket that is missing again is searched for in all processes.
5. A socket that no process holds is searched for in threads with fd tables of their own
   (`fd_scanner` has steps 3 to 5).

The owner follows from all processes that hold the socket (`shared_sockets`).

Bounds: the fds read in one lookup and the fds cached. A lookup that reaches the first one is
deferred: its sockets are absent from the result, counted in `deferred`, and the next lookup
continues. Times are seconds of the caller's clock.

Known limits: a second holder may be noticed as late as the next refresh. A second holder is never
noticed if it received the socket as a message (SCM_RIGHTS) at an fd number that it had just closed.
A socket at the former fd number of another one, in a process that was not active, is found as late
as a search takes: less than a second with 15,000 fds on the host. A socket that a process has only
in a ring of io_uring (a direct descriptor) has no fd and is not found. Nor are the first
short-lived sockets of a thread that leaves the fd table of its process (unshare(2)) while hogpipe
runs: they are closed before step 5. With 16 processes active or younger, a sample does not find the
short-lived sockets of a process that was idle until then.
"""

import math
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice, takewhile
from types import MappingProxyType

from hogpipe.attribution.procfs.fd_reader import FdReader
from hogpipe.attribution.procfs.fd_scanner import FdScanner
from hogpipe.attribution.procfs.fd_table import KnownProcess
from hogpipe.attribution.procfs.shared_sockets import SharedSocketRules
from hogpipe.linux.netns.namespace_processes import NamespaceProcesses
from hogpipe.linux.procfs import ProcessIdentity, Procfs
from hogpipe.model import OWN_NAMESPACE

OWN_SOCKETS: Mapping[int, int] = MappingProxyType({})

_MAX_FDS_READ = 100_000
_MAX_FDS_CACHED = 262_144
_ACTIVE_LOOKUPS = 512  # lookups after a change for which a process counts as recently active
_MAX_LIKELY_PROCESSES = 16
_MAX_VERIFIED = 256  # sockets in a sample
_SAMPLE_PAUSE = 0.001  # seconds, in which the sampled processes run


class FdCache:
    """Finds the owners of sockets. The counters only grow; for one thread at a time.

    A lookup reads at most `max_fds` fds beyond those of the last process; at most `max_cached` are
    kept from one lookup to the next. `processes` knows the network namespace of processes; one that
    it does not know may hold any socket.
    """

    def __init__(
        self,
        procfs: Procfs,
        processes: NamespaceProcesses,
        *,
        max_fds: int = _MAX_FDS_READ,
        max_cached: int = _MAX_FDS_CACHED,
    ) -> None:
        self._processes = processes
        self._reader = FdReader(procfs)
        self._table = self._reader.table
        self._scanner = FdScanner(self._reader, max_fds)
        self._max_cached = max_cached
        self._lookup = 0
        self._is_read = False
        """Whether all fds of a /proc that does not change were read."""
        self._deferred = 0
        self.ambiguous = 0
        """Sockets without an owner because unrelated processes hold them, once for each lookup."""
        self.evicted = 0
        """Fds and missing sockets evicted because there were too many."""

    @property
    def fds_read(self) -> int:
        """Fds read."""
        return self._reader.fds_read

    @property
    def fd_scans(self) -> int:
        """Lookups that read fds beyond verifying known ones."""
        return self._reader.fd_scans

    @property
    def not_permitted(self) -> int:
        """Processes whose fds the kernel refused to show, once for each lookup."""
        return self._reader.not_permitted

    @property
    def deferred(self) -> int:
        """Sockets whose owner was left to the next lookup, once for each lookup."""
        return self._deferred + self._scanner.deferred

    def prepare(
        self, rules: SharedSocketRules, now: float, *, max_fds: float | None = None
    ) -> None:
        """Read the fds of all processes ahead of the first lookup. Raises OSError.

        At most `max_fds` fds, by default those of a lookup.
        """
        self._begin_lookup(now)
        self._scanner.refresh(set(), rules, -math.inf, self._lookup, max_fds=max_fds)
        self._scanner.scan_threads(rules, self._lookup)

    def find_owners(
        self,
        wanted: Mapping[int, int],
        rules: SharedSocketRules,
        now: float,
        namespaces: Mapping[int, int] = OWN_SOCKETS,
    ) -> dict[int, ProcessIdentity]:
        """Return the owners of sockets by inode; `wanted` has the users of the sockets.

        `namespaces` has the network namespaces of sockets elsewhere than in this one. `rules` are
        those of this lookup. Raises OSError if processes cannot be listed.
        """
        if not wanted:
            return {}
        self._begin_lookup(now)
        users = set(wanted.values())
        missing = self._read_likely_inside(self._verify(wanted, rules), namespaces)
        if self._scanner.has_missed_since_refresh(missing) or self._scanner.is_refresh_due(now):
            is_complete = self._scanner.refresh(users, rules, now, self._lookup)
        else:
            is_complete = not missing or self._scanner.read_new(users, rules, self._lookup)
        if not is_complete:
            self._deferred += len(wanted)
            return {}
        lost = self._scanner.search(self._verify(wanted, rules), wanted, now, self._lookup)
        self._scanner.search_threads(lost, wanted, rules, now, self._lookup)
        found = self._own(wanted, rules)
        self._evict()
        return found

    def find_recorded_owners(
        self, wanted: Collection[int], rules: SharedSocketRules
    ) -> dict[int, ProcessIdentity]:
        """Return the owners of sockets by inode, where /proc does not change. Raises OSError.

        The first call reads all fds, whatever their number, and none is verified afterwards.
        """
        if not self._is_read:
            self.prepare(rules, 0.0, max_fds=math.inf)
            self._is_read = True
        return self._own(wanted, rules)

    def are_held(self, inodes: Iterable[int]) -> bool:
        """Return whether a process holds any of these sockets, as the last lookups found."""
        return any(self._table.references(inode) for inode in inodes)

    def seen_for(self, inodes: Iterable[int], now: float) -> float:
        """Return for how many seconds at least all these sockets have been open."""
        seen_at = (self._table.seen_at(inode) for inode in inodes)
        return min((0.0 if at is None else now - at for at in seen_at), default=0.0)

    def have_sole_holder(self, inodes: Iterable[int], rules: SharedSocketRules) -> bool:
        """Return whether one service holds all these sockets, as the last lookup found them."""
        holders = {process.pid for inode in inodes for process in self._holders(inode)}
        return rules.accepts_for_itself(holders)

    def cached_owners(
        self, wanted: Collection[int], rules: SharedSocketRules
    ) -> dict[int, ProcessIdentity]:
        """Return the owners of sockets by the cached fds, without verifying them.

        The cache does not change: later lookups do not prefer the processes found here.
        """
        owners = {inode: self._owner(self._holders(inode), rules) for inode in wanted}
        return {inode: owner for inode, owner in owners.items() if owner is not None}

    def sample_owners(
        self,
        read_sockets: Callable[[], Mapping[int, int]],
        likely_pids: Collection[int],
        rules: SharedSocketRules,
        now: float,
        *,
        max_reads: int = 1,
        namespace: int = OWN_NAMESPACE,
    ) -> dict[int, ProcessIdentity]:
        """Return the owners of short-lived sockets that exist now, as far as a quick lookup can.

        `read_sockets` returns the users of the existing sockets by inode. The sockets may close at
        any moment, so the fds of a few processes are read right before and right after it:
        `likely_pids`, the recently active processes, and the youngest ones. The process that is
        read closest to it is found most often, so the order is random: no process has a better
        chance because it was found before. `read_sockets` is called again, at most `max_reads`
        times in all, while there is no socket, or one that no process is known to hold; the result
        has the owners of the sockets of all calls. All sockets are in `namespace`.
        """
        self._begin_lookup(now)
        first = [process for process in map(self._table.get, likely_pids) if process is not None]
        others = self._find_likely([namespace])[namespace]
        likely = [*first, *(process for process in others if process.pid not in likely_pids)]
        youngest = (one for one in self._youngest(None, namespace) if one.fds and one not in likely)
        likely += list(islice(youngest, max(0, _MAX_LIKELY_PROCESSES - len(likely))))
        missed: set[int] = set()
        wanted, missing = self._sample_once(read_sockets, likely, rules, namespace)
        found = self._own(wanted, rules)
        for _ in range(max_reads - 1):
            if wanted and missing <= missed:  # sockets that stay without an owner end the sample
                break
            missed |= missing
            time.sleep(_SAMPLE_PAUSE)
            self._reader.begin_lookup()
            wanted, missing = self._sample_once(read_sockets, likely, rules, namespace)
            found |= self._own(wanted, rules)
        if missing and self._scanner.is_refresh_due(now):
            self._scanner.refresh(set(wanted.values()), rules, now, self._lookup)
        self._evict()
        return found

    def _sample_once(
        self,
        read_sockets: Callable[[], Mapping[int, int]],
        likely: list[KnownProcess],
        rules: SharedSocketRules,
        namespace: int,
    ) -> tuple[Mapping[int, int], set[int]]:
        """Return the sockets that exist now, and those of them that no likely process holds.

        If some are missing, the youngest processes are added to `likely`.
        """
        random.shuffle(likely)
        for process in reversed(likely):
            self._reader.read_likely_fds(process)
        wanted = read_sockets()
        known = {inode for inode in wanted if self._table.references(inode)}
        self._verify(list(islice(known, _MAX_VERIFIED)), rules)
        missing = {inode for inode in wanted if not self._table.references(inode)}
        self._read_likely(likely, missing)
        if missing:
            youngest = self._youngest(set(wanted.values()), namespace)
            some = islice(youngest, _MAX_LIKELY_PROCESSES)
            added = [process for process in some if process not in likely]
            self._read_likely(added, missing)
            likely += added
        return wanted, missing

    def _begin_lookup(self, now: float) -> None:
        self._lookup += 1
        self._table.now = now
        self._reader.begin_lookup()

    def _verify(self, wanted: Collection[int], rules: SharedSocketRules) -> set[int]:
        """Verify the known fds of these sockets; return the sockets that no process holds."""
        verify = self._reader.verify
        return {inode for inode in wanted if not verify(inode, rules, self._lookup)}

    def _read_likely(self, processes: Iterable[KnownProcess], missing: set[int]) -> None:
        """Read likely fds of these processes; remove the sockets found from `missing`."""
        for process in processes:
            if not missing:
                return
            self._reader.read_likely_fds(process, missing)

    def _read_likely_inside(self, missing: set[int], namespaces: Mapping[int, int]) -> set[int]:
        """Read likely fds of processes in the namespaces of sockets; return what is missing yet.

        What is not found there is looked for in the others: a process may have a socket that it was
        passed, or that it made before it left a namespace.
        """
        by_namespace: dict[int, set[int]] = {}
        for inode in missing:
            namespace = namespaces.get(inode, OWN_NAMESPACE)
            by_namespace.setdefault(namespace, set()).add(inode)
        likely = self._find_likely(by_namespace)
        for namespace, inside in likely.items():
            self._read_likely(inside, by_namespace[namespace])
        missing = set().union(*by_namespace.values())
        read = {process.pid for inside in likely.values() for process in inside}
        active = islice(self._recently_active(), _MAX_LIKELY_PROCESSES)
        self._read_likely([process for process in active if process.pid not in read], missing)
        return missing

    def _find_likely(self, namespaces: Collection[int]) -> dict[int, list[KnownProcess]]:
        """Return, for each namespace, a few processes that may hold its sockets.

        First come the recently active ones, then, in other namespaces, any that are known.
        """
        likely: dict[int, list[KnownProcess]] = {namespace: [] for namespace in namespaces}
        incomplete = set(namespaces)
        for process in self._recently_active():
            if not incomplete:
                break
            namespace = self._namespace_of(process)
            for one in incomplete & {namespace} if namespace is not None else list(incomplete):
                likely[one].append(process)
                if len(likely[one]) == _MAX_LIKELY_PROCESSES:
                    incomplete.remove(one)
        for one in incomplete:
            pids = self._processes.by_namespace().get(one, ())
            known = (self._table.get(pid) for pid in pids)
            idle = (process for process in known if process and process not in likely[one])
            likely[one] += islice(idle, _MAX_LIKELY_PROCESSES - len(likely[one]))
        return likely

    def _recently_active(self) -> Iterator[KnownProcess]:
        oldest = self._lookup - _ACTIVE_LOOKUPS
        return takewhile(lambda process: process.last_active >= oldest, self._table.by_activity())

    def _youngest(self, users: Collection[int] | None, namespace: int) -> Iterator[KnownProcess]:
        by_age = sorted(self._table, key=lambda process: process.start, reverse=True)
        return (
            process
            for process in by_age
            if (users is None or process.directory.user_id in users)
            and self._namespace_of(process) in (namespace, None)
        )

    def _namespace_of(self, process: KnownProcess) -> int | None:
        return self._processes.find_namespace(process.identity.pid)

    def _own(self, wanted: Collection[int], rules: SharedSocketRules) -> dict[int, ProcessIdentity]:
        """Return the owners of the sockets that have one."""
        owners: dict[int, ProcessIdentity] = {}
        for inode in wanted:
            holders = self._holders(inode)
            self._record_match(inode)
            owner = self._owner(holders, rules)
            if owner is not None:
                owners[inode] = owner
            self.ambiguous += owner is None and len(holders) > 1
        return owners

    def _owner(
        self, holders: Collection[ProcessIdentity], rules: SharedSocketRules
    ) -> ProcessIdentity | None:
        if len(holders) == 1:
            (holder,) = holders
            return holder
        return rules.owner_of_socket([process.pid for process in holders])

    def _holders(self, inode: int) -> set[ProcessIdentity]:
        known = (self._table.get(pid) for pid, _fd in self._table.references(inode))
        return {process.identity for process in known if process is not None}

    def _record_match(self, inode: int) -> None:
        """Record that a socket was wanted: its holders, and its fds, may hold the next one, too."""
        for pid, fd in self._table.references(inode):
            process = self._table.get(pid)
            if process is not None:
                process.last_match = self._lookup
                self._table.mark_active(process, self._lookup)
                if fd not in process.recent_fds:
                    process.record_change(fd)

    def _evict(self) -> None:
        """Keep to the bounds: evict the fds of processes whose last match is the oldest."""
        self.evicted += self._scanner.evict_missing()
        if self._table.size > self._max_cached:
            for process in sorted(self._table, key=lambda known: known.last_match):
                self.evicted += self._table.evict_fds(process)
                if self._table.size <= self._max_cached:
                    return

"""Fd scans: reading the fds of many processes, within a bound for each lookup.

Four kinds, from cheap to expensive:

- `read_new`: list the processes, and read all fds of the new ones.
- `refresh`: also read the state of each directory of fds, and the new fds of each process whose
  state changed. The state counts the fd numbers that processes have reserved, as in a blocking
  accept(); of a process whose state has not changed those numbers are read. Refreshes are paced so
  that they take a small share of the time.
- `search`: read all fds of all processes, the likely holders first, until nothing is missing. Most
  sockets that are missing are just closed, so a search begins with the second lookup of a socket.
  One process may have more fds than all others together, so a lookup reads a slice of the fds only,
  and searches have a rate.
  An inode is searched for once in each process: a socket that no process holds (the kernel's own,
  as of WireGuard and NFS) costs a full scan only once.
- `search_threads`: for sockets that a complete search did not find, compare the fd tables of the
  threads of all processes with several threads, the likely holders first. An inode is searched for
  once in each process, and these searches, too, take a small share of the time. A table that was
  found is part of the other scans as long as its thread lives.

A scan that reaches the bound continues in the next lookup.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping

from hogpipe.attribution.procfs.fd_reader import FdReader
from hogpipe.attribution.procfs.fd_table import KnownProcess
from hogpipe.attribution.procfs.shared_sockets import SharedSocketRules
from hogpipe.linux.procfs import FdDirectory

_REFRESH_PAUSE = 0.05
_REFRESH_SHARE = 0.03  # of the time may go into refreshes
_SEARCH_DIVISOR = 20  # of the bound; most sockets that are searched for are closed
_SEARCH_RATE = 20_000  # fds a second, which take about an eighth of the time
_THREADS_SHARE = 0.01  # of the time may go into comparing the tables of threads
_MAX_THREADS = 10_000  # compared in a lookup, beyond those of the last process
_MAX_MISSING = 16_384


class FdScanner:
    """Scans fds with `reader`, at most `max_fds` in a lookup beyond those of the last process."""

    def __init__(self, reader: FdReader, max_fds: int) -> None:
        self._reader = reader
        self._table = reader.table
        self._max_fds = max_fds
        self._missing_since: OrderedDict[int, int] = OrderedDict()
        """By inode that no process seems to hold: the lookup in which it was first missing."""
        self._refreshed_at = -math.inf
        self._refreshed_in = 0  # the lookup
        self._refresh_cost = 0.0
        self._search_due_at = -math.inf
        self._threads_due_at = -math.inf
        self.deferred = 0
        """Sockets whose search was left to the next lookup, once for each lookup."""

    def is_refresh_due(self, now: float) -> bool:
        """Return whether the share of the time allows another refresh."""
        pause = max(_REFRESH_PAUSE, self._refresh_cost / _REFRESH_SHARE)
        return now >= self._refreshed_at + pause

    def has_missed_since_refresh(self, missing: Collection[int]) -> bool:
        """Return whether any of these sockets was missing in a lookup after the last refresh."""
        return any(self._missing_since.get(inode, 0) > self._refreshed_in for inode in missing)

    def refresh(
        self,
        users: Collection[int],
        rules: SharedSocketRules,
        now: float,
        lookup: int,
        *,
        max_fds: float | None = None,
    ) -> bool:
        """Read what is new in all processes; return False if the bound ended it.

        The bound is `max_fds` where that is given.
        """
        before = time.thread_time()
        directories = self._reader.list_fd_directories()
        most = self._max_fds if max_fds is None else max_fds
        is_complete = self._update(directories, users, rules, lookup, most)
        if is_complete:
            for pid in directories:
                self._reader.read_reserved(pid)
            self._refreshed_at, self._refresh_cost = now, time.thread_time() - before
            self._refreshed_in = lookup
        return is_complete

    def read_new(self, users: Collection[int], rules: SharedSocketRules, lookup: int) -> bool:
        """Read the fds of new processes; return False if the bound ended it."""
        directories = self._reader.list_fd_directories(new_only=True)
        return self._update(directories, users, rules, lookup, self._max_fds)

    def search(
        self, missing: Collection[int], wanted: Mapping[int, int], now: float, lookup: int
    ) -> set[int]:
        """Search for missing sockets, except those that are missing for the first time.

        `wanted` has the users of all sockets of the lookup by inode. Return the sockets that no
        process holds in the table of its first thread.
        """
        for inode in wanted.keys() - missing:
            self._missing_since.pop(inode, None)
        for inode in missing:
            self._missing_since.setdefault(inode, lookup)
        sought = {inode for inode in missing if self._missing_since[inode] < lookup}
        self.deferred += len(missing) - len(sought)
        due = self._search_order(sought, {wanted[inode] for inode in sought})
        if not due:
            return sought
        if now < self._search_due_at:
            self.deferred += len(sought)
            return set()
        before = self._reader.fds_read
        lost = self._search_in(due, sought, lookup)
        self._search_due_at = now + (self._reader.fds_read - before) / _SEARCH_RATE
        return lost

    def _search_in(self, processes: list[KnownProcess], sought: set[int], lookup: int) -> set[int]:
        """Search in these processes; return what none holds, nothing if the bound ended it."""
        limit = self._reader.fds_read + max(1, self._max_fds // _SEARCH_DIVISOR)
        for process in processes:
            here = {one for one in sought if self._missing_since[one] > process.last_scan}
            left = limit - self._reader.fds_read
            if here and (left <= 0 or not self._reader.rescan(process, here, lookup, left)):
                sought = {inode for inode in sought if not self._table.references(inode)}
                self.deferred += len(sought)
                return set()
            sought = {inode for inode in sought if not self._table.references(inode)}
        return sought

    def search_threads(
        self,
        sought: set[int],
        wanted: Mapping[int, int],
        rules: SharedSocketRules,
        now: float,
        lookup: int,
    ) -> None:
        """Search for sockets in the tables that threads have of their own."""
        latest = max((self._missing_since[inode] for inode in sought), default=0)
        due = [process for process in self._table if process.last_thread_scan < latest]
        if not due:
            return
        if now < self._threads_due_at:
            self.deferred += len(sought)
            return
        before = time.thread_time()
        self._sort_by_priority(due, {wanted[inode] for inode in sought})
        limit = self._reader.threads_compared + _MAX_THREADS
        for process in due:
            if not sought:
                break
            if self._reader.threads_compared >= limit:
                self.deferred += len(sought)
                break
            self._reader.scan_threads(process, rules, lookup)
            sought = {inode for inode in sought if not self._table.references(inode)}
        self._threads_due_at = now + (time.thread_time() - before) / _THREADS_SHARE

    def scan_threads(self, rules: SharedSocketRules, lookup: int) -> None:
        """Add the tables that threads of known processes have of their own."""
        for process in list(self._table):
            self._reader.scan_threads(process, rules, lookup)

    def evict_missing(self) -> int:
        """Keep to the bound of missing sockets; return how many were evicted."""
        excess = max(0, len(self._missing_since) - _MAX_MISSING)
        for _ in range(excess):
            self._missing_since.popitem(last=False)
        return excess

    def _update(
        self,
        directories: Mapping[int, FdDirectory],
        users: Collection[int],
        rules: SharedSocketRules,
        lookup: int,
        max_fds: float,
    ) -> bool:
        due = [pid for pid, one in directories.items() if not self._reader.is_unchanged(pid, one)]
        priority = self._table.priority
        due.sort(key=lambda pid: priority(pid, directories[pid].user_id, users), reverse=True)
        limit = self._reader.fds_read + max_fds
        for pid in due:
            if self._reader.fds_read >= limit:
                return False
            self._reader.update_process(pid, directories[pid], rules, lookup)
        return True

    def _search_order(self, sought: set[int], users: Collection[int]) -> list[KnownProcess]:
        """Return the processes that were not scanned since the latest of `sought` was missing."""
        latest = max((self._missing_since[inode] for inode in sought), default=0)
        due = [process for process in self._table if process.last_scan < latest]
        self._sort_by_priority(due, users)
        return due

    def _sort_by_priority(self, processes: list[KnownProcess], users: Collection[int]) -> None:
        priority = self._table.priority
        processes.sort(
            key=lambda one: priority(one.pid, one.directory.user_id, users), reverse=True
        )

"""From socket inodes to their owners, at a cost that follows what has changed in /proc.

The fds of all processes are read once, and kept. A look for sockets then goes on as far as it must:

1. Places that are known to hold one are verified: the same process, the same socket at that fd.
2. Sockets that are not known yet are looked for in the processes whose fds have changed lately, or
   that had sockets which were asked for.
3. Processes are listed, and of new ones all fds are read. From time to time, and for a socket that
   is asked for again, each folder of fds is asked for its state, and of processes with another
   number of fds than before those are read whose numbers are new.
4. Most sockets that are missing then are just closed. One that is asked for again may have taken
   the number of another, and is searched for in all processes, where it is likely first, and no
   further than needed: once, so that one that nobody holds (the kernel's own, as of WireGuard and
   NFS) costs this only once.

The holders of a socket, and so its owner (`kinship`), are those known when the look ends: a second
holder may be noticed as late as the next time that 3 is done. One thing is not noticed at all: a
second holder that got the socket by a message, at a number of which it had just closed something.

Both reading and memory have bounds. A look that reaches one goes on where it stopped when it is
asked again; its sockets are not in the answer, and count in `put_off`. Times are of the caller's
clock.
"""

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice, takewhile

from hogpipe.attribution.procfs.fd_reader import FdReader
from hogpipe.attribution.procfs.fd_table import KnownProcess
from hogpipe.attribution.procfs.shared_sockets import (
    SharedSocketRules,
)
from hogpipe.linux.procfs import FdDirectory, ProcessIdentity, Procfs

_MAX_FDS_READ = 100_000
# Most sockets that are missing are closed already. The next look asks only for those that are not.
_SEARCH_SHARE = 20
_MAX_FDS_KEPT = 262_144
_MAX_SOUGHT = 16_384
_REFRESH_PAUSE = 0.05
_REFRESH_SHARE = 0.03  # of the time may go into asking all processes
_LIVELY_LOOKS = 512  # for so many after a change a process is looked at before others
_MOST_LIVELY = 16
_MOST_VERIFIED = 256  # sockets in a quick look
_NEXT_GLIMPSE = 0.001  # seconds: so that others run meanwhile, and are interrupted at their work


class FdCache:
    """Who owns which socket. The counters only grow; one thread at a time may use it.

    At most `max_fds` fds are read in a look, beyond those of the last process, and `max_kept` are
    kept from one look to the next.
    """

    def __init__(
        self, procfs: Procfs, *, max_fds: int = _MAX_FDS_READ, max_kept: int = _MAX_FDS_KEPT
    ) -> None:
        self._reader = FdReader(procfs)
        self._table = self._reader.table
        self._max_fds = max_fds
        self._max_kept = max_kept
        self._sought: dict[int, int] = {}
        """By inode that no process seems to hold: the look in which it was first missing."""
        self._look = 0
        self._refreshed = -math.inf
        self._refreshed_in = 0  # the look
        self._refresh_cost = 0.0
        self.put_off = 0
        """Sockets whose owner was left to the next look, once for each look."""
        self.shared = 0
        """Sockets without an owner because strangers hold them, once for each look."""
        self.forgotten = 0
        """Fds and sought sockets that were forgotten because they were too many."""

    @property
    def fds_read(self) -> int:
        """Fds read."""
        return self._reader.fds_read

    @property
    def walks(self) -> int:
        """Looks that read the fds of processes beyond verifying what was known."""
        return self._reader.walks

    @property
    def not_permitted(self) -> int:
        """Processes whose fds the kernel refused to show, once for each look."""
        return self._reader.not_permitted

    def prepare(self, kinship: SharedSocketRules) -> None:
        """Read what a first look would have to read: on a large host that takes its time."""
        self._begin_look()
        self._refresh(set(), kinship, -math.inf)

    def find(
        self, wanted: Mapping[int, int], kinship: SharedSocketRules, now: float
    ) -> dict[int, ProcessIdentity]:
        """Return the owner of each inode that has one; `wanted` gives the users of the sockets.

        `kinship` is that of this look. Raises OSError if processes cannot be listed.
        """
        if not wanted:
            return {}
        self._begin_look()
        missing = self._verify(wanted, kinship)
        self._look_in(list(islice(self._lively(), _MOST_LIVELY)), missing)
        # Of those that are asked for again, some may have come since all were asked last.
        again = any(self._sought.get(inode, 0) > self._refreshed_in for inode in missing)
        if again or self._is_refresh_due(now):
            whole = self._refresh(set(wanted.values()), kinship, now)
        else:
            whole = not missing or self._learn_new(set(wanted.values()), kinship)
        if not whole:
            self.put_off += len(wanted)
            return {}
        self._search(self._verify(wanted, kinship), wanted)
        found = self._own(wanted, kinship)
        self._shrink()
        return found

    def recall(
        self, wanted: Collection[int], kinship: SharedSocketRules
    ) -> dict[int, ProcessIdentity]:
        """Return the owner of each inode that has one, as the last looks found it, without a look.

        That leaves no trace: what is looked for later is not looked for where these are.
        """
        owners = {inode: self._owner(self._holders(inode), kinship) for inode in wanted}
        return {inode: owner for inode, owner in owners.items() if owner is not None}

    def glimpse(
        self,
        see: Callable[[], Mapping[int, int]],
        likely: Collection[int],
        kinship: SharedSocketRules,
        now: float,
        times: int = 1,
    ) -> dict[int, ProcessIdentity]:
        """Return owners like `find`, of those sockets that a quick look finds.

        `see` gives the sockets that exist just then. They may be closed at any moment, and so the
        fds of a few processes are read right before and right after, those of the pids `likely`
        the closest to it. While there is no socket, or one of which no process is known, it is
        called again, `times` in all at the most.
        """
        self._begin_look()
        first = [process for process in map(self._table.get, likely) if process is not None]
        others = (process for process in self._lively() if process.pid not in likely)
        near = [*first, *islice(others, _MOST_LIVELY)]
        missed: set[int] = set()
        wanted, missing = self._glimpse_once(see, near, kinship)
        for _ in range(times - 1):
            if wanted and missing <= missed:  # what is still there without an owner stays so
                break
            missed |= missing
            time.sleep(_NEXT_GLIMPSE)
            self._reader.begin_look()
            wanted, missing = self._glimpse_once(see, near, kinship)
        found = self._own(wanted, kinship)
        if missing and self._is_refresh_due(now):
            self._refresh(set(wanted.values()), kinship, now)
        self._shrink()
        return found

    def _glimpse_once(
        self,
        see: Callable[[], Mapping[int, int]],
        near: list[KnownProcess],
        kinship: SharedSocketRules,
    ) -> tuple[Mapping[int, int], set[int]]:
        """Return the sockets that exist just now, and which of them no process near has.

        Where some are missing, young processes count as near from now on.
        """
        for process in reversed(near):
            self._reader.read_churn(process)
        wanted = see()
        known = {inode for inode in wanted if self._table.places(inode)}
        self._verify(list(islice(known, _MOST_VERIFIED)), kinship)
        missing = {inode for inode in wanted if not self._table.places(inode)}
        self._look_in(near, missing)
        if missing:
            youngest = islice(self._youngest(set(wanted.values())), _MOST_LIVELY)
            young = [process for process in youngest if process not in near]
            self._look_in(young, missing)
            near += young
        return wanted, missing

    def _begin_look(self) -> None:
        self._look += 1
        self._reader.begin_look()

    def _verify(self, wanted: Collection[int], kinship: SharedSocketRules) -> set[int]:
        """Make sure of what is known of these sockets; return those of which nothing is."""
        verify = self._reader.verify
        return {inode for inode in wanted if not verify(inode, kinship, self._look)}

    def _look_in(self, processes: Iterable[KnownProcess], missing: set[int]) -> None:
        """Look for sockets where they are likely in these processes; take those found away."""
        for process in processes:
            if not missing:
                return
            self._reader.read_churn(process, missing)

    def _lively(self) -> Iterator[KnownProcess]:
        latest = self._look - _LIVELY_LOOKS
        return takewhile(lambda process: process.lively >= latest, self._table.lively())

    def _youngest(self, users: Collection[int]) -> Iterator[KnownProcess]:
        known = sorted(self._table, key=lambda process: process.start, reverse=True)
        return (process for process in known if process.folder.user_id in users)

    def _is_refresh_due(self, now: float) -> bool:
        return now >= self._refreshed + max(_REFRESH_PAUSE, self._refresh_cost / _REFRESH_SHARE)

    def _refresh(self, users: set[int], kinship: SharedSocketRules, now: float) -> bool:
        """Read what is new in all processes; return False if it was too much."""
        before = time.thread_time()
        whole = self._learn(self._reader.list_folders(), users, kinship)
        if whole:
            self._refreshed, self._refresh_cost = now, time.thread_time() - before
            self._refreshed_in = self._look
        return whole

    def _learn_new(self, users: set[int], kinship: SharedSocketRules) -> bool:
        """Read the processes that are new; return False if it was too much."""
        return self._learn(self._reader.list_folders(new_only=True), users, kinship)

    def _learn(
        self, folders: Mapping[int, FdDirectory], users: set[int], kinship: SharedSocketRules
    ) -> bool:
        due = [pid for pid, folder in folders.items() if not self._reader.is_current(pid, folder)]
        due.sort(key=lambda pid: self._eagerness(pid, folders[pid], users), reverse=True)
        limit = self.fds_read + self._max_fds
        for pid in due:
            if self.fds_read >= limit:
                return False
            self._reader.learn(pid, folders[pid], kinship, self._look)
        return True

    def _eagerness(self, pid: int, folder: FdDirectory, users: set[int]) -> tuple[bool, int, int]:
        """Sort processes: those of the right user, those lately useful, the young."""
        process = self._table.get(pid)
        return folder.user_id in users, process.useful if process else 0, pid

    def _search(self, missing: set[int], wanted: Mapping[int, int]) -> None:
        """Look for sockets in the processes that were not read since they were first missing."""
        for inode in wanted.keys() - missing:
            self._sought.pop(inode, None)
        for inode in missing:
            self._sought.setdefault(inode, self._look)
        again = {inode for inode in missing if self._sought[inode] < self._look}
        self.put_off += len(missing) - len(again)
        limit = self.fds_read + max(1, self._max_fds // _SEARCH_SHARE)
        for process in self._order_search(again, {wanted[inode] for inode in again}):
            here = {inode for inode in again if self._sought[inode] > process.read_at}
            if here and self.fds_read >= limit:
                self.put_off += len(here)
                return
            if here:
                self._reader.read_again(process, here, self._look)
                again = {inode for inode in again if not self._table.places(inode)}

    def _order_search(self, missing: set[int], users: set[int]) -> list[KnownProcess]:
        """Return the processes in which something that is missing was not yet looked for."""
        newest = max((self._sought[inode] for inode in missing), default=0)
        due = [process for process in self._table if process.read_at < newest]
        due.sort(key=lambda known: self._eagerness(known.pid, known.folder, users), reverse=True)
        return due

    def _own(
        self, wanted: Collection[int], kinship: SharedSocketRules
    ) -> dict[int, ProcessIdentity]:
        """Return the owners of the sockets that are known to have one."""
        owners: dict[int, ProcessIdentity] = {}
        for inode in wanted:
            holders = self._note_use(inode)
            owner = self._owner(holders, kinship)
            if owner is not None:
                owners[inode] = owner
            self.shared += owner is None and len(holders) > 1
        return owners

    def _owner(
        self, holders: Collection[KnownProcess], kinship: SharedSocketRules
    ) -> ProcessIdentity | None:
        if len(holders) == 1:
            (holder,) = holders
            return ProcessIdentity(holder.pid, holder.start)
        return kinship.owner_of_socket([process.pid for process in holders])

    def _holders(self, inode: int) -> list[KnownProcess]:
        pids = {pid for pid, _fd in self._table.places(inode)}
        return [process for pid in pids if (process := self._table.get(pid)) is not None]

    def _note_use(self, inode: int) -> list[KnownProcess]:
        """Note that a socket was asked for: where it is others may follow. Return who holds it."""
        holders = {}
        for pid, fd in self._table.places(inode):
            process = self._table.get(pid)
            if process is not None:
                holders[pid] = process
                process.useful = self._look
                self._table.note_lively(process, self._look)
                if fd not in process.churn:
                    process.note_change(fd)
        return list(holders.values())

    def _shrink(self) -> None:
        """Keep to the bounds: forget the fds of those that were useful longest ago."""
        while len(self._sought) > _MAX_SOUGHT:
            del self._sought[next(iter(self._sought))]
            self.forgotten += 1
        if self._table.size > self._max_kept:
            for process in sorted(self._table, key=lambda known: known.useful):
                self.forgotten += self._table.empty(process)
                if self._table.size <= self._max_kept:
                    return

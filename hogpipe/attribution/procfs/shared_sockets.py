"""Which one of several processes owns a socket that they share, or the sockets on one port.

The rules, which never choose between strangers:

1. Who holds a socket alone, owns it.
2. Of several holders, the one that all others descend from owns it: it bound the socket, and the
   others inherited it over fork or were handed it. If no holder is that, there is no owner.
3. systemd binds sockets for services that it starts and keeps a copy (socket activation). It moves
   no bytes: where others hold the socket too, rules 1 and 2 are put to those alone. Services that
   share such a socket are strangers, though systemd started them both.
4. Of several owners of sockets on one port (SO_REUSEPORT), the one that all others descend from
   owns the port. Else, if all are children of one parent and run the same program as it does, they
   are its workers, and it owns the port although it holds none of the sockets.
"""

from collections.abc import Collection, Iterator
from functools import cache

from hogpipe.linux.procfs import ProcessIdentity, ProcessStat, Procfs
from hogpipe.model import (
    SERVICE_MANAGER,
)


class SharedSocketRules:
    """Applies the rules to processes as they are found at one look; made anew for each look.

    What was read of a process stays for the whole look: should its pid pass to another one, what is
    read of that one later has another start time.
    """

    def __init__(self, procfs: Procfs) -> None:
        self.read_stat = cache(procfs.read_stat)
        """Return identity and name of a process, or None where it is gone."""
        self._read_executable = cache(procfs.read_executable)
        self.owner_of_port = cache(self._own_port)
        """Return the owner of a port at which the sockets of `owners`, one or more, are."""

    def owner_of_socket(self, holders: Collection[int]) -> ProcessIdentity | None:
        """Return the owner of a socket that the processes `holders` hold."""
        services = [pid for pid in holders if not self._is_manager(pid)]
        return self._identify(self._common_ancestor(services or holders))

    def _own_port(self, owners: frozenset[ProcessIdentity]) -> ProcessIdentity | None:
        if len(owners) == 1:
            return next(iter(owners))
        pids = {owner.pid for owner in owners}
        if any(self._is_manager(pid) for pid in pids):
            return None
        common_ancestor = self._common_ancestor(pids)
        return self._identify(self._master(pids) if common_ancestor is None else common_ancestor)

    def _common_ancestor(self, pids: Collection[int]) -> int | None:
        """Return the one of `pids` that all others descend from."""
        if len(pids) == 1:
            return next(iter(pids))
        descents = {pid: {pid, *self._ancestors(pid)} for pid in pids}
        shared = set(pids).intersection(*descents.values())
        # Read while processes die, two may seem to descend from each other; they are strangers.
        return shared.pop() if len(shared) == 1 else None

    def _ancestors(self, pid: int) -> Iterator[int]:
        met = set()
        while (process := self.read_stat(pid)) is not None and process.parent_pid not in met:
            pid = process.parent_pid
            met.add(pid)
            yield pid

    def _master(self, pids: Collection[int]) -> int | None:
        """Return the parent that all `pids` have in common, if they are workers of its program."""
        parents = {
            process.parent_pid for pid in pids if (process := self.read_stat(pid)) is not None
        }
        if len(parents) != 1:
            return None
        parent = parents.pop()
        programs = {self._read_executable(pid) for pid in (parent, *pids)}
        return parent if len(programs) == 1 and None not in programs else None

    def _is_manager(self, pid: int) -> bool:
        process = self.read_stat(pid)
        return process is not None and process.command == SERVICE_MANAGER

    def _identify(self, pid: int | None) -> ProcessIdentity | None:
        process: ProcessStat | None = None if pid is None else self.read_stat(pid)
        return None if pid is None or process is None else ProcessIdentity(pid, process.start)

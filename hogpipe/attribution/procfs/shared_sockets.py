"""The owner of a socket that several processes hold, and of several sockets on one port.

In: the pids that hold a socket, or the owners of the sockets on a port. Out: the owner, or None.
The rules never choose between unrelated processes:

1. A process that is the only holder of a socket owns it.
2. Of several holders, the one that is an ancestor of all others owns the socket: it bound the
   socket, and the others inherited it at fork or received it. Without such a holder, there is no
   owner.
3. systemd binds sockets for the services that it starts, and keeps a copy (socket activation). It
   transfers no bytes. If other processes hold the socket too, rules 1 and 2 apply to those alone.
   Services that share such a socket are unrelated, although systemd started both.
4. Of several owners of sockets on one port (SO_REUSEPORT), the one that is an ancestor of all
   others owns the port. Otherwise, if all are children of one parent and run its program, they are
   its workers, and the parent owns the port although it holds none of the sockets.
"""

from collections.abc import Collection, Iterator
from functools import cache

from hogpipe.linux.procfs import ProcessIdentity, ProcessStat, Procfs
from hogpipe.model import SERVICE_MANAGER


class SharedSocketRules:
    """Applies the rules to the processes of one lookup; each lookup makes its own.

    A process is read once, and the result holds for the whole lookup. If its pid is reused
    meanwhile, later lookups notice by the start time.
    """

    def __init__(self, procfs: Procfs) -> None:
        self.read_stat = cache(procfs.read_stat)
        """Return command, parent and start time of a process, or None if it has exited."""
        self._read_executable = cache(procfs.read_executable)
        self.owner_of_port = cache(self._own_port)
        """Return the owner of a port, given the owners (one or more) of the sockets on it."""

    def owner_of_socket(self, holders: Collection[int]) -> ProcessIdentity | None:
        """Return the owner of a socket, given the pids of the processes that hold it."""
        services = [pid for pid in holders if not self._is_manager(pid)]
        return self._identify(self._ancestor_of_all(services or holders))

    def accepts_for_itself(self, holders: Collection[int]) -> bool:
        """Return whether one process alone can accept what comes in at sockets with these holders.

        systemd may accept for a service that it starts for the connection.
        """
        return sum(not self._is_manager(pid) for pid in holders) == 1

    def _own_port(self, owners: frozenset[ProcessIdentity]) -> ProcessIdentity | None:
        if len(owners) == 1:
            return next(iter(owners))
        pids = {owner.pid for owner in owners}
        if any(self._is_manager(pid) for pid in pids):
            return None
        ancestor = self._ancestor_of_all(pids)
        return self._identify(self._master(pids) if ancestor is None else ancestor)

    def _ancestor_of_all(self, pids: Collection[int]) -> int | None:
        """Return the one of `pids` that is an ancestor of all others."""
        if len(pids) == 1:
            return next(iter(pids))
        descents = {pid: {pid, *self._ancestors(pid)} for pid in pids}
        shared = set(pids).intersection(*descents.values())
        # If pids are reused during the reads, two may seem to descend from each other.
        return shared.pop() if len(shared) == 1 else None

    def _ancestors(self, pid: int) -> Iterator[int]:
        met = set()
        while (process := self.read_stat(pid)) is not None and process.parent_pid not in met:
            pid = process.parent_pid
            met.add(pid)
            yield pid

    def _master(self, pids: Collection[int]) -> int | None:
        """Return the common parent of all `pids`, if they all run its program."""
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

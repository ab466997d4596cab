"""Describes the socket owners of a ledger as processes.

In: owners as the kernel reported them: pid, start, user, command, control group. Out: processes.
While a process is alive, /proc adds the rest. Once it has exited, the kernel's report is all there
is: the path of the executable and the parent are unknown.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache

from hogpipe.attribution.resolver import Resolution
from hogpipe.enrichment.processes import ProcessReader
from hogpipe.linux.clocks import TICK_NS
from hogpipe.linux.procfs import ProcessIdentity
from hogpipe.model import (
    UNATTRIBUTED,
    Attribution,
    FlowKey,
    LedgerEntry,
    Process,
    Quality,
    SocketOwner,
)
from hogpipe.protocols import DATAGRAMS, TCP

_MAX_EXITED = 4096


class OwnerProcesses:
    """Describes owners. Equal descriptions are the same object."""

    def __init__(self, processes: ProcessReader) -> None:
        self._processes = processes
        self._exited: dict[SocketOwner, Process] = {}

    def find(self, owner: SocketOwner, now: float) -> Process:
        """Return the owner as /proc shows it, or as the kernel reported it after it has exited.

        For one thread at a time; `now` is in seconds.
        """
        process = None
        if owner.start is not None:
            process = self._processes.find(ProcessIdentity(owner.pid, owner.start), now)
        return process or self._find_exited(owner)

    def is_alive(self, owner: SocketOwner) -> bool:
        """Read whether the owner is alive."""
        start = owner.start
        return start is not None and self._processes.is_alive(ProcessIdentity(owner.pid, start))

    def read_last_fork(self, owner: SocketOwner) -> int | None:
        """Read when the youngest living child of the owner started, nanoseconds since boot."""
        return self._processes.read_last_fork(owner.pid)

    def recall(self, owner: SocketOwner) -> Process:
        """Return the owner as it was described last, or as far as that is known without reading.

        Safe from any thread: the event loop must not block on the name of a user.
        """
        process = None
        if owner.start is not None:
            process = self._processes.cached(ProcessIdentity(owner.pid, owner.start))
        return process or self._exited.get(owner) or self._describe(owner, may_block=False)

    def _find_exited(self, owner: SocketOwner) -> Process:
        if owner not in self._exited:
            if len(self._exited) >= _MAX_EXITED:
                self._exited.clear()
            self._exited[owner] = self._describe(owner, may_block=True)
        return self._exited[owner]

    def _describe(self, owner: SocketOwner, *, may_block: bool) -> Process:
        return self._processes.describe_exited(
            owner.pid,
            owner.start,
            owner.command,
            owner.user_id,
            owner.cgroup_path,
            may_block=may_block,
        )


class SocketOwners:
    """Describes the owners of sockets in a ledger, without reading /proc. Safe from any thread."""

    def __init__(
        self,
        find_owners: Callable[[Sequence[int]], Sequence[tuple[Quality, SocketOwner] | None]],
        processes: OwnerProcesses,
    ) -> None:
        self._find_owners = find_owners
        self._processes = processes

    def attribute(self, cookies: Sequence[int]) -> list[Attribution | None]:
        """Return the attribution to the owner of each socket, None where it is not known."""
        return [
            None if found is None else Attribution(found[0], self._processes.recall(found[1]))
            for found in self._find_owners(cookies)
        ]


class LookupOwners:
    """The owners that come up in one lookup; each is read once. Made for each lookup."""

    def __init__(self, processes: OwnerProcesses, now: float) -> None:
        self._find = cache(lambda owner: processes.find(owner, now))
        self.is_alive: Callable[[SocketOwner], bool] = cache(processes.is_alive)
        self._read_last_fork = cache(processes.read_last_fork)
        self._own_connection = cache(self._resolve_connection)

    def has_forked(self, entry: LedgerEntry) -> bool:
        """Return whether the owner has forked since it used the socket: a child has a copy of it.

        The start of a process is known to a clock tick.
        """
        if entry.is_released or not entry.used_ns:
            return False
        last_fork_ns = self._read_last_fork(entry.owner)
        return last_fork_ns is not None and last_fork_ns > entry.used_ns - TICK_NS

    def resolve(self, flow: FlowKey, entry: LedgerEntry) -> Resolution:
        """Return the resolution of a flow that the ledger knows."""
        if flow.protocol == TCP and entry.quality is Quality.EXACT:
            return self._own_connection(entry.owner)
        return Resolution(
            self._attribute(entry),
            is_final=True,
            may_be_reused=may_be_reused(flow, entry),
            open_for=math.inf if reports_release(flow, entry) else 0.0,
        )

    def resolve_sender(self, entry: LedgerEntry) -> Resolution:
        """Return the resolution of a flow that a process sends through a packet socket."""
        return Resolution(self._attribute(entry), is_final=True)

    def resolve_by_span(self, entries: Iterable[LedgerEntry | None]) -> Resolution:
        """Return the resolution of a contested flow, from an entry for each span."""
        by_span = tuple(map(self._attribute, entries))
        return Resolution(UNATTRIBUTED, is_final=True, owners_by_span=by_span)

    def _resolve_connection(self, owner: SocketOwner) -> Resolution:
        """Return the resolution of all connections of an owner."""
        return Resolution(Attribution(Quality.EXACT, self._find(owner)), is_final=True)

    def _attribute(self, entry: LedgerEntry | None) -> Attribution:
        if entry is None:
            return UNATTRIBUTED
        return Attribution(entry.quality, self._find(entry.owner))


def describe_owner(process: Process) -> SocketOwner:
    """Return a process as a socket owner is recorded."""
    return SocketOwner(
        process.pid,
        process.start,
        process.user_id or 0,
        process.command or "",
        0,
        cgroup_path=process.cgroup,
    )


def may_be_reused(flow: FlowKey, entry: LedgerEntry) -> bool:
    """Return whether the local port is free for others as soon as this socket is closed.

    So it is for an exchange of datagrams on a socket of its own.
    """
    return flow.protocol in DATAGRAMS and entry.quality is Quality.EXACT


def reports_release(flow: FlowKey, entry: LedgerEntry) -> bool:
    """Return whether the release of a socket of datagrams will invalidate the flow.

    It will unless the socket has very many flows (`invalidation`), as one that serves its port may.
    """
    return flow.protocol in DATAGRAMS and entry.quality is Quality.EXACT and not entry.is_released

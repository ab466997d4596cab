"""The owners of rows: processes that the kernel recorded.

In: owners as rows have them (pid, and when the process used the socket). Out: attributions with all
that is known of the process. Processes that live are read from /proc; those that
exited were read before, when they first used a socket (`ProcessWatch`).

Identity. A pid may be reused. A row's process is the one that has the pid now, if it had started by
the time of the record; else one that was read earlier and had started by then. If neither is known,
the attribution has only what the row has: pid, command, user and control group.

Cost. A process is read once an epoch at most.

Flows that attribution looks up are recorded in `FlowSockets`, with what the row knows.
"""

import time
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hogpipe.capture.ebpf.earlier_owners import EarlierOwner
from hogpipe.capture.ebpf.flow_socket_table import RowSockets
from hogpipe.capture.ebpf.flow_sockets import FlowSockets
from hogpipe.capture.ebpf.owner_groups import group_owners
from hogpipe.capture.ebpf.row_flows import RowFlows, have_endpoints, make_row_flows
from hogpipe.enrichment.processes import ProcessReader
from hogpipe.flows.packet_rows import Flags
from hogpipe.linux.bpf.shapes import BY_LISTENER
from hogpipe.linux.bpf.traffic_rows import (
    RowOwner,
    Rows,
    decode_owners,
    pick_rows,
)
from hogpipe.linux.clocks import TICK_NS
from hogpipe.linux.netns.network_namespaces import NetworkNamespaces
from hogpipe.linux.process_starts import ProcessStarts
from hogpipe.linux.procfs import ProcessIdentity, ProcessStat, Procfs
from hogpipe.model import (
    OWN_NAMESPACE,
    SERVICE_MANAGER,
    Attribution,
    Process,
    Quality,
    SocketOwner,
)

_Attributions = dict[Quality, Attribution]


class RowOwners:
    """The `OwnerLookup` of row_aggregation.py. For one thread at a time.

    `procfs` must show the pids of the host. `path_of` returns the path of a control group (v2) by
    its id, `clock` seconds.
    """

    def __init__(
        self,
        procfs: Path,
        processes: ProcessReader,
        path_of: Callable[[int], str | None],
        flow_sockets: FlowSockets,
        namespaces: NetworkNamespaces,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._procfs = Procfs(procfs)
        self.processes = processes
        """Reads and caches the processes that rows name."""
        self.starts = ProcessStarts(procfs)
        """The starts of the processes that rows name."""
        self._path_of = path_of
        self._flow_sockets = flow_sockets
        self._namespaces = namespaces
        self._clock = clock
        self._identified: dict[ProcessIdentity, _Attributions] = {}
        self._unidentified: dict[tuple[int, str, int], _Attributions] = {}
        self._stats: dict[int, ProcessStat | None] = {}

    def begin_epoch(self) -> None:
        """Evict what was read in the epoch before: processes may have changed."""
        self._identified = {}
        self._unidentified = {}
        self._stats = {}

    @property
    def own_namespace(self) -> int:
        """The cookie of our own network namespace."""
        return self._namespaces.own_cookie

    def attribute(self, owner: RowOwner, quality: Quality) -> Attribution:
        """Return the attribution to an owner; within an epoch, equal ones are one object."""
        start = self._find_start(owner)
        if start is None:
            return self._attribute_unidentified(owner)[quality]
        return self._attribute_identified(owner, ProcessIdentity(owner.pid, start))[quality]

    def find_start_ns(self, pid: int) -> int | None:
        """Return when the process that has a pid now started, None if no process has it.

        Nanoseconds since boot, as read once in an epoch.
        """
        stat = self._read_stat(pid)
        return None if stat is None else stat.start * TICK_NS

    def record_unresolved(self, rows: Rows, exited: Flags) -> tuple[RowFlows, Flags]:
        """Record the sockets of rows that are looked up; return their flows.

        And which flows were another socket's before. A socket whose network namespace is not known
        is taken to be of our own.
        """
        cookies = np.where(
            rows["namespace"] != 0,
            rows["namespace"],
            self._flow_sockets.find_snapshot_namespaces(rows["cookie"]),
        )
        distinct, places = np.unique(cookies, return_inverse=True)
        inodes = [
            self._namespaces.find_inode(one, self._clock()) if one else OWN_NAMESPACE
            for one in distinct.tolist()
        ]
        flows = make_row_flows(rows, places, inodes)
        record_ns = np.where(exited, rows["boot_ns"], np.uint64(0))
        owners = group_owners(rows, exited, rows["user_id"], rows["cgroup"], record_ns)
        by_listener = rows["flags"] & BY_LISTENER != 0
        described = self._describe_owners(owners.firsts)
        sockets = RowSockets(rows["cookie"], cookies, owners.numbers, described, by_listener)
        has_flow, is_other = have_endpoints(rows), np.zeros(len(rows), np.bool_)
        is_other[has_flow] = self._flow_sockets.record(flows.take(has_flow), sockets.take(has_flow))
        return flows, is_other

    def find_earlier_owners(
        self, cookies: NDArray[np.uint64]
    ) -> tuple[NDArray[np.intp], list[RowOwner | None]]:
        """Return the living owners of datagram sockets that existed before the programs.

        See `OwnerLookup`. As for a lookup, the snapshot decides while the process lives.
        """
        earlier = self._flow_sockets.earlier_owners
        numbers = earlier.find(cookies)
        uses = np.bincount(numbers, minlength=len(earlier.owners)).tolist()
        return numbers, [
            self._make_living_owner(one) if one is not None and used else None
            for one, used in zip(earlier.owners, uses, strict=True)
        ]

    def find_unconfirmed(self, cookies: Collection[int]) -> list[bool]:
        """Return for each open connection whether its holder is to be looked up."""
        return self._flow_sockets.find_unconfirmed(cookies)

    def find_passed_on(self, cookies: Collection[int]) -> list[bool]:
        """Return for each closed connection whether another process than its owner held it."""
        return self._flow_sockets.find_passed_on(cookies)

    def record_releases(self, rows: Rows, exited: Flags) -> None:
        """Record the owners of rows as the processes that closed connections, if one awaits it."""
        is_awaited = self._flow_sockets.find_awaiting_release(rows["cookie"])
        if is_awaited.any():
            rows = pick_rows(rows, is_awaited)
            owners = group_owners(rows, exited[is_awaited])
            described = [self._make_socket_owner(one) for one in decode_owners(owners.firsts)]
            self._flow_sockets.record_releases(rows["cookie"], owners.numbers, described)

    @property
    def missed_processes(self) -> int:
        """Return how many processes exited before they could be read, so far."""
        return self.starts.missed

    def _find_start(self, owner: RowOwner) -> int | None:
        """Return the start of an owner's process in clock ticks since boot, None if unknown."""
        # Always asked, so that the process is known after it has exited; it reads /proc only once a
        # second, which is too rarely to notice a reused pid at once.
        known = self.starts.find(owner.pid, owner.boot_ns, self._clock())
        stat = self._read_stat(owner.pid)
        if stat is not None and stat.start * TICK_NS <= owner.boot_ns:
            return stat.start
        return None if known is None else known.start

    def _describe_owners(self, rows: Rows) -> list[SocketOwner | None]:
        """Return the owners of rows, None of those that have none or the service manager."""
        return [
            self._make_socket_owner(owner)
            if owner.pid and owner.command != SERVICE_MANAGER
            else None
            for owner in decode_owners(rows)
        ]

    def _make_socket_owner(self, owner: RowOwner) -> SocketOwner:
        return SocketOwner(
            owner.pid,
            self._find_start(owner),
            owner.user_id,
            owner.command,
            owner.cgroup,
            cgroup_path=self._path_of(owner.cgroup),
        )

    def _make_living_owner(self, earlier: EarlierOwner) -> RowOwner | None:
        """Return the owner as rows have it, None if its process has exited."""
        owner = earlier.owner
        start_ns = None if owner.start is None else owner.start * TICK_NS
        if start_ns is None or self.find_start_ns(owner.pid) != start_ns:
            return None
        return RowOwner(
            start_ns,
            owner.cgroup,
            owner.pid,
            owner.user_id,
            owner.command,
            earlier.namespace_cookie,
            0,
        )

    def _read_stat(self, pid: int) -> ProcessStat | None:
        if pid not in self._stats:
            self._stats[pid] = self._procfs.read_stat(pid)
        return self._stats[pid]

    def _attribute_identified(self, owner: RowOwner, identity: ProcessIdentity) -> _Attributions:
        known = self._identified.get(identity)
        if known is None:
            stat = self._read_stat(owner.pid)
            process = self.processes.refresh(identity, stat, self._clock())
            if process is None:
                process = self._describe(owner, identity.start)
            known = self._identified[identity] = _make_attributions(process)
        return known

    def _attribute_unidentified(self, owner: RowOwner) -> _Attributions:
        key = (owner.pid, owner.command, owner.user_id)
        known = self._unidentified.get(key)
        if known is None:
            known = self._unidentified[key] = _make_attributions(self._describe(owner, None))
        return known

    def _describe(self, owner: RowOwner, start: int | None) -> Process:
        path = self._path_of(owner.cgroup)
        return self.processes.describe_exited(owner.pid, start, owner.command, owner.user_id, path)


def _make_attributions(process: Process) -> _Attributions:
    return {quality: Attribution(quality, process) for quality in (Quality.EXACT, Quality.LISTENER)}

"""From flows to their owners, through /proc and sock_diag: one reading for a whole batch.

The steps: read the tables that the flows need (`table_reader`), match each flow to sockets
(`matching`), find who owns these (`fd_cache`) and the port of each flow (`kinship`), read what is
told of the owners (`processes`). Flows that no socket fits are left to the rule of `inference`, for
which the sockets are read that talk to the same endpoints.

Flows of other network namespaces are matched to the tables there (`guest_tables`), and from then on
are like all others. The rule of inference is not for them: it would have to be kept apart for each
namespace, and siblings there cannot be asked for without reading whole tables again.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from hogpipe.attribution.procfs.container_tables import ContainerTables
from hogpipe.attribution.procfs.endpoint_heuristic import (
    Endpoint,
    EndpointHeuristic,
    SamplingSchedule,
    endpoint_of,
)
from hogpipe.attribution.procfs.fd_cache import FdCache
from hogpipe.attribution.procfs.matching import Match, TableIndex, has_endpoint
from hogpipe.attribution.procfs.shared_sockets import (
    SharedSocketRules,
)
from hogpipe.attribution.procfs.table_reader import EndpointSockets, SocketTable, TableReader
from hogpipe.attribution.resolver import Resolution
from hogpipe.enrichment.processes import ProcessReader
from hogpipe.linux.netns.namespace_processes import NamespaceProcesses, read_own_namespace
from hogpipe.linux.procfs import ProcessIdentity, Procfs
from hogpipe.model import (
    OWN_NAMESPACE,
    UNATTRIBUTED,
    Attribution,
    FlowKey,
    Process,
    Quality,
    ResolverCounts,
    Span,
    User,
)
from hogpipe.protocols import TCP

_SAMPLE_READS = 8  # at most, until a socket of the sampled endpoints is there


class ProcfsResolver:
    """Finds the owners of flows in a procfs. Blocking; for one thread at a time.

    `clock` gives the seconds by which sightings of sockets grow old. Raises ConfigurationError
    where `procfs` is none, or `socket_table` cannot be had with it.
    """

    def __init__(
        self,
        procfs: Path,
        *,
        command_line: bool = False,
        socket_table: SocketTable = "auto",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._procfs = Procfs(procfs)
        self._tables = TableReader(procfs, self._procfs, socket_table)
        namespaces = NamespaceProcesses(procfs, read_own_namespace())
        self._container_tables = ContainerTables(self._procfs, namespaces, clock)
        self._fds = FdCache(self._procfs)
        self._processes = ProcessReader(self._procfs, command_line=command_line)
        self._endpoints = EndpointHeuristic()
        self._sampling = SamplingSchedule()
        self._sightings = threading.Lock()  # for `_endpoints`
        self._clock = clock

    def prepare(self) -> None:
        """Read the fds of all processes, which later look-ups only bring up to date."""
        self._fds.prepare(SharedSocketRules(self._procfs))

    def resolve(self, flows: Collection[FlowKey]) -> dict[FlowKey, Resolution]:
        """Return the resolution of each flow; an OSError means that /proc itself failed."""
        rules = SharedSocketRules(self._procfs)
        now = self._clock()
        own = [flow for flow in flows if flow.namespace == OWN_NAMESPACE]
        reading = self._tables.read(own, now, self._sampling.candidates(now))
        index = TableIndex(reading.tables)
        own_matches = {flow: index.match(flow) for flow in own if flow not in reading.inconclusive}
        matches = own_matches
        if len(own) < len(flows):
            guests = [flow for flow in flows if flow.namespace != OWN_NAMESPACE]
            matches = own_matches | self._container_tables.match(guests)
        rows = (row for match in matches.values() for row in match.rows)
        sockets = self._fds.find_owners({row.inode: row.user_id for row in rows}, rules, now)
        owners = {flow: _own(match, sockets, rules) for flow, match in matches.items()}
        processes = self._read_processes(owners.values(), rules)
        answers = (
            (flow, self._attribute(match, processes[owners[flow]]))
            for flow, match in matches.items()
        )
        found = {
            flow: Resolution(answer, is_final=_is_final(flow, answer))
            for flow, answer in answers
            if answer is not None
        }
        self._apply_endpoint_heuristic(found, own_matches, rules, now)
        return found

    def infer(self, flow: FlowKey) -> Attribution:
        """Return whose the flow is by the rule of `inference`; from any thread."""
        if flow.namespace != OWN_NAMESPACE or not has_endpoint(flow):
            return UNATTRIBUTED
        with self._sightings:
            owner = self._endpoints.infer_owner(endpoint_of(flow), self._clock())
        return _inferred(owner)

    def recall_socket_owners(self, inodes: Collection[int]) -> dict[int, Process]:
        """Return the owners of sockets as their fds were read last, for the thread that resolves.

        Raises OSError if /proc itself failed.
        """
        rules = SharedSocketRules(self._procfs)
        owners = self._fds.cached_owners(inodes, rules)
        processes = self._read_processes(owners.values(), rules)
        found = ((inode, processes[owner]) for inode, owner in owners.items())
        return {inode: process for inode, process in found if process is not None}

    def find_socket_owners(self, sockets: Mapping[int, int]) -> dict[int, Process]:
        """Return the owners of sockets after a look; `sockets` gives their users by inode.

        For the thread that resolves. Raises OSError if /proc itself failed.
        """
        rules = SharedSocketRules(self._procfs)
        owners = self._fds.find_owners(sockets, rules, self._clock())
        processes = self._read_processes(owners.values(), rules)
        found = ((inode, processes[owner]) for inode, owner in owners.items())
        return {inode: process for inode, process in found if process is not None}

    @property
    def processes(self) -> ProcessReader:
        """Return the reader of processes, for the thread that resolves."""
        return self._processes

    def recall(self, _flow: FlowKey, _span: Span | None) -> Attribution | None:
        """Return None: /proc records nothing of the past."""
        return None

    def close(self) -> None:
        """Do nothing: no lookup leaves anything open."""

    def counts(self) -> ResolverCounts:
        """Return the counters as they stand; they only grow."""
        return ResolverCounts(
            table_reads=self._tables.reads + self._container_tables.reads,
            tuple_lookups=self._tables.counts.lookups,
            dumps_interrupted=self._tables.counts.interrupted,
            dumps_failed=self._tables.counts.refused,
            rows_skipped=self._tables.rows_skipped + self._container_tables.rows_skipped,
            fds_read=self._fds.fds_read,
            fds_evicted=self._fds.evicted,
            fd_scans=self._fds.fd_scans,
            not_permitted=self._fds.not_permitted + self._procfs.hidden,
            malformed_files=self._procfs.malformed,
            deferred=self._fds.deferred + self._container_tables.deferred,
            ambiguous=self._fds.ambiguous,
        )

    def _apply_endpoint_heuristic(
        self,
        found: dict[FlowKey, Resolution],
        matches: Mapping[FlowKey, Match],
        rules: SharedSocketRules,
        now: float,
    ) -> None:
        """Give flows without a socket to who owns all others towards the same endpoint."""
        unseen = []
        for flow, match in matches.items():
            if match.quality is Quality.EXACT and len(match.rows) == 1:
                self._see(
                    endpoint_of(flow), match.rows[0].inode, found[flow].attribution.process, now
                )
            elif not match.rows and has_endpoint(flow):
                unseen.append(flow)
                self._sampling.record_miss(endpoint_of(flow), now)
        if unseen:
            with suppress(OSError):  # the next look meets the same, and it counts as failed
                self._look_for_siblings(rules, now)
            found.update((flow, self._resolve_unseen(flow)) for flow in unseen)

    def _resolve_unseen(self, flow: FlowKey) -> Resolution:
        """Resolve a flow without a socket; final where the heuristic needs to see no more."""
        endpoint, now = endpoint_of(flow), self._clock()
        with self._sightings:
            owner = self._endpoints.infer_owner(endpoint, now)
            is_final = owner is not None or self._endpoints.is_conclusive(endpoint, now)
        return Resolution(_inferred(owner), is_final=is_final)

    def _look_for_siblings(self, rules: SharedSocketRules, now: float) -> None:
        """Note whose the sockets are that talk to endpoints of which too little is known."""
        with self._sightings:
            endpoints = self._sampling.take_due(
                now, lambda one: self._endpoints.is_conclusive(one, now)
            )
            likely = set().union(*map(self._endpoints.owner_pids, endpoints))
        if not endpoints:
            return
        before = time.thread_time()
        towards: EndpointSockets = {}

        def see() -> dict[int, int]:
            towards.update(self._tables.read_endpoint_sockets(endpoints))
            return {row.inode: row.user_id for siblings in towards.values() for row in siblings}

        times = _SAMPLE_READS if self._tables.rereads_cheaply(endpoints) else 1
        sockets = self._fds.sample_owners(see, likely, rules, now, times)
        processes = self._read_processes(sockets.values(), rules)
        for endpoint, siblings in towards.items():
            owners = {row.inode: processes.get(sockets.get(row.inode)) for row in siblings}
            with self._sightings:
                self._endpoints.record_sample(endpoint, owners, now)
        self._sampling.record_cost(time.thread_time() - before, now)

    def _see(self, endpoint: Endpoint, inode: int, owner: Process | None, now: float) -> None:
        with self._sightings:
            self._endpoints.record_match(endpoint, inode, owner, now)

    def _read_processes(
        self, owners: Iterable[ProcessIdentity | None], rules: SharedSocketRules
    ) -> dict[ProcessIdentity | None, Process | None]:
        """Return each owner as a process; no owner is no process."""
        now, find = self._clock(), self._processes.find
        return {
            owner: None if owner is None else find(owner, now, rules.read_stat)
            for owner in {None, *owners}
        }

    def _attribute(self, match: Match, owner: Process | None) -> Attribution | None:
        """Name the owner of a flow, or else the one user of all candidates, None if they differ."""
        if not match.rows:
            return UNATTRIBUTED
        if owner is not None:
            return Attribution(match.quality, process=owner)
        user_ids = {row.user_id for row in match.rows}
        if len(user_ids) > 1:
            return None
        user_id = user_ids.pop()
        return Attribution(
            Quality.NONE, user=User(user_id, self._processes.read_user_name(user_id))
        )


def _is_final(flow: FlowKey, attribution: Attribution) -> bool:
    """Tell whether a flow was matched to the listener of its connection, which is gone.

    The listening socket of a UDP flow is the flow's own.
    """
    return attribution.quality is Quality.LISTENER and flow.protocol == TCP


def _inferred(owner: Process | None) -> Attribution:
    return UNATTRIBUTED if owner is None else Attribution(Quality.INFERRED, process=owner)


def _own(
    match: Match, sockets: Mapping[int, ProcessIdentity], rules: SharedSocketRules
) -> ProcessIdentity | None:
    """Return the owner of the port of a flow; none where a socket on it has no owner."""
    inodes = {row.inode for row in match.rows}
    if not inodes or not inodes <= sockets.keys():
        return None
    return rules.owner_of_port(frozenset(sockets[inode] for inode in inodes))

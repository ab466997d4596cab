"""The resolver that reads /proc and sock_diag, once for a whole batch of flows.

In: flows. Out: a Resolution for each flow that was looked for. Raises OSError if /proc itself
cannot be read; a process that exits meanwhile is no error.

Algorithm
---------
1. Read the socket tables that the flows need (`table_reader`).
2. Match each flow to sockets (`matching`).
3. Find the owners of the sockets by their fds (`fd_cache`), and the owner of each flow's port where
   several processes share it (`shared_sockets`).
4. Read these processes (`enrichment.processes`).
5. For flows without a socket, sample the sockets to the same endpoints and apply the endpoint
   heuristic (`endpoint_heuristic`).
6. Of flows without a process, find which are the kernel's own (`kernel_senders`), and who holds the
   packet sockets of their interface (`packet_holders`).

A connection that is not accepted yet is matched to its listening socket. If several processes hold
that, the owner is provisional: any of them may accept it. With a single holder it is final.

Flows of other network namespaces are matched to the tables there (`container_tables`) and then
treated alike; the evidence of the endpoint heuristic is kept apart by namespace.

Tables of /proc/net are read until two seconds after the lookup began. A flow without a socket in a
table that was not read to its end has no resolution: it is looked up again.

Of a recorded /proc, which does not change, owners are found in columns too (`recorded_owners`).

Known limits: /proc shows the present: the owner of packets that passed earlier may have been
another. The endpoint heuristic is not applied to a flow that may be in several namespaces. The
kernel reuses the number of a namespace that is gone, and evidence of the endpoint heuristic lasts
for 30 seconds: in a container that replaces another one in less, an owner may be inferred from the
evidence of the former.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from hogpipe.attribution.procfs.container_tables import ContainerTables
from hogpipe.attribution.procfs.endpoint_heuristic import (
    Endpoint,
    EndpointHeuristic,
    SamplingSchedule,
    endpoint_of,
)
from hogpipe.attribution.procfs.fd_cache import FdCache
from hogpipe.attribution.procfs.kernel_resolution import KernelResolution
from hogpipe.attribution.procfs.kernel_senders import may_be_kernels
from hogpipe.attribution.procfs.matching import Match, TableIndex, is_conclusive
from hogpipe.attribution.procfs.packet_holders import (
    PacketHolders,
    find_holders,
    is_candidate,
    may_send,
)
from hogpipe.attribution.procfs.reader_choice import Reader
from hogpipe.attribution.procfs.recorded_owners import RecordedOwners
from hogpipe.attribution.procfs.recorded_sockets import read_tables
from hogpipe.attribution.procfs.shared_sockets import SharedSocketRules
from hogpipe.attribution.procfs.table_reader import (
    EndpointSockets,
    SocketTable,
    TableReader,
    fixed_reader,
)
from hogpipe.attribution.procfs.table_source import OwnSource
from hogpipe.attribution.procfs.unconnected_ports import UnconnectedPorts
from hogpipe.attribution.resolver import FlowsInSpans, Resolution
from hogpipe.enrichment.container_names import ContainerNameReader
from hogpipe.enrichment.processes import ProcessReader
from hogpipe.linux.netns.namespace_links import NamespaceLinks, make_open_inside
from hogpipe.linux.netns.namespace_processes import (
    NamespaceProcesses,
    read_own_namespace,
    shows_own_namespace,
)
from hogpipe.linux.packet_sockets import read_packet_sockets
from hogpipe.linux.procfs import ProcessIdentity, Procfs
from hogpipe.linux.sock_diag import find_device, open_link
from hogpipe.model import (
    OWN_NAMESPACE,
    UNATTRIBUTED,
    Attribution,
    FlowDelta,
    FlowKey,
    Process,
    Quality,
    ResolverCounts,
    User,
)
from hogpipe.protocols import DATAGRAMS, TCP

_MAX_TABLE_SECONDS = 2.0  # of a lookup; about a million rows
_CONTAINER_BUDGET = 0.1
_MAX_SAMPLE_READS = 8  # until a socket of the sampled endpoints is open


class ProcfsResolver:
    """A Resolver that reads the procfs at `procfs`; `clock` is in seconds.

    Only `recall`, `infer` and `close` may be called while another thread is in one of the other
    methods. `container_budget` is the share of one core for walks of the tables of other network
    namespaces (`container_tables`). Raises ConfigurationError if `procfs` is not a procfs, or does
    not allow the `socket_table`.
    """

    def __init__(
        self,
        procfs: Path,
        *,
        command_line: bool = False,
        ancestors: int = 0,
        container_names: bool = False,
        socket_table: SocketTable = "auto",
        container_budget: float = _CONTAINER_BUDGET,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._procfs = Procfs(procfs, clock)
        fixed = fixed_reader(procfs, socket_table)
        self._shows_own_namespace = shows_own_namespace(procfs)
        self._tables = TableReader(OwnSource(self._procfs), fixed)
        self.namespaces = NamespaceProcesses(procfs, read_own_namespace())
        """The processes of other network namespaces; for the thread of `resolve`."""
        open_inside = make_open_inside(procfs, open_link)
        self._links = NamespaceLinks(self.namespaces, open_inside)
        self._container_tables = ContainerTables(
            self._procfs,
            self.namespaces,
            clock,
            self._links,
            # A walk of the sockets of all namespaces is never the cheaper one.
            fixed=Reader.SOCK_DIAG if fixed is None else fixed,
            walk_budget=container_budget,
        )
        self.recorded = RecordedOwners(
            lambda: read_tables(self._procfs, self._tables.counts), self._attribute_recorded
        )
        """Attributions in columns, where `procfs` is a recorded one."""
        self._fds = FdCache(self._procfs, self.namespaces)
        # State files of containers are those of the host that `procfs` is of.
        self._containers = ContainerNameReader(procfs.parent, is_on=container_names)
        self._processes = ProcessReader(
            self._procfs,
            command_line=command_line,
            ancestors=ancestors,
            containers=self._containers,
        )
        self._unconnected_ports = UnconnectedPorts()
        self._kernels = KernelResolution(self._fds)
        self._packet_holders = PacketHolders()
        self._endpoints = EndpointHeuristic()
        self._own_sampling = SamplingSchedule()
        self._container_sampling = SamplingSchedule(cpu_share=container_budget / 2)
        self._endpoints_lock = threading.Lock()
        self._clock = clock

    def prepare(self) -> None:
        """Read the fds of all processes; later lookups read what has changed."""
        self._fds.prepare(SharedSocketRules(self._procfs), self._clock())

    def describe(self) -> str:
        """Return where owners come from."""
        return (
            f"owners come from {self._procfs.root} alone; "
            "connections of some milliseconds may have none"
        )

    def describe_reading(self) -> str:
        """Return what is being read; see `Resolver`."""
        user = self._processes.naming
        return self._procfs.describe_reading() if user is None else f"the name of user {user}"

    @property
    def has_history(self) -> bool:
        """Whether owners are recorded: /proc shows the present."""
        return False

    def resolve(self, flows: Collection[FlowKey]) -> dict[FlowKey, Resolution]:
        """Return the resolution of each flow, after one reading for all of them."""
        rules = SharedSocketRules(self._procfs)
        now = self._clock()
        matches = self._match(flows, now)
        users, namespaces = _users_of_sockets(matches), _namespaces_of_sockets(matches)
        holders = self._fds.find_owners(users, rules, now, namespaces)
        found = {}
        for flow, attribution in self._attribute_all(matches, holders, rules).items():
            match = matches[flow]
            if attribution is not None:
                may_be_refined = self._awaits_server(match, attribution, rules)
                is_final = self._is_final(flow, attribution, now) and not may_be_refined
                found[flow] = Resolution(
                    attribution,
                    is_final=is_final,
                    may_be_refined=may_be_refined,
                    awaits_accept=match.awaits_accept,
                    open_for=self._seen_for(flow, match, now),
                )
        self._resolve_without_socket(found, matches, rules, now)
        self._resolve_kernels(found, matches, now)
        self._record_packet_holders(matches, rules, now)
        return found

    def infer(self, flow: FlowKey) -> Attribution:
        """Apply the endpoint heuristic to a flow; see `Resolver`."""
        endpoint = endpoint_of(flow)
        if endpoint is None:
            return UNATTRIBUTED
        with self._endpoints_lock:
            owner = self._endpoints.infer_owner(endpoint, self._clock())
        return _inferred(owner)

    def infer_sender(self, flow: FlowKey, moved: FlowDelta) -> Attribution:
        """Infer who sends a flow through a packet socket; see `Resolver`."""
        return _inferred(self._packet_holders.infer(flow, moved, self._clock()))

    def recall(self, flows: FlowsInSpans) -> Sequence[Resolution | None]:
        """Return None for each: /proc records nothing."""
        return [None] * len(flows)

    def recall_socket_owners(self, inodes: Collection[int]) -> dict[int, Process]:
        """Return the owners of sockets by inode, by the fds as they were read last.

        Raises OSError if /proc itself cannot be read.
        """
        rules = SharedSocketRules(self._procfs)
        return self._name_owners(self._fds.cached_owners(inodes, rules), rules)

    def find_socket_owners(self, sockets: Mapping[int, int]) -> dict[int, Process]:
        """Return the owners of sockets by inode; `sockets` gives their user ids by inode.

        Raises OSError if /proc itself cannot be read.
        """
        rules = SharedSocketRules(self._procfs)
        return self._name_owners(self._fds.find_owners(sockets, rules, self._clock()), rules)

    @property
    def processes(self) -> ProcessReader:
        """The reader of processes, safe from any thread."""
        return self._processes

    def close(self) -> None:
        """Close the links into other network namespaces."""
        self._links.close()

    def counts(self) -> ResolverCounts:
        """Return the counters; they only grow."""
        own, inside = self._tables.counts, self._container_tables.counts
        return ResolverCounts(
            table_reads=own.tables + inside.tables,
            tuple_lookups=own.lookups + inside.lookups,
            dumps_interrupted=own.interrupted + inside.interrupted,
            dumps_failed=own.refused + inside.refused,
            rows_skipped=own.rows_skipped + inside.rows_skipped,
            tables_incomplete=self._procfs.tables_incomplete,
            fds_read=self._fds.fds_read,
            fds_evicted=self._fds.evicted,
            fd_scans=self._fds.fd_scans,
            not_permitted=self._fds.not_permitted + self._procfs.hidden,
            malformed_files=self._procfs.malformed,
            container_files_unread=self._containers.unreadable,
            deferred=self._fds.deferred + self._container_tables.deferred,
            ambiguous=self._fds.ambiguous,
        )

    def _match(self, flows: Collection[FlowKey], now: float) -> dict[FlowKey, Match]:
        """Read socket tables; return the match of each flow, as far as the tables decide."""
        own = [flow for flow in flows if flow.namespace == OWN_NAMESPACE]
        deadline = now + _MAX_TABLE_SECONDS
        schedules = (self._own_sampling, self._container_sampling)
        endpoints = _by_namespace(chain.from_iterable(one.candidates(now) for one in schedules))
        reading = self._tables.read(own, now, deadline, endpoints.get(OWN_NAMESPACE, ()))
        index = TableIndex(reading.tables)
        matched = ((flow, index.match(flow)) for flow in own if flow not in reading.inconclusive)
        matches = {
            flow: match for flow, match in matched if is_conclusive(flow, match, reading.incomplete)
        }
        others = [flow for flow in flows if flow.namespace != OWN_NAMESPACE]
        return matches | self._container_tables.match(others, deadline, endpoints)

    def _resolve_without_socket(
        self,
        found: dict[FlowKey, Resolution],
        matches: Mapping[FlowKey, Match],
        rules: SharedSocketRules,
        now: float,
    ) -> None:
        """Record the matches as evidence, and apply the endpoint heuristic to the other flows."""
        without_socket: dict[FlowKey, Endpoint] = {}
        for flow, match in matches.items():
            endpoint = endpoint_of(flow)
            if endpoint is None:
                continue
            if match.quality is Quality.EXACT and len(match.rows) == 1:
                owner = found[flow].attribution.process
                with self._endpoints_lock:
                    self._endpoints.record_match(endpoint, match.rows[0].inode, owner, now)
            elif not match.rows:
                without_socket[flow] = endpoint
                self._sampling_of(endpoint.namespace).record_miss(endpoint, now)
        if without_socket:
            with suppress(OSError):  # the next lookup meets the same and counts as failed
                for schedule in (self._own_sampling, self._container_sampling):
                    self._sample_endpoints(schedule, rules, now)
            found.update(
                (flow, self._resolve_by_endpoint(endpoint))
                for flow, endpoint in without_socket.items()
            )

    def _resolve_kernels(
        self, found: dict[FlowKey, Resolution], matches: Mapping[FlowKey, Match], now: float
    ) -> None:
        """Name the parts of the kernel that flows without a process are of."""
        if not self._shows_own_namespace:
            return
        nameless = {
            flow: matches[flow].rows
            for flow, resolution in found.items()
            if resolution.attribution.quality is Quality.NONE and may_be_kernels(flow)
        }
        for flow, sender in self._kernels.find(nameless, now).items():
            attribution = Attribution(sender.quality, kernel=sender.name)
            found[flow] = Resolution(attribution, is_final=True)

    def _record_packet_holders(
        self, matches: Mapping[FlowKey, Match], rules: SharedSocketRules, now: float
    ) -> None:
        """Find who holds the packet sockets of the interfaces of flows that have no socket."""
        interfaces = {
            flow.interface
            for flow, match in matches.items()
            if not match.rows and is_candidate(flow)
        }
        if not interfaces or not self._shows_own_namespace:
            return
        with suppress(OSError):  # neither packet_diag nor the table
            sockets = [one for one in read_packet_sockets(self._procfs.root) if may_send(one)]
            wanted = {one.inode: one.user_id for one in sockets}
            owners = self._fds.find_owners(wanted, rules, now)
            processes = self._read_processes(owners.values(), rules)
            holders = {
                name: {processes[one] for one in find_holders(sockets, find_device(name), owners)}
                for name in interfaces
            }
            self._packet_holders.record(holders, now)

    def _resolve_by_endpoint(self, endpoint: Endpoint) -> Resolution:
        """Resolve a flow without a socket; final if the evidence of its endpoint is conclusive."""
        now = self._clock()
        with self._endpoints_lock:
            owner = self._endpoints.infer_owner(endpoint, now)
            is_final = owner is not None or self._endpoints.is_conclusive(endpoint, now)
        return Resolution(_inferred(owner), is_final=is_final)

    def _sampling_of(self, namespace: int) -> SamplingSchedule:
        return self._own_sampling if namespace == OWN_NAMESPACE else self._container_sampling

    def _sample_endpoints(
        self, schedule: SamplingSchedule, rules: SharedSocketRules, now: float
    ) -> None:
        """Record the owners of all sockets to the endpoints that are due for a sample."""
        with self._endpoints_lock:
            endpoints = schedule.take_due(now, lambda one: self._endpoints.is_conclusive(one, now))
        before = time.thread_time()
        for namespace, some in _by_namespace(endpoints).items():
            self._sample_namespace(namespace, some, rules, now)
        if endpoints:
            schedule.record_cost(time.thread_time() - before, now)

    def _sample_namespace(
        self,
        namespace: int,
        endpoints: Collection[Endpoint],
        rules: SharedSocketRules,
        now: float,
    ) -> None:
        with self._endpoints_lock:
            likely = set().union(*map(self._endpoints.owner_pids, endpoints))
        inodes: dict[Endpoint, set[int]] = {endpoint: set() for endpoint in endpoints}

        def read() -> dict[int, int]:
            sockets = self._read_endpoint_sockets(namespace, endpoints)
            for endpoint, rows in sockets.items():
                inodes[endpoint].update(row.inode for row in rows)
            return {row.inode: row.user_id for rows in sockets.values() for row in rows}

        if namespace == OWN_NAMESPACE:
            is_cheap = self._tables.rereads_cheaply(endpoints)
        else:
            is_cheap = self._container_tables.rereads_cheaply(namespace, endpoints)
        reads = _MAX_SAMPLE_READS if is_cheap else 1
        holders = self._fds.sample_owners(
            read, likely, rules, now, max_reads=reads, namespace=namespace
        )
        processes = self._read_processes(holders.values(), rules)
        for endpoint, seen in inodes.items():
            owners = {inode: processes.get(holders.get(inode)) for inode in seen}
            with self._endpoints_lock:
                self._endpoints.record_sample(endpoint, owners, now)

    def _read_endpoint_sockets(
        self, namespace: int, endpoints: Collection[Endpoint]
    ) -> EndpointSockets:
        if namespace == OWN_NAMESPACE:
            return self._tables.read_endpoint_sockets(endpoints)
        return self._container_tables.read_endpoint_sockets(namespace, endpoints) or {}

    def _name_owners(
        self, owners: Mapping[int, ProcessIdentity], rules: SharedSocketRules
    ) -> dict[int, Process]:
        processes = self._read_processes(owners.values(), rules)
        named = ((inode, processes[owner]) for inode, owner in owners.items())
        return {inode: process for inode, process in named if process is not None}

    def _read_processes(
        self, owners: Iterable[ProcessIdentity | None], rules: SharedSocketRules
    ) -> dict[ProcessIdentity | None, Process | None]:
        """Return the process of each owner; None for no owner, and for one that has exited."""
        now, find = self._clock(), self._processes.find
        return {
            owner: None if owner is None else find(owner, now, rules.read_stat)
            for owner in {None, *owners}
        }

    def _attribute_recorded(
        self, matches: Mapping[FlowKey, Match]
    ) -> dict[FlowKey, Attribution | None]:
        """Return the attribution of each match, where /proc does not change. Raises OSError."""
        rules = SharedSocketRules(self._procfs)
        holders = self._fds.find_recorded_owners(_users_of_sockets(matches), rules)
        return self._attribute_all(matches, holders, rules)

    def _attribute_all(
        self,
        matches: Mapping[FlowKey, Match],
        holders: Mapping[int, ProcessIdentity],
        rules: SharedSocketRules,
    ) -> dict[FlowKey, Attribution | None]:
        """Return the attribution of each match; `holders` are the owners of sockets by inode.

        Equal attributions to a process are one object.
        """
        owners = {flow: _owner_of_port(match, holders, rules) for flow, match in matches.items()}
        processes = self._read_processes(owners.values(), rules)
        made: dict[tuple[Quality, ProcessIdentity | None], Attribution] = {}
        attributions = {}
        for flow, match in matches.items():
            owner = match.quality, owners[flow]
            attribution = made.get(owner)
            if attribution is None:
                process = processes[owners[flow]]
                attribution = self._attribute(match, process)
                if attribution is not None and process is not None:
                    made[owner] = attribution
            attributions[flow] = attribution
        return attributions

    def _attribute(self, match: Match, owner: Process | None) -> Attribution | None:
        """Return the attribution of a match; None if the sockets belong to different users.

        Without an owner, the user of the sockets is all that is known.
        """
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

    def _is_final(self, flow: FlowKey, attribution: Attribution, now: float) -> bool:
        """Return whether a later lookup would find the same, as a flow was matched to its port.

        The socket of a connection is closed then, or not yet accepted. A flow of datagrams may have
        had one of its own, unless `unconnected_ports` shows otherwise.
        """
        if flow.protocol in DATAGRAMS and attribution.process is not None:
            is_connected = attribution.quality is Quality.EXACT
            return self._unconnected_ports.record(flow, is_connected=is_connected, now=now)
        return attribution.quality is Quality.LISTENER and flow.protocol == TCP

    def _seen_for(self, flow: FlowKey, match: Match, now: float) -> float:
        """Return for how long the sockets of a flow have been open; 0 where pauses do not matter.

        An inode is one socket's as long as the socket is open, and no other one's for long.
        """
        if flow.protocol == TCP:
            return 0.0
        return self._fds.seen_for((row.inode for row in match.rows), now)

    def _awaits_server(
        self, match: Match, attribution: Attribution, rules: SharedSocketRules
    ) -> bool:
        """Return whether one of several processes that listen will accept the connection."""
        if not match.awaits_accept or attribution.process is None:
            return False
        inodes = [row.inode for row in match.rows]
        return not self._fds.have_sole_holder(inodes, rules)


def _by_namespace(endpoints: Iterable[Endpoint]) -> dict[int, list[Endpoint]]:
    by_namespace: dict[int, list[Endpoint]] = {}
    for endpoint in endpoints:
        by_namespace.setdefault(endpoint.namespace, []).append(endpoint)
    return by_namespace


def _users_of_sockets(matches: Mapping[FlowKey, Match]) -> dict[int, int]:
    """Return the user of each matched socket by inode."""
    return {row.inode: row.user_id for match in matches.values() for row in match.rows}


def _namespaces_of_sockets(matches: Mapping[FlowKey, Match]) -> dict[int, int]:
    """Return the namespace of each matched socket that is in another one than this."""
    return {
        row.inode: flow.namespace
        for flow, match in matches.items()
        if flow.namespace
        for row in match.rows
    }


def _inferred(owner: Process | None) -> Attribution:
    return UNATTRIBUTED if owner is None else Attribution(Quality.INFERRED, process=owner)


def _owner_of_port(
    match: Match, owners: Mapping[int, ProcessIdentity], rules: SharedSocketRules
) -> ProcessIdentity | None:
    """Return the owner of a flow's port; None if one of the matched sockets has no owner."""
    inodes = {row.inode for row in match.rows}
    if not inodes or not inodes <= owners.keys():
        return None
    return rules.owner_of_port(frozenset(owners[inode] for inode in inodes))

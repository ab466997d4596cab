"""From flows to their owners, through /proc and sock_diag: one reading for a whole batch.

The steps: read the tables that the flows need (`table_reader`), match each flow to sockets
(`matching`), find who owns these (`fd_cache`) and the port of each flow (`kinship`), read what is
told of the owners (`processes`). Flows that no socket fits are left to the rule of `inference`, for
which the sockets are read that talk to the same endpoints.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from hogpipe.attribution.contract import ResolverCounts
from hogpipe.attribution.fd_cache import FdCache
from hogpipe.attribution.inference import Endpoint, EndpointOwners, endpoint_of
from hogpipe.attribution.kinship import Identity, Kinship
from hogpipe.attribution.matching import Match, SocketIndex, has_endpoint
from hogpipe.attribution.processes import ProcessReader
from hogpipe.attribution.procfs import Procfs
from hogpipe.attribution.table_reader import SocketTable, TableReader
from hogpipe.model import UNATTRIBUTED, Attribution, FlowKey, Process, Quality, User


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
        self._fds = FdCache(self._procfs)
        self._processes = ProcessReader(self._procfs, command_line=command_line)
        self._endpoints = EndpointOwners()
        self._sightings = threading.Lock()  # for `_endpoints`
        self._clock = clock

    def prepare(self) -> None:
        """Read the fds of all processes, which later look-ups only bring up to date."""
        self._fds.prepare(Kinship(self._procfs))

    def resolve(self, flows: Collection[FlowKey]) -> dict[FlowKey, Attribution]:
        """Return the attribution of each flow; an OSError means that /proc itself failed."""
        kinship = Kinship(self._procfs)
        index = SocketIndex(self._tables.read(flows))
        matches = {flow: index.match(flow) for flow in flows}
        rows = (row for match in matches.values() for row in match.rows)
        sockets = self._fds.find({row.inode: row.user_id for row in rows}, kinship)
        owners = {flow: _own(match, sockets, kinship) for flow, match in matches.items()}
        processes = self._read_processes(owners.values())
        found = {
            flow: self._attribute(match, processes[owners[flow]]) for flow, match in matches.items()
        }
        self._infer(found, matches, kinship)
        return found

    def infer(self, flow: FlowKey) -> Attribution:
        """Return whose the flow is by the rule of `inference`; from any thread."""
        if not has_endpoint(flow):
            return UNATTRIBUTED
        with self._sightings:
            owner = self._endpoints.infer(endpoint_of(flow), self._clock())
        return UNATTRIBUTED if owner is None else Attribution(Quality.INFERRED, process=owner)

    def counts(self) -> ResolverCounts:
        """Return the counters as they stand; they only grow."""
        return ResolverCounts(
            reads=self._tables.reads,
            fds_read=self._fds.fds_read,
            walks=self._fds.walks,
            not_permitted=self._fds.not_permitted,
            rows_skipped=self._tables.rows_skipped,
            put_off=self._fds.put_off,
            shared=self._fds.shared,
        )

    def _infer(
        self,
        found: dict[FlowKey, Attribution],
        matches: Mapping[FlowKey, Match],
        kinship: Kinship,
    ) -> None:
        """Give flows without a socket to who owns all others towards the same endpoint."""
        now = self._clock()
        for flow, match in matches.items():
            if match.quality is Quality.EXACT and len(match.rows) == 1:
                self._see(endpoint_of(flow), match.rows[0].inode, found[flow].process, now)
        unseen = [flow for flow in found if not matches[flow].rows and has_endpoint(flow)]
        if not unseen:
            return
        endpoints = Counter(endpoint_of(flow) for flow in unseen)
        # A rule of many sockets needs many: a single flow has no siblings worth a look.
        repeated = [endpoint for endpoint, flows in endpoints.items() if flows > 1]
        if repeated:
            self._look_for_siblings(repeated, kinship, now)
        found.update((flow, self.infer(flow)) for flow in unseen)

    def _look_for_siblings(
        self, endpoints: Collection[Endpoint], kinship: Kinship, now: float
    ) -> None:
        """Note whose the sockets are that talk to these endpoints just now."""
        towards = self._tables.read_towards(endpoints)
        rows = {row.inode: row for siblings in towards.values() for row in siblings}
        sockets = self._fds.find({row.inode: row.user_id for row in rows.values()}, kinship)
        processes = self._read_processes(sockets.values())
        for endpoint, siblings in towards.items():
            for row in siblings:
                owner = processes.get(sockets.get(row.inode))
                if owner is not None:
                    self._see(endpoint, row.inode, owner, now)

    def _see(self, endpoint: Endpoint, inode: int, owner: Process | None, now: float) -> None:
        with self._sightings:
            self._endpoints.see(endpoint, inode, owner, now)

    def _read_processes(
        self, owners: Iterable[Identity | None]
    ) -> dict[Identity | None, Process | None]:
        """Return each owner as a process, read once; no owner is no process."""
        return {
            owner: None if owner is None else self._processes.read(owner.pid, owner.start)
            for owner in {None, *owners}
        }

    def _attribute(self, match: Match, owner: Process | None) -> Attribution:
        """Name the owner of a flow, or else the one user of all candidates."""
        if not match.rows:
            return UNATTRIBUTED
        if owner is not None:
            return Attribution(match.quality, process=owner)
        user_ids = {row.user_id for row in match.rows}
        if len(user_ids) > 1:
            return UNATTRIBUTED
        user_id = user_ids.pop()
        return Attribution(Quality.NONE, user=User(user_id, self._processes.user_name(user_id)))


def _own(match: Match, sockets: Mapping[int, Identity], kinship: Kinship) -> Identity | None:
    """Return the owner of the port of a flow; none where a socket on it has no owner."""
    inodes = {row.inode for row in match.rows}
    if not inodes or not inodes <= sockets.keys():
        return None
    return kinship.owner_of_port(frozenset(sockets[inode] for inode in inodes))

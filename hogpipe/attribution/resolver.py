"""From flows to their owners, through /proc alone: one reading of each table for a whole batch.

The steps: read the tables that the flows need, match each flow to sockets (`matching`), find who
holds these (`fd_cache`), read what is told of the holders (`processes`). Another source of socket
rows takes the place of the first step; a flow that no socket fits is left to rules of their own.
"""

from collections.abc import Collection
from pathlib import Path

from hogpipe.attribution.contract import ResolverCounts
from hogpipe.attribution.fd_cache import FdCache, Holder
from hogpipe.attribution.matching import (
    Match,
    SocketIndex,
    has_ports,
    port_pairs_for,
    tables_for,
)
from hogpipe.attribution.processes import ProcessReader
from hogpipe.attribution.procfs import Procfs
from hogpipe.attribution.socket_table import SocketRow, parse_table
from hogpipe.model import UNATTRIBUTED, Attribution, FlowKey, Process, Quality, User


class ProcfsResolver:
    """Finds the owners of flows in a procfs. Blocking; for one thread at a time.

    Raises ConfigurationError where `procfs` is none.
    """

    def __init__(self, procfs: Path, *, command_line: bool = False) -> None:
        self._procfs = Procfs(procfs)
        self._fds = FdCache(self._procfs)
        self._processes = ProcessReader(self._procfs, command_line=command_line)
        self._reads = 0
        self._rows_skipped = 0

    def resolve(self, flows: Collection[FlowKey]) -> dict[FlowKey, Attribution]:
        """Return the attribution of each flow; an OSError means that /proc itself failed."""
        index = SocketIndex(self._read_tables(flows))
        matches = {flow: index.match(flow) for flow in flows}
        holders = self._fds.find({row.inode for match in matches.values() for row in match.rows})
        processes = self._read_processes(holders)
        return {flow: self._attribute(match, processes) for flow, match in matches.items()}

    def counts(self) -> ResolverCounts:
        """Return the counters as they stand; they only grow."""
        return ResolverCounts(
            reads=self._reads,
            fds_read=self._fds.fds_read,
            walks=self._fds.walks,
            not_permitted=self._fds.not_permitted,
            rows_skipped=self._rows_skipped,
        )

    def _read_tables(self, flows: Collection[FlowKey]) -> dict[str, list[SocketRow]]:
        """Read each table that a flow needs, once, for the rows that matter to the flows."""
        port_pairs: dict[str, set[tuple[int, int]]] = {}
        for flow in flows:
            for name in tables_for(flow):
                port_pairs.setdefault(name, set()).update(port_pairs_for(flow))
        tables: dict[str, list[SocketRow]] = {}
        for name, pairs in port_pairs.items():
            data = self._procfs.table(name)
            if data is None:
                continue
            self._reads += 1
            tables[name], skipped = parse_table(data, pairs if has_ports(name) else None)
            self._rows_skipped += skipped
        return tables

    def _read_processes(self, holders: dict[int, Holder]) -> dict[int, Process]:
        """Return the owner of each inode, with each process read once."""
        identities = {(holder.pid, holder.start) for holder in holders.values()}
        read = {identity: self._processes.read(*identity) for identity in identities}
        owners = {inode: read[holder.pid, holder.start] for inode, holder in holders.items()}
        return {inode: process for inode, process in owners.items() if process is not None}

    def _attribute(self, match: Match, processes: dict[int, Process]) -> Attribution:
        """Name the one process that owns all candidates, or else their one user."""
        if not match.rows:
            return UNATTRIBUTED
        owners = {processes.get(row.inode) for row in match.rows}
        if len(owners) == 1 and (owner := owners.pop()) is not None:
            return Attribution(match.quality, process=owner)
        user_ids = {row.user_id for row in match.rows}
        if len(user_ids) > 1:
            return UNATTRIBUTED
        user_id = user_ids.pop()
        return Attribution(Quality.NONE, user=User(user_id, self._processes.user_name(user_id)))

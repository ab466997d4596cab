"""Reading the socket tables that a batch of flows needs, by whichever way costs less.

There are three: a table of /proc/net as text; a dump of it over sock_diag, which leaves TIME_WAIT
out and lets the kernel pick the rows by their ports; and, for few TCP flows, asking sock_diag for
each by its tuple. Only a connected socket that was found so is taken: where the kernel would look
further (listening and unconnected sockets, those bound to a device) its rules pick one socket, and
`matching` wants all candidates, so that what is not found is left to a dump.

Costs are seconds of CPU and of waiting, added up. Not for threads in parallel.
"""

import logging
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from socket import IPPROTO_TCP
from typing import Literal

import msgspec

from hogpipe.attribution.inference import Endpoint
from hogpipe.attribution.matching import (
    has_ports,
    port_pairs_for,
    protocol_of,
    tables_for,
    tables_of,
    unmap,
)
from hogpipe.attribution.procfs import Procfs
from hogpipe.attribution.reader_choice import Reader, ReaderChoice
from hogpipe.attribution.sock_diag import look_up, read_dump, read_dump_towards
from hogpipe.attribution.socket_table import SocketRow, parse_table
from hogpipe.errors import ConfigurationError
from hogpipe.model import FlowKey
from hogpipe.text import describe_error

log = logging.getLogger(__name__)

SocketTable = Literal["procfs", "sock_diag", "auto"]
"""The setting `attribution.socket_table`."""

_OWN_NAMESPACE = Path("/proc/thread-self/ns/net")
# Look-ups are tried while they cost no more than this share of the dump that they may save.
_LOOK_UP_SHARE = 0.25
_FIRST_LOOK_UP_COST = 20e-6  # of one tuple, before any was measured


class ReadCounts(msgspec.Struct):
    """What was read so far."""

    procfs: int = 0
    """Tables of /proc/net."""
    sock_diag: int = 0
    """Tables dumped over sock_diag."""
    look_ups: int = 0
    """Single tuples asked for over sock_diag."""
    interrupted: int = 0
    """Dumps that may miss sockets because the table changed meanwhile."""
    refused: int = 0
    """Times that sock_diag failed and /proc/net was read in its place."""
    rows_skipped: int = 0
    """Rows that could not be read."""


def find_problem(procfs: Path, socket_table: SocketTable) -> str | None:
    """Return why this `socket_table` cannot be had with this `procfs`, in one line, or None."""
    if socket_table != "sock_diag" or shows_own_sockets(procfs):
        return None
    return (
        '"sock_diag" reads the sockets of the network namespace that hogpipe runs in, '
        'and procfs shows another one or a recorded one; use "procfs" or "auto"'
    )


def shows_own_sockets(procfs: Path) -> bool:
    """Tell whether the tables of `procfs` are of the network namespace of this very thread."""
    try:
        return (procfs / "self" / "ns" / "net").samefile(_OWN_NAMESPACE)
    except OSError:
        return False  # a recorded tree, or a procfs that does not know us


class TableReader:
    """Reads each table that a flow needs, once, for the rows that matter to the flows.

    Raises ConfigurationError where `find_problem` finds one.
    """

    def __init__(self, root: Path, procfs: Procfs, socket_table: SocketTable = "auto") -> None:
        if problem := find_problem(root, socket_table):
            raise ConfigurationError(f"attribution.socket_table: {problem}")
        self._procfs = procfs
        automatic = socket_table == "auto" and shows_own_sockets(root)
        fixed = Reader.SOCK_DIAG if socket_table == "sock_diag" else Reader.PROCFS
        self._fixed = None if automatic else fixed
        self._choices: dict[str, ReaderChoice] = {}
        self._look_up_cost = _FIRST_LOOK_UP_COST
        self._told: set[str] = set()
        self._texts: dict[str, bytes | None] = {}
        """The tables of /proc/net as the last `read` found them."""
        self.counts = ReadCounts()

    @property
    def reads(self) -> int:
        """Tables read so far, by either reader."""
        return self.counts.procfs + self.counts.sock_diag

    @property
    def rows_skipped(self) -> int:
        """Rows that could not be read."""
        return self.counts.rows_skipped

    def read(self, flows: Collection[FlowKey]) -> dict[str, list[SocketRow]]:
        """Return the rows of each table by its name; an OSError means that /proc/net failed."""
        self._texts.clear()
        found = self._look_up(flows)
        tables: dict[str, list[SocketRow]] = {}
        for name, pairs in _ports_by_table(flow for flow in flows if flow not in found).items():
            rows = self._read_table(name, pairs)
            if rows is not None:
                tables[name] = rows
        for row in found.values():
            rows = tables.setdefault("tcp" if len(row.local_address) == 4 else "tcp6", [])
            if row not in rows:
                rows.append(row)
        return tables

    def read_towards(self, endpoints: Collection[Endpoint]) -> dict[Endpoint, list[SocketRow]]:
        """Return the sockets that somebody holds and that talk to each of these endpoints.

        What the last `read` took from /proc/net is not read again.
        """
        ports: dict[str, set[int]] = {}
        for protocol, address, port in endpoints:
            for name in tables_of(protocol, address):
                ports.setdefault(name, set()).add(port)
        found: dict[Endpoint, list[SocketRow]] = {endpoint: [] for endpoint in endpoints}
        for name, remote_ports in ports.items():
            protocol = protocol_of(name)
            for row in self._read_rows_towards(name, remote_ports):
                endpoint = protocol, unmap(row.remote_address), row.remote_port
                if row.inode and endpoint in found:
                    found[endpoint].append(row)
        return found

    def _read_rows_towards(self, name: str, remote_ports: Collection[int]) -> list[SocketRow]:
        if self._fixed is not Reader.PROCFS:
            try:
                dump = read_dump_towards(name, remote_ports)
            except OSError as error:
                self._note_refusal(name, error)
            else:
                self.counts.sock_diag += 1
                self.counts.rows_skipped += dump.skipped
                return dump.rows
        return self._read_procfs(name, set(), remote_ports) or []

    def _read_table(self, name: str, pairs: set[tuple[int, int]]) -> list[SocketRow] | None:
        if not has_ports(name):
            return self._read_procfs(name, None)
        choice = self._choice(name)
        reader = choice.next
        before = _seconds()
        if reader is Reader.SOCK_DIAG:
            try:
                rows: list[SocketRow] | None = self._dump(name, pairs)
            except OSError as error:
                self._note_refusal(name, error)
                choice.record_failure(reader)
                return self._read_procfs(name, pairs)
        else:
            rows = self._read_procfs(name, pairs)
        choice.record(reader, _seconds() - before)
        return rows

    def _read_procfs(
        self,
        name: str,
        pairs: set[tuple[int, int]] | None,
        remote_ports: Collection[int] = (),
    ) -> list[SocketRow] | None:
        if name not in self._texts:
            self._texts[name] = self._procfs.table(name)
            self.counts.procfs += self._texts[name] is not None
        data = self._texts[name]
        if data is None:
            return None
        rows, skipped = parse_table(data, pairs, remote_ports)
        self.counts.rows_skipped += skipped
        return rows

    def _dump(self, name: str, pairs: set[tuple[int, int]]) -> list[SocketRow]:
        dump = read_dump(name, pairs)
        self.counts.sock_diag += 1
        self.counts.rows_skipped += dump.skipped
        self.counts.interrupted += dump.interrupted
        return dump.rows

    def _look_up(self, flows: Collection[FlowKey]) -> dict[FlowKey, SocketRow]:
        """Return the connected sockets of TCP flows, as far as asking for each one pays."""
        asked = [flow for flow in flows if flow.protocol == IPPROTO_TCP]
        if not asked or len(asked) * self._look_up_cost > _LOOK_UP_SHARE * self._dump_cost(asked):
            return {}
        before = _seconds()
        try:
            found = look_up(asked)
        except OSError as error:
            self._note_refusal("tcp", error)
            return {}
        self.counts.look_ups += len(asked)
        self._look_up_cost = (self._look_up_cost + (_seconds() - before) / len(asked)) / 2
        return found

    def _dump_cost(self, flows: Collection[FlowKey]) -> float:
        """Return what dumps for these flows cost lately; 0 where they are not read by dumps now."""
        cost = 0.0
        for name in {name for flow in flows for name in tables_for(flow)}:
            choice = self._choice(name)
            if choice.present is not Reader.SOCK_DIAG or choice.next is not choice.present:
                return 0.0
            cost += choice.cost(Reader.SOCK_DIAG) or 0.0
        return cost

    def _choice(self, name: str) -> ReaderChoice:
        return self._choices.setdefault(name, ReaderChoice(self._fixed))

    def _note_refusal(self, name: str, error: OSError) -> None:
        self.counts.refused += 1
        if name not in self._told:
            self._told.add(name)
            reason = describe_error(error)
            log.warning("sock_diag does not give table %s, /proc/net does: %s", name, reason)


def _ports_by_table(flows: Iterable[FlowKey]) -> dict[str, set[tuple[int, int]]]:
    """Return the tables that the flows need, with the pairs of ports that matter there."""
    port_pairs: dict[str, set[tuple[int, int]]] = {}
    for flow in flows:
        for name in tables_for(flow):
            port_pairs.setdefault(name, set()).update(port_pairs_for(flow))
    return port_pairs


def _seconds() -> float:
    return time.perf_counter() + time.thread_time()

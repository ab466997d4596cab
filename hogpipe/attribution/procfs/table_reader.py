"""Reads the socket tables that a batch of flows needs, with the reader that costs less.

In: the flows of a batch, and endpoints for the endpoint heuristic, all of one network namespace
(`table_source`). Out: rows by table. Raises OSError if /proc/net cannot be read; a refusal of
sock_diag is counted, and logged once for each table.

There are two readers: the text tables of /proc/net, and sock_diag, which leaves out TIME_WAIT and
filters rows by ports in the kernel (for TCP, it looks up five-tuples: `tcp_lookup`).
`reader_choice` compares their costs, in seconds of CPU. For one thread at a time.

A table of /proc/net that is not read to its end by the deadline of the lookup is incomplete. Its
rows are used, but a flow without a row may still have a socket. No sample is taken from such a
table: a sample that misses a process would be evidence for another one.
"""

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from hogpipe.attribution.procfs.endpoint_heuristic import Endpoint
from hogpipe.attribution.procfs.matching import (
    TableIndex,
    has_ports,
    port_pairs_for,
    protocol_of,
    tables_for,
    tables_of,
)
from hogpipe.attribution.procfs.reader_choice import Reader, ReaderChoice
from hogpipe.attribution.procfs.table_source import UNREAD, TableSource
from hogpipe.attribution.procfs.tcp_lookup import ReadCounts, TcpLookup, TcpReading
from hogpipe.errors import ConfigurationError
from hogpipe.linux.netns.namespace_processes import shows_own_namespace
from hogpipe.linux.sock_diag import read_dump, read_dump_by_remote_port
from hogpipe.linux.socket_table import SocketRow, TableText, parse_table
from hogpipe.model import OWN_NAMESPACE, FlowKey, Quality, unmap
from hogpipe.protocols import TCP
from hogpipe.text import describe_error

log = logging.getLogger(__name__)

# Of another namespace, until one is measured. It may have tens of thousands of sockets: lookups
# come first, unless there are a thousand of them.
_DUMP_COST_INSIDE = 0.01

T = TypeVar("T")

EndpointSockets = dict[Endpoint, list[SocketRow]]
"""Sockets by their remote endpoint."""

SocketTable = Literal["procfs", "sock_diag", "auto"]
"""The setting `attribution.socket_table`."""


class Reading(msgspec.Struct):
    """The rows read for a batch of flows."""

    tables: dict[str, list[SocketRow]] = msgspec.field(default_factory=dict)
    """By the name of the table; "tcp" may hold both families."""
    inconclusive: set[FlowKey] = msgspec.field(default_factory=set)
    """Flows without a row whose socket may still exist (`tcp_lookup`)."""
    incomplete: set[str] = msgspec.field(default_factory=set)
    """The names of the tables of /proc/net that were not read to their end."""


def find_problem(procfs: Path, socket_table: SocketTable) -> str | None:
    """Return in one line why `socket_table` is not possible with this `procfs`, or None."""
    if socket_table != "sock_diag" or shows_own_namespace(procfs):
        return None
    return (
        '"sock_diag" reads the sockets of the network namespace that hogpipe runs in, '
        'but procfs shows another namespace or is recorded; use "procfs" or "auto"'
    )


def fixed_reader(procfs: Path, socket_table: SocketTable) -> Reader | None:
    """Return the reader that costs do not change, None if there is a choice.

    Raises ConfigurationError if `find_problem` returns a problem.
    """
    if problem := find_problem(procfs, socket_table):
        raise ConfigurationError(f"attribution.socket_table: {problem}")
    if socket_table == "auto" and shows_own_namespace(procfs):
        return None
    return Reader.SOCK_DIAG if socket_table == "sock_diag" else Reader.PROCFS


class TableReader:
    """Reads each table of a batch once, for the rows that the flows need.

    `fixed` is as in `ReaderChoice`. Readers may share `counts`, and `warned`: the tables whose
    refusal has been logged.
    """

    def __init__(
        self,
        source: TableSource,
        fixed: Reader | None,
        *,
        counts: ReadCounts | None = None,
        warned: set[str] | None = None,
    ) -> None:
        self._source = source
        self._is_own = source.namespace == OWN_NAMESPACE
        self._fixed = fixed
        self._choices: dict[str, ReaderChoice] = {}
        self._warned = set() if warned is None else warned
        self._texts: dict[str, TableText | None] = {}
        """The tables of /proc/net that the last `read` read."""
        self._deadline = math.inf
        """The deadline of the last `read`."""
        self._endpoint_ports: dict[str, set[int]] = {}
        """By table: the remote ports of the endpoints of the last `read`."""
        self._rows: dict[str, list[SocketRow]] = {}
        """The rows that the last `read` parsed from them."""
        self.counts = ReadCounts() if counts is None else counts
        self._tcp_lookup = TcpLookup(
            self.counts,
            source.open_link,
            source.find_device,
            may_walk=source.may_walk,
            dump_cost=0.0 if self._is_own else _DUMP_COST_INSIDE,
        )

    def read(
        self,
        flows: Collection[FlowKey],
        now: float,
        deadline: float,
        endpoints: Collection[Endpoint] = (),
    ) -> Reading:
        """Return the rows that `flows` need. Raises OSError if /proc/net cannot be read.

        Tables of /proc/net are read until `deadline`, here and by `read_endpoint_sockets`. The rows
        of `endpoints` in them are kept for `read_endpoint_sockets`.
        """
        self.begin_lookup(deadline)
        self._endpoint_ports = _remote_ports_by_table(endpoints)
        reading = Reading()
        tcp = [flow for flow in flows if flow.protocol == TCP]
        if tcp:
            self._read_tcp(tcp, now, reading)
        others = (flow for flow in flows if flow.protocol != TCP)
        for name, pairs in _ports_by_table(others).items():
            reading.tables[name] = self._read_table(name, pairs)
        reading.incomplete = {name for name in self._texts if self._is_incomplete(name)}
        return reading

    def begin_lookup(self, deadline: float) -> None:
        """Start a lookup: tables of the last one no longer hold."""
        self._texts.clear()
        self._rows.clear()
        self._endpoint_ports = {}
        self._deadline = deadline

    def rereads_cheaply(self, endpoints: Collection[Endpoint]) -> bool:
        """Return whether each `read_endpoint_sockets` returns fresh rows, at little cost."""
        return all(
            self._choice(_dump_table(name)).current is Reader.SOCK_DIAG
            for name in _remote_ports_by_table(endpoints)
        )

    def read_endpoint_sockets(self, endpoints: Collection[Endpoint]) -> EndpointSockets:
        """Return the sockets to each of these endpoints that a process holds.

        A table of /proc/net that the last `read` read is not read again, and not parsed again for
        the endpoints of that `read`.
        """
        ports = _remote_ports_by_table(endpoints)
        found: EndpointSockets = {endpoint: [] for endpoint in endpoints}
        for name, rows in self._read_endpoint_rows(ports):
            protocol = protocol_of(name)
            for row in rows:
                remote = unmap(row.remote_address), row.remote_port
                endpoint = Endpoint(self._source.namespace, protocol, *remote)
                if row.inode and endpoint in found:
                    found[endpoint].append(row)
        return found

    def _read_endpoint_rows(
        self, ports: Mapping[str, AbstractSet[int]]
    ) -> Iterator[tuple[str, list[SocketRow]]]:
        by_dump: dict[str, set[int]] = {}
        for name, remote_ports in ports.items():
            dumped = _dump_table(name)
            if self._choice(dumped).current is Reader.SOCK_DIAG:
                by_dump.setdefault(dumped, set()).update(remote_ports)
            else:
                yield name, self._read_endpoint_table(name, remote_ports)
        for name, remote_ports in by_dump.items():
            yield name, self._dump_by_remote_port(name, remote_ports)

    def _read_endpoint_table(self, name: str, remote_ports: AbstractSet[int]) -> list[SocketRow]:
        """Return the rows with these remote ports; none of an incomplete table."""
        if name in self._rows and remote_ports <= self._endpoint_ports.get(name, set()):
            rows = self._rows[name]
        else:
            rows = self._read_procfs(name, set(), remote_ports)
        return [] if self._is_incomplete(name) else rows

    def _dump_by_remote_port(self, name: str, remote_ports: AbstractSet[int]) -> list[SocketRow]:
        try:
            dump = read_dump_by_remote_port(name, remote_ports, self._source.open_link)
            return self.counts.add_dump(dump)
        except ProcessLookupError:
            return []
        except OSError as error:
            self._record_refusal(name, error)
            self._choice(name).record_failure(Reader.SOCK_DIAG)
            names = ("tcp", "tcp6") if name == "tcp" else (name,)
            return [row for one in names for row in self._read_endpoint_table(one, remote_ports)]

    def _read_tcp(self, flows: Collection[FlowKey], now: float, reading: Reading) -> None:
        def read_binary() -> TcpReading:
            return self._tcp_lookup.read(flows, now)

        def read_text() -> TcpReading:
            tables = self._read_tcp_texts(flows)
            return TcpReading([row for rows in tables.values() for row in rows])

        found = self._read_by_choice("tcp", read_binary, read_text)
        reading.tables["tcp"], reading.inconclusive = found.rows, found.inconclusive

    def _read_tcp_texts(self, flows: Collection[FlowKey]) -> dict[str, list[SocketRow]]:
        """Return the rows of the tables that the flows need.

        Of another namespace, the less likely table of a flow is read only if it has no exact match
        in the first one: there each table costs a walk through the sockets of all namespaces.
        """
        if self._is_own:
            needed = _ports_by_table(flows)
            return {name: self._read_rows(name, needed[name]) for name in needed}
        tables: dict[str, list[SocketRow]] = {}
        for part in (slice(0, 1), slice(1, None)):
            index = TableIndex(tables)
            rest = [flow for flow in flows if index.match(flow).quality is not Quality.EXACT]
            for name, pairs in _ports_by_table(rest, part).items():
                tables[name] = tables.get(name, []) + self._read_rows(name, pairs)
        return tables

    def _read_table(self, name: str, pairs: set[tuple[int, int]]) -> list[SocketRow]:
        if not has_ports(name):
            return self._read_procfs(name, None)
        return self._read_by_choice(
            name,
            lambda: self.counts.add_dump(read_dump(name, pairs, self._source.open_link)),
            lambda: self._read_rows(name, pairs),
        )

    def _read_by_choice(
        self, name: str, by_sock_diag: Callable[[], T], by_procfs: Callable[[], T]
    ) -> T:
        """Read with the reader that `reader_choice` names, and record the cost."""
        choice = self._choice(name)
        reader = choice.next
        before = time.thread_time()
        if reader is Reader.PROCFS:
            found = by_procfs()
        else:
            try:
                found = by_sock_diag()
            except ProcessLookupError:  # a container's process has exited, and nothing is refused
                return by_procfs()
            except OSError as error:
                self._record_refusal(name, error)
                choice.record_failure(reader)
                return by_procfs()
        choice.record(reader, time.thread_time() - before)
        return found

    def _read_rows(self, name: str, pairs: set[tuple[int, int]]) -> list[SocketRow]:
        rows = self._read_procfs(name, pairs, self._endpoint_ports.get(name, ()))
        self._rows[name] = rows
        return rows

    def _read_procfs(
        self,
        name: str,
        pairs: set[tuple[int, int]] | None,
        remote_ports: Collection[int] = (),
    ) -> list[SocketRow]:
        if name not in self._texts:
            self._texts[name] = self._source.read_text(name, self._deadline)
            self.counts.procfs += self._texts[name] not in (None, UNREAD)
        text = self._texts[name]
        if text is None:
            return []
        rows, skipped = parse_table(text.data, pairs, remote_ports)
        self.counts.rows_skipped += skipped
        return rows

    def _is_incomplete(self, name: str) -> bool:
        text = self._texts.get(name)
        return text is not None and not text.is_complete

    def _choice(self, name: str) -> ReaderChoice:
        if name not in self._choices:
            self._choices[name] = ReaderChoice(self._fixed, first=Reader.SOCK_DIAG)
        return self._choices[name]

    def _record_refusal(self, name: str, error: OSError) -> None:
        self.counts.refused += 1
        if name not in self._warned:
            self._warned.add(name)
            reason = describe_error(error)
            # In containers, sock_diag takes a right that nothing else here needs (CAP_SYS_ADMIN).
            level = logging.WARNING if self._is_own else logging.INFO
            where = "" if self._is_own else " of containers"
            message = "sock_diag cannot read table %s%s, /proc/net is read instead: %s"
            log.log(level, message, name, where, reason)


def _dump_table(name: str) -> str:
    """Return the table whose dump includes this one: a TCP dump has both families."""
    return "tcp" if name == "tcp6" else name


def _remote_ports_by_table(endpoints: Iterable[Endpoint]) -> dict[str, set[int]]:
    """Return the tables that may hold sockets to the endpoints, with the ports to read."""
    ports: dict[str, set[int]] = {}
    for endpoint in endpoints:
        for name in tables_of(endpoint.protocol, endpoint.address):
            ports.setdefault(name, set()).add(endpoint.port)
    return ports


def _ports_by_table(
    flows: Iterable[FlowKey], part: slice = slice(None)
) -> dict[str, set[tuple[int, int]]]:
    """Return the tables that the flows need, with the pairs of ports to read.

    With `part` only that part of the tables of each flow, the likeliest of which comes first.
    """
    port_pairs: dict[str, set[tuple[int, int]]] = {}
    for flow in flows:
        for name in tables_for(flow)[part]:
            port_pairs.setdefault(name, set()).update(port_pairs_for(flow))
    return port_pairs

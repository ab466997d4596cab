"""Matches flows of other network namespaces (of containers) to the sockets there.

In: the flows of a batch. Out: a match for each flow, except for those that are deferred.

The sockets of a namespace are read through any process in it: from its /proc/PID/net, or over a
sock_diag link opened inside the namespace (`table_source`), whichever costs less. For a batch, each
namespace is read once into one index: equal addresses and ports in two namespaces never mix. After
reading, the process is checked to be in the namespace still; if not, another process is tried.

For each table that is not read over sock_diag the kernel walks the sockets of all namespaces, which
takes some milliseconds on a large host. So that many containers do not delay the whole batch, the
CPU time of a batch is bounded: namespaces whose last read is the oldest come first, and the flows
of the others are deferred to the next batch. So are flows without a socket if one of their tables
was not read to its end by the deadline of the lookup.

Known limits: no match for a flow that may be in several namespaces, nor for one in a namespace
without a process that may be read. Socket inodes are unique on the host, so `fd_cache` needs no
namespace.
"""

import math
import time
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

from hogpipe.attribution.procfs.endpoint_heuristic import Endpoint
from hogpipe.attribution.procfs.matching import NO_MATCH, Match, TableIndex, is_conclusive
from hogpipe.attribution.procfs.reader_choice import Reader
from hogpipe.attribution.procfs.table_reader import EndpointSockets, Reading, TableReader
from hogpipe.attribution.procfs.table_source import ContainerSource, OpenInside
from hogpipe.attribution.procfs.tcp_lookup import ReadCounts
from hogpipe.linux.netns.namespace_processes import NamespaceProcesses
from hogpipe.linux.procfs import Procfs
from hogpipe.model import FlowKey

NO_ENDPOINTS: Mapping[int, Collection[Endpoint]] = MappingProxyType({})

_MAX_ATTEMPTS = 4  # processes of a namespace that are tried in a batch
_MAX_SECONDS = 0.05  # of CPU, beyond those of the last namespace


class ContainerTables:
    """Reads the socket tables of other namespaces than this one. For one thread at a time.

    `clock` returns seconds; `processes` uses them as the age of processes. `fixed` is as in
    `TableReader`. A lookup is one call of `match`, calls of `read_endpoint_sockets`, and
    `end_lookup`.
    """

    def __init__(
        self,
        procfs: Procfs,
        processes: NamespaceProcesses,
        clock: Callable[[], float],
        open_inside: OpenInside,
        *,
        fixed: Reader | None = Reader.PROCFS,
        max_seconds: float = _MAX_SECONDS,
    ) -> None:
        self._procfs = procfs
        self._processes = processes
        self._clock = clock
        self._open_inside = open_inside
        self._fixed = fixed
        self._max_seconds = max_seconds
        self._sources: dict[int, ContainerSource] = {}
        """By namespace, like `_readers`."""
        self._readers: dict[int, TableReader] = {}
        self._warned: set[str] = set()
        self._deadline = math.inf
        self._read_in: dict[int, int] = {}
        """By namespace: the number of the batch that read it last."""
        self._batch = 0
        self.counts = ReadCounts()
        self.deferred = 0
        """Flows left to the next batch, once for each batch."""

    def match(
        self,
        flows: Collection[FlowKey],
        deadline: float,
        endpoints: Mapping[int, Collection[Endpoint]] = NO_ENDPOINTS,
    ) -> dict[FlowKey, Match]:
        """Return the match of each flow; a deferred flow is absent.

        So is one whose socket may still exist (`Reading.inconclusive`). No table is read beyond
        `deadline`, in seconds of the clock of the Procfs. The rows of `endpoints`, by namespace,
        are kept for `read_endpoint_sockets`. Raises OSError if processes cannot be listed.
        """
        self._deadline = deadline
        for reader in self._readers.values():
            reader.begin_lookup(deadline)
        if not flows:
            return {}
        matches = {flow: NO_MATCH for flow in flows if flow.namespace is None}
        by_namespace: dict[int, list[FlowKey]] = {}
        for flow in flows:
            if flow.namespace is not None:
                by_namespace.setdefault(flow.namespace, []).append(flow)
        if any(self._processes.find_process(namespace) is None for namespace in by_namespace):
            self._processes.refresh(self._clock())
        self._evict_removed()
        self._batch += 1
        started = time.thread_time()
        for namespace in sorted(by_namespace, key=lambda one: self._read_in.get(one, 0)):
            asked = by_namespace.pop(namespace)
            matches.update(self._match_in(namespace, asked, endpoints.get(namespace, ())))
            self._read_in[namespace] = self._batch
            if time.thread_time() - started >= self._max_seconds:
                break
        self.deferred += sum(map(len, by_namespace.values()))
        return matches

    def rereads_cheaply(self, namespace: int, endpoints: Collection[Endpoint]) -> bool:
        """Return whether each `read_endpoint_sockets` returns fresh rows, at little cost."""
        return self._reader(namespace).rereads_cheaply(endpoints)

    def read_endpoint_sockets(
        self, namespace: int, endpoints: Collection[Endpoint]
    ) -> EndpointSockets | None:
        """Return the sockets to endpoints of one namespace, as `TableReader` does.

        None if they cannot be read: no process is known to be in the namespace.
        """
        pid = self._processes.find_process(namespace)
        if pid is None:
            return None
        reader = self._reader(namespace)
        self._sources[namespace].pid = pid
        found = reader.read_endpoint_sockets(endpoints)
        return found if self._processes.is_in(pid, namespace) else None

    def end_lookup(self) -> None:
        """Close the links of this lookup: an open link keeps its namespace alive."""
        for source in self._sources.values():
            source.close()

    def _evict_removed(self) -> None:
        present = self._processes.by_namespace().keys()
        self._read_in = {one: batch for one, batch in self._read_in.items() if one in present}
        for namespace in self._readers.keys() - present:
            self._sources.pop(namespace).close()
            del self._readers[namespace]

    def _reader(self, namespace: int) -> TableReader:
        reader = self._readers.get(namespace)
        if reader is None:
            source = ContainerSource(namespace, self._procfs, self._open_inside)
            reader = TableReader(source, self._fixed, counts=self.counts, warned=self._warned)
            reader.begin_lookup(self._deadline)
            self._sources[namespace], self._readers[namespace] = source, reader
        return reader

    def _match_in(
        self, namespace: int, flows: Collection[FlowKey], endpoints: Collection[Endpoint]
    ) -> dict[FlowKey, Match]:
        for _attempt in range(_MAX_ATTEMPTS):
            pid = self._processes.find_process(namespace)
            if pid is None:
                break
            reader = self._reader(namespace)
            self._sources[namespace].pid = pid
            reading = reader.read(flows, self._clock(), self._deadline, endpoints)
            if self._processes.is_in(pid, namespace):
                return self._match_rows(reading, flows)
        return dict.fromkeys(flows, NO_MATCH)

    def _match_rows(self, reading: Reading, flows: Collection[FlowKey]) -> dict[FlowKey, Match]:
        """Match flows; one without a socket is absent if that may be wrong."""
        index = TableIndex(reading.tables)
        matches: dict[FlowKey, Match] = {}
        for flow in flows:
            match = index.match(flow)
            if not is_conclusive(flow, match, reading.incomplete):
                self.deferred += 1
            elif match.rows or flow not in reading.inconclusive:
                matches[flow] = match
        return matches

"""Matches flows of other network namespaces (of containers) to the sockets there.

In: the flows of a batch. Out: a match for each flow, except for those that are deferred.

The sockets of a namespace are read over a sock_diag link inside it, which stays open
(`namespace_links`): by five-tuple, or by a dump where that costs less (`tcp_lookup`). Where the
namespace may not be entered, they are read from the /proc/PID/net of a process in it. For a batch,
each namespace is read once into one index: equal addresses and ports in two namespaces never mix.

Budgets
-------
For each table of /proc/PID/net, and for each dump, the kernel walks the sockets of all namespaces:
a millisecond on a small host, some ten on a large one, for each namespace. So that many containers
delay neither the host's own flows in their batch nor the next lookup, which waits for the CPU
budget of all lookups:

- What is spent on namespaces for which a table of /proc/PID/net was read, or a dump made for flows
  that were not found, has a budget of its own, a share of one core. Without credit the flows that
  need it are deferred.
- The CPU time of a batch is bounded. Flows of the namespaces beyond are deferred.

The namespaces that were read the longest time ago come first. Deferred, too, are flows without a
socket if one of their tables was not read to its end by the deadline of the lookup.

Known limits: no match for a flow that may be in several namespaces, nor for one in a namespace
without a process that may be read. Socket inodes are unique on the host, so `fd_cache` needs no
namespace.
"""

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from hogpipe.attribution.budget import CpuBudget
from hogpipe.attribution.procfs.endpoint_heuristic import Endpoint
from hogpipe.attribution.procfs.matching import NO_MATCH, Match, TableIndex, is_conclusive
from hogpipe.attribution.procfs.reader_choice import Reader
from hogpipe.attribution.procfs.table_reader import EndpointSockets, Reading, TableReader
from hogpipe.attribution.procfs.table_source import ContainerSource
from hogpipe.attribution.procfs.tcp_lookup import ReadCounts
from hogpipe.linux.netns.namespace_links import NamespaceLinks
from hogpipe.linux.netns.namespace_processes import NamespaceProcesses
from hogpipe.linux.procfs import Procfs
from hogpipe.model import FlowKey

NO_ENDPOINTS: Mapping[int, Collection[Endpoint]] = MappingProxyType({})

_MAX_SECONDS = 0.05  # of CPU, beyond those of the last namespace
_REFRESH_SECONDS = 1.0  # between two lists of the processes, while there are flows of containers
_WALK_BURST = 0.25  # seconds in which the credit of walks is earned


class ContainerTables:
    """Reads the socket tables of other namespaces than this one. For one thread at a time.

    `clock` returns seconds; `processes` uses them as the age of processes. `fixed` is as in
    `TableReader`, `walk_budget` the share of one core for walks. A lookup is one call of `match`,
    and then calls of `read_endpoint_sockets`.
    """

    def __init__(
        self,
        procfs: Procfs,
        processes: NamespaceProcesses,
        clock: Callable[[], float],
        links: NamespaceLinks,
        *,
        fixed: Reader,
        walk_budget: float,
        max_seconds: float = _MAX_SECONDS,
    ) -> None:
        self._procfs = procfs
        self._processes = processes
        self._clock = clock
        self._links = links
        self._fixed = fixed
        self._walks = CpuBudget(walk_budget, clock(), burst=_WALK_BURST)
        self._max_seconds = max_seconds
        self._sources: dict[int, ContainerSource] = {}
        """By namespace, like `_readers`."""
        self._readers: dict[int, TableReader] = {}
        self._warned: set[str] = set()
        self._deadline = math.inf
        self._refreshed = -math.inf
        """When the processes were listed last."""
        self._read_in: dict[int, int] = {}
        """By namespace: the number of the batch that read it last; not one without credit."""
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
        for namespace, reader in self._readers.items():
            self._sources[namespace].begin_lookup()
            reader.begin_lookup(deadline)
        if not flows:
            return {}
        matches = {flow: NO_MATCH for flow in flows if flow.namespace is None}
        by_namespace: dict[int, list[FlowKey]] = {}
        for flow in flows:
            if flow.namespace is not None:
                by_namespace.setdefault(flow.namespace, []).append(flow)
        now = self._clock()
        is_overdue = now - self._refreshed >= _REFRESH_SECONDS
        if by_namespace and (is_overdue or not all(map(self._links.is_present, by_namespace))):
            self._processes.refresh(now)
            self._refreshed = now
        self._evict_removed()
        self._batch += 1
        started = time.thread_time()
        for namespace in sorted(by_namespace, key=lambda one: self._read_in.get(one, 0)):
            asked = by_namespace.pop(namespace)
            matches.update(self._match_in(namespace, asked, endpoints.get(namespace, ())))
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
        if not self._links.is_present(namespace):
            return None
        reader = self._reader(namespace)
        with self._charge(self._sources[namespace]):
            return reader.read_endpoint_sockets(endpoints)

    def _evict_removed(self) -> None:
        present = self._processes.by_namespace().keys()
        self._read_in = {one: batch for one, batch in self._read_in.items() if one in present}
        for namespace in self._readers.keys() - present:
            del self._sources[namespace], self._readers[namespace]

    def _reader(self, namespace: int) -> TableReader:
        reader = self._readers.get(namespace)
        if reader is None:
            source = ContainerSource(
                namespace, self._procfs, self._processes, self._links, self._has_credit
            )
            reader = TableReader(source, self._fixed, counts=self.counts, warned=self._warned)
            reader.begin_lookup(self._deadline)
            self._sources[namespace], self._readers[namespace] = source, reader
        return reader

    def _match_in(
        self, namespace: int, flows: Collection[FlowKey], endpoints: Collection[Endpoint]
    ) -> dict[FlowKey, Match]:
        if not self._links.is_present(namespace):
            return dict.fromkeys(flows, NO_MATCH)
        reader, source = self._reader(namespace), self._sources[namespace]
        with self._charge(source):
            reading = reader.read(flows, self._clock(), self._deadline, endpoints)
            matches = self._match_rows(reading, flows)
        if not source.was_refused:
            self._read_in[namespace] = self._batch
        return matches

    def _has_credit(self) -> bool:
        return self._walks.ready_at() <= self._clock()

    @contextmanager
    def _charge(self, source: ContainerSource) -> Iterator[None]:
        """Charge the CPU time of the block to the budget of walks, if it walked."""
        before = time.thread_time()
        yield
        if source.has_walked:
            self._walks.spend(time.thread_time() - before, self._clock())

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

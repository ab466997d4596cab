"""Matches flows of other network namespaces (of containers) to the sockets there.

In: the flows of a batch. Out: a match for each flow, except for those that are deferred.

The kernel shows the sockets of a namespace in /proc/PID/net of any process in it. For a batch, each
namespace is read once, through one process, into one index: equal addresses and ports in two
namespaces never mix. After reading, the process is checked to be in the namespace still; if not,
another process is tried.

For each table of each namespace the kernel walks the sockets of all namespaces, which takes some
milliseconds on a large host. So that many containers do not delay the whole batch, the CPU time of
a batch is bounded: namespaces whose last read is the oldest come first, and the flows of the others
are deferred to the next batch. So are flows without a socket if one of their tables was not read to
its end by the deadline of the lookup.

Known limits: no match for a flow that may be in several namespaces, nor for one in a namespace
without a process that may be read. Socket inodes are unique on the host, so `fd_cache` needs no
namespace.
"""

import time
from collections.abc import Callable, Collection, Iterator

from hogpipe.attribution.procfs.matching import (
    NO_MATCH,
    Match,
    TableIndex,
    has_ports,
    is_conclusive,
    port_pairs_for,
    tables_for,
)
from hogpipe.linux.netns.namespace_processes import NamespaceProcesses
from hogpipe.linux.procfs import Procfs
from hogpipe.linux.socket_table import SocketRow, parse_table
from hogpipe.model import FlowKey, Quality

_MAX_ATTEMPTS = 4  # processes of a namespace that are tried in a batch
_MAX_SECONDS = 0.05  # of CPU, beyond those of the last namespace


class ContainerTables:
    """Reads the socket tables of other namespaces than this one. For one thread at a time.

    `clock` returns seconds; `processes` uses them as the age of processes.
    """

    def __init__(
        self,
        procfs: Procfs,
        processes: NamespaceProcesses,
        clock: Callable[[], float],
        *,
        max_seconds: float = _MAX_SECONDS,
    ) -> None:
        self._procfs = procfs
        self._processes = processes
        self._clock = clock
        self._max_seconds = max_seconds
        self._read_in: dict[int, int] = {}
        """By namespace: the number of the batch that read it last."""
        self._batch = 0
        self.reads = 0
        """Tables read."""
        self.rows_skipped = 0
        """Malformed rows."""
        self.deferred = 0
        """Flows left to the next batch, once for each batch."""

    def match(self, flows: Collection[FlowKey], deadline: float) -> dict[FlowKey, Match]:
        """Return the match of each flow; a deferred flow is absent.

        No table is read beyond `deadline`, in seconds of the clock of the Procfs.
        Raises OSError if processes cannot be listed.
        """
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
            matches.update(self._match_in(namespace, by_namespace[namespace], deadline))
            self._read_in[namespace] = self._batch
            if time.thread_time() - started >= self._max_seconds:
                break
        self.deferred += len(flows) - len(matches)
        return matches

    def _evict_removed(self) -> None:
        present = self._processes.by_namespace().keys()
        self._read_in = {one: batch for one, batch in self._read_in.items() if one in present}

    def _match_in(
        self, namespace: int, flows: Collection[FlowKey], deadline: float
    ) -> dict[FlowKey, Match]:
        for _attempt in range(_MAX_ATTEMPTS):
            pid = self._processes.find_process(namespace)
            if pid is None:
                break
            matches = self._match_through(pid, flows, deadline)
            if self._processes.is_in(pid, namespace):
                return matches
        return dict.fromkeys(flows, NO_MATCH)

    def _match_through(
        self, pid: int, flows: Collection[FlowKey], deadline: float
    ) -> dict[FlowKey, Match]:
        """Match flows by the tables of a process, the less likely tables only if needed.

        A flow without a socket is absent if one of its tables is incomplete.
        """
        tables: dict[str, list[SocketRow]] = {}
        incomplete: set[str] = set()
        matches: dict[FlowKey, Match] = {}
        for needed in _tables_by_need(flows, matches):
            for name, pairs in needed.items():
                text = self._procfs.read_table_of(pid, name, deadline)
                if text is not None:
                    self.reads += 1
                    if not text.is_complete:
                        incomplete.add(name)
                    rows, skipped = parse_table(text.data, pairs if has_ports(name) else None)
                    self.rows_skipped += skipped
                    tables.setdefault(name, []).extend(rows)
            index = TableIndex(tables)
            matches.update((flow, index.match(flow)) for flow in flows)
        return {
            flow: match for flow, match in matches.items() if is_conclusive(flow, match, incomplete)
        }


def _tables_by_need(
    flows: Collection[FlowKey], matches: dict[FlowKey, Match]
) -> Iterator[dict[str, set[tuple[int, int]]]]:
    """Yield the likeliest table of each flow, then the other tables of flows without exact match.

    Each table comes with the pairs of ports to read.
    """
    for part in (slice(0, 1), slice(1, None)):
        needed: dict[str, set[tuple[int, int]]] = {}
        for flow in flows:
            if matches.get(flow, NO_MATCH).quality is not Quality.EXACT:
                for name in tables_for(flow)[part]:
                    needed.setdefault(name, set()).update(port_pairs_for(flow))
        if needed:
            yield needed

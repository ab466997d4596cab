"""Flows of other network namespaces, matched to sockets there.

The kernel shows a namespace's sockets in /proc/PID/net of any process that is in it. Each namespace
that flows of a batch are in is read once for the batch, through one process, and one index is made
of what it shows: equal addresses and ports in two namespaces never meet. That the process was in
its namespace is made sure of after reading; where it was not, another one is read through.

The kernel walks the sockets of all namespaces for each table of each of them, some milliseconds on
a large host. So that a host of many containers does not hold up all else, a batch reads no more
namespaces than fit in a bound, those read longest ago first; flows of the others stay unanswered.

A flow that may be in several namespaces has no socket here, nor has one in a namespace without a
process that may be looked at. The inodes of sockets are those of the whole host, so that finding
who holds one is the same for all namespaces.
"""

import time
from collections.abc import Callable, Collection, Iterator

from hogpipe.attribution.procfs.matching import (
    NO_MATCH,
    Match,
    TableIndex,
    has_ports,
    port_pairs_for,
    tables_for,
)
from hogpipe.linux.netns.namespace_processes import NamespaceProcesses
from hogpipe.linux.procfs import Procfs
from hogpipe.linux.socket_table import SocketRow, parse_table
from hogpipe.model import FlowKey, Quality

_ATTEMPTS = 4  # processes of a namespace that are tried in a batch
_MOST_SECONDS = 0.05  # of CPU, beyond those of the last namespace


class ContainerTables:
    """Reads the socket tables of namespaces other than our own. For one thread at a time.

    `clock` gives seconds by which processes are new to `processes`.
    """

    def __init__(
        self,
        procfs: Procfs,
        processes: NamespaceProcesses,
        clock: Callable[[], float],
        *,
        most_seconds: float = _MOST_SECONDS,
    ) -> None:
        self._procfs = procfs
        self._processes = processes
        self._clock = clock
        self._most_seconds = most_seconds
        self._read_in: dict[int, int] = {}
        """By namespace: the batch in which it was read last."""
        self._batch = 0
        self.reads = 0
        """Tables read so far."""
        self.rows_skipped = 0
        """Rows that could not be read so far."""
        self.deferred = 0
        """Flows that were left to the next batch so far, once for each batch."""

    def match(self, flows: Collection[FlowKey]) -> dict[FlowKey, Match]:
        """Return what fits each flow; one that was put off is absent.

        Raises OSError where processes cannot be listed.
        """
        matches = {flow: NO_MATCH for flow in flows if flow.namespace is None}
        by_namespace: dict[int, list[FlowKey]] = {}
        for flow in flows:
            if flow.namespace is not None:
                by_namespace.setdefault(flow.namespace, []).append(flow)
        if any(self._processes.find_process(namespace) is None for namespace in by_namespace):
            self._processes.refresh(self._clock())
        self._forget_gone()
        self._batch += 1
        started = time.thread_time()
        for namespace in sorted(by_namespace, key=lambda one: self._read_in.get(one, 0)):
            matches.update(self._match_in(namespace, by_namespace[namespace]))
            self._read_in[namespace] = self._batch
            if time.thread_time() - started >= self._most_seconds:
                break
        self.deferred += len(flows) - len(matches)
        return matches

    def _forget_gone(self) -> None:
        there = self._processes.by_namespace().keys()
        self._read_in = {one: batch for one, batch in self._read_in.items() if one in there}

    def _match_in(self, namespace: int, flows: Collection[FlowKey]) -> dict[FlowKey, Match]:
        for _attempt in range(_ATTEMPTS):
            pid = self._processes.find_process(namespace)
            if pid is None:
                break
            matches = self._match_through(pid, flows)
            if self._processes.is_in(pid, namespace):
                return matches
        return dict.fromkeys(flows, NO_MATCH)

    def _match_through(self, pid: int, flows: Collection[FlowKey]) -> dict[FlowKey, Match]:
        """Match flows by the tables that a process shows, the second ones only where needed."""
        tables: dict[str, list[SocketRow]] = {}
        matches: dict[FlowKey, Match] = {}
        for needed in _tables_by_need(flows, matches):
            for name, pairs in needed.items():
                data = self._procfs.read_table_of(pid, name)
                if data is not None:
                    self.reads += 1
                    rows, skipped = parse_table(data, pairs if has_ports(name) else None)
                    self.rows_skipped += skipped
                    tables.setdefault(name, []).extend(rows)
            index = TableIndex(tables)
            matches.update((flow, index.match(flow)) for flow in flows)
        return matches


def _tables_by_need(
    flows: Collection[FlowKey], matches: dict[FlowKey, Match]
) -> Iterator[dict[str, set[tuple[int, int]]]]:
    """Give the likeliest table of each flow, then the others of those that did not match exactly.

    With each table go the pairs of ports that matter there.
    """
    for part in (slice(0, 1), slice(1, None)):
        needed: dict[str, set[tuple[int, int]]] = {}
        for flow in flows:
            if matches.get(flow, NO_MATCH).quality is not Quality.EXACT:
                for name in tables_for(flow)[part]:
                    needed.setdefault(name, set()).update(port_pairs_for(flow))
        if needed:
            yield needed

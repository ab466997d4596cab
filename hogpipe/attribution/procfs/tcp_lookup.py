"""The TCP sockets of a batch of flows over sock_diag, at a cost that follows the batch.

In: flows. Out: rows that may be their sockets, and the flows for which the result is inconclusive.
Raises OSError if the kernel refuses.

The kernel looks up each five-tuple with one step into its hash table. A flow that is not found
there may belong to a listening socket; the kernel keeps those in a small table of their own. A flow
without either is closed in most cases. But its socket may be bound to a device other than the
flow's interface, and then only a dump of the whole table shows it. (A connection that a listening
socket accepted is matched to that one.)

A dump walks the whole table. It is made instead of lookups if it costs less than one lookup for
each flow, and at intervals for the flows that were not found. Between two dumps these flows are
inconclusive.

Costs are seconds of CPU; times are seconds of the caller's clock. For one thread at a time.
"""

import math
import time
from collections.abc import Callable, Collection

import msgspec

from hogpipe.attribution.procfs.matching import port_pairs_for
from hogpipe.linux.sock_diag import (
    Dump,
    OpenLink,
    find_device,
    open_link,
    read_dump,
    read_flow_sockets,
    read_listeners,
)
from hogpipe.linux.socket_table import SocketRow
from hogpipe.model import FlowKey

_INITIAL_LOOKUP_COST = 10e-6  # of one five-tuple, until one is measured
_DUMP_PAUSE = 0.05  # between two dumps for flows that were not found, at least
_DUMP_SHARE = 0.02  # of the time may go into such dumps


class TcpReading(msgspec.Struct):
    """The TCP rows of a batch."""

    rows: list[SocketRow]
    inconclusive: set[FlowKey] = msgspec.field(default_factory=set)
    """Flows that no lookup found and no dump was made for."""


class ReadCounts(msgspec.Struct):
    """Counters of reads; they only grow."""

    procfs: int = 0
    """Tables of /proc/net read."""
    sock_diag: int = 0
    """Tables dumped over sock_diag."""
    lookups: int = 0
    """Five-tuples looked up over sock_diag."""
    interrupted: int = 0
    """Dumps that may miss sockets because the table changed during the dump."""
    refused: int = 0
    """How often sock_diag failed and /proc/net was read instead."""
    rows_skipped: int = 0
    """Malformed rows."""

    @property
    def tables(self) -> int:
        """Tables read by either reader."""
        return self.procfs + self.sock_diag

    def add_dump(self, dump: Dump) -> list[SocketRow]:
        """Count a dump; return its rows."""
        self.sock_diag += 1
        self.interrupted += dump.interrupted
        self.rows_skipped += dump.skipped
        return dump.rows


class TcpLookup:
    """Finds TCP sockets by lookups or by a dump, whichever costs less.

    `open_link` and `find_device` are those of the network namespace of the sockets
    (`read_flow_sockets`); `may_walk` returns whether a dump for flows that were not found may be
    made now. `dump_cost` is that of a dump until one is measured; with zero, a dump comes first.
    """

    def __init__(
        self,
        counts: ReadCounts,
        open_link: OpenLink = open_link,
        find_device: Callable[[str], int] = find_device,
        *,
        may_walk: Callable[[], bool] = lambda: True,
        dump_cost: float = 0.0,
    ) -> None:
        self._counts = counts
        self._open_link = open_link
        self._find_device = find_device
        self._lookup_cost = _INITIAL_LOOKUP_COST
        self._may_walk = may_walk
        self._dump_cost = dump_cost
        self._next_dump = -math.inf

    def read(self, flows: Collection[FlowKey], now: float) -> TcpReading:
        """Return the rows that may be the sockets of `flows`. Raises OSError."""
        if len(flows) * self._lookup_cost > self._dump_cost:
            return TcpReading(self._dump(flows, now))
        before = time.thread_time()
        lookup = read_flow_sockets(flows, self._open_link, self._find_device)
        self._lookup_cost = (self._lookup_cost + _cpu_since(before) / len(flows)) / 2
        self._counts.lookups += len(flows)
        reading = TcpReading([*lookup.found.values(), *lookup.unaccepted.values()])
        missing = [flow for flow in flows if flow not in lookup.found]
        if missing:
            listeners = self._read_listeners(missing)
            reading.rows += listeners
            listening_ports = {row.local_port for row in listeners}
            closed = lookup.closed
            reading.inconclusive.update(
                flow
                for flow in missing
                if flow.local_port not in listening_ports and flow not in closed
            )
        if reading.inconclusive and now >= self._next_dump and self._may_walk():
            reading.rows += self._dump(reading.inconclusive, now)
            reading.inconclusive.clear()
        return reading

    def _read_listeners(self, flows: Collection[FlowKey]) -> list[SocketRow]:
        ports = {flow.local_port for flow in flows}
        return self._counts.add_dump(read_listeners(ports, self._open_link))

    def _dump(self, flows: Collection[FlowKey], now: float) -> list[SocketRow]:
        before = time.thread_time()
        ports = {pair for flow in flows for pair in port_pairs_for(flow)}
        rows = self._counts.add_dump(read_dump("tcp", ports, self._open_link))
        self._dump_cost = _cpu_since(before)
        self._next_dump = now + max(_DUMP_PAUSE, self._dump_cost / _DUMP_SHARE)
        return rows


def _cpu_since(before: float) -> float:
    return time.thread_time() - before

"""The TCP sockets of a batch of flows over sock_diag, at a cost that follows the batch.

The kernel is asked for each flow by its tuple, which is one step into its hash table, and for the
sockets that listen, which it keeps apart. What has neither is closed, mostly; but it may be bound
to another device than it was seen on, and then only a dump of the whole table shows it. (One that
is accepted by a listening socket there is told by that one.) A dump is a walk of the table, so it
is made where the flows are so many that it costs less than asking for each, and now and then for
those that were not found. Between two dumps these are left `unsure`.

Costs are seconds of CPU; times are the caller's clock. Not for threads in parallel.
"""

import math
import time
from collections.abc import Collection

import msgspec

from hogpipe.attribution.procfs.matching import port_pairs_for
from hogpipe.linux.sock_diag import Dump, read_dump, read_flow_sockets, read_listeners
from hogpipe.linux.socket_table import SocketRow
from hogpipe.model import FlowKey

_FIRST_LOOK_UP_COST = 10e-6  # of one tuple, before any was measured
_DUMP_PAUSE = 0.05  # at the least between two dumps for what was not found
_DUMP_SHARE = 0.02  # of the time may go into them


class TcpReading(msgspec.Struct):
    """The rows of TCP that a batch needs."""

    rows: list[SocketRow]
    inconclusive: set[FlowKey] = msgspec.field(default_factory=set)
    """Flows that were not found, but not by a dump either."""


class ReadCounts(msgspec.Struct):
    """What was read so far."""

    procfs: int = 0
    """Tables of /proc/net."""
    sock_diag: int = 0
    """Tables dumped over sock_diag."""
    lookups: int = 0
    """Single tuples asked for over sock_diag."""
    interrupted: int = 0
    """Dumps that may miss sockets because the table changed meanwhile."""
    refused: int = 0
    """Times that sock_diag failed and /proc/net was read in its place."""
    rows_skipped: int = 0
    """Rows that could not be read."""

    def add_dump(self, dump: Dump) -> list[SocketRow]:
        """Count a dump; return its rows."""
        self.sock_diag += 1
        self.interrupted += dump.interrupted
        self.rows_skipped += dump.skipped
        return dump.rows


class TcpLookup:
    """Finds TCP sockets by whichever way costs less."""

    def __init__(self, counts: ReadCounts) -> None:
        self._counts = counts
        self._lookup_cost = _FIRST_LOOK_UP_COST
        self._dump_cost = 0.0
        self._next_dump = -math.inf

    def read(self, flows: Collection[FlowKey], now: float) -> TcpReading:
        """Return the rows that may be those of `flows`. Raises OSError."""
        if len(flows) * self._lookup_cost > self._dump_cost:
            return TcpReading(self._dump(flows, now))
        before = time.thread_time()
        looked_up = read_flow_sockets(flows)
        self._lookup_cost = (self._lookup_cost + _cpu_since(before) / len(flows)) / 2
        self._counts.lookups += len(flows)
        reading = TcpReading(list(looked_up.found.values()))
        left = [flow for flow in flows if flow not in looked_up.found]
        if left:
            listening = self._counts.add_dump(read_listeners({flow.local_port for flow in left}))
            reading.rows += listening
            served = {row.local_port for row in listening}
            closed = looked_up.closed
            reading.inconclusive.update(
                flow for flow in left if flow.local_port not in served and flow not in closed
            )
        if reading.inconclusive and now >= self._next_dump:
            reading.rows += self._dump(reading.inconclusive, now)
            reading.inconclusive.clear()
        return reading

    def _dump(self, flows: Collection[FlowKey], now: float) -> list[SocketRow]:
        before = time.thread_time()
        ports = {pair for flow in flows for pair in port_pairs_for(flow)}
        rows = self._counts.add_dump(read_dump("tcp", ports))
        self._dump_cost = _cpu_since(before)
        self._next_dump = now + max(_DUMP_PAUSE, self._dump_cost / _DUMP_SHARE)
        return rows


def _cpu_since(before: float) -> float:
    return time.thread_time() - before

"""Counts the packets of batches in the flow table, and adds up what was captured.

In: batches with `rows`. Out: the same batches with `flows`: what the table does not count, for the
attribution stage. Counts and packets are taken over under the lock of the table, at one moment, so
that a window that ends then has both or neither.
"""

from collections.abc import Callable, Sequence

from hogpipe.flows.flow_batch import FlowBatch
from hogpipe.flows.flow_table import FlowTable
from hogpipe.model import CaptureCounts, FlowKey, Tally


class BatchCounter:
    """For any thread, one batch at a time.

    `start_batch` is called before packets of known flows are counted: it takes in what has changed
    on the host until then. `clock` returns the seconds of the table's clock. `end_connections` is
    called with known flows whose SYNs the attribution stage will not receive, as they were folded.
    """

    def __init__(
        self,
        table: FlowTable,
        start_batch: Callable[[], None],
        clock: Callable[[], float],
        *,
        end_connections: Callable[[Sequence[FlowKey]], None] = lambda _flows: None,
    ) -> None:
        self.lock = table.lock
        self._table = table
        self._start_batch = start_batch
        self._clock = clock
        self._end_connections = end_connections
        self._counts = CaptureCounts()

    def count(self, batch: FlowBatch) -> None:
        """Count the packets of `batch`; it has no rows and no counts afterwards."""
        with self.lock:
            self._counts.add(batch.counts)
            batch.counts = CaptureCounts()
            if batch.rows is not None:
                assert not batch.flows
                batch.is_started = self._table.may_be_known(batch.rows)
                if batch.is_started:
                    self._start_batch()
                batch.flows = self._table.count(batch.rows, self._clock())
                batch.calls = self._table.calls
                batch.rows = None
            elif batch.flows:
                self._start_batch()
            if batch.health is not None:
                self._table.add_health(batch.health)
                batch.health = None

    def count_merged(self, overflowed: Tally, opened: Sequence[FlowKey]) -> None:
        """Count a batch that was merged into another one, and what was folded meanwhile.

        SYNs of the flows in `opened` were folded.
        """
        with self.lock:
            if known := self._table.list_known(opened):
                self._end_connections(known)
            self._counts.merged_batches += 1
            self._counts.overflowed.add(overflowed)

    def drain_counts(self) -> CaptureCounts:
        """Return the counts of all batches since the last call."""
        with self.lock:
            counts, self._counts = self._counts, CaptureCounts()
            return counts

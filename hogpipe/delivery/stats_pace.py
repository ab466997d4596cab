"""PURE: how often a sink gets a stats record: the setting `stats` of each sink.

In: the windows of a run. Out: the same windows for one sink, with all of their traffic records.

    true       each window keeps its stats record
    false      no window has one
    seconds    the stats are merged (merged_stats.py), and are in the window that reaches or passes
               a multiple of so many seconds; `flush` returns the rest at the end of a run

So at each stats record that a sink gets, the sums of all so far are those of the run: the counters
of a merged one cover all windows since the one before.

Known limit: the stats since the last multiple are lost with a run that is killed.
"""

from collections.abc import Sequence

from hogpipe.delivery.coalescing import QueuedWindow
from hogpipe.records.merged_stats import merge_stats
from hogpipe.records.schema import Record, StatsRecord


class StatsPace:
    """Passes the windows of a run on to one sink."""

    def __init__(self, pace: bool | float) -> None:
        self._pace = pace
        self._merged: StatsRecord | None = None
        """The stats that were left out so far."""

    def apply(self, window: QueuedWindow) -> QueuedWindow:
        """Return a window of the run as the sink gets it; it may have no records."""
        if self._pace is True:
            return window
        records: list[Record] = []
        for record in window.records():
            if record["type"] != "stats":
                records.append(record)
            elif self._pace:
                merged = record if self._merged is None else merge_stats(self._merged, record)
                self._merged = merged
                if _passes(merged, self._pace):
                    records += self.flush()
        return QueuedWindow(records)

    def flush(self) -> Sequence[Record]:
        """Return the stats that were left out so far, if there are any."""
        merged, self._merged = self._merged, None
        return [] if merged is None else [merged]


def _passes(stats: StatsRecord, seconds: float) -> bool:
    """Return whether a multiple of `seconds` is in the window, or is its end."""
    window = stats["window"]
    return window["end_unix"] // seconds > window["start_unix"] // seconds

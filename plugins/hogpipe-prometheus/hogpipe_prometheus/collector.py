"""The metric families of a scrape, for prometheus-client.

The event loop adds windows while the thread of a scrape reads them: a lock, held while numbers are
copied, makes a scrape contain whole windows.
"""

import threading
from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hogpipe import StatsRecord, __version__
from hogpipe_prometheus.health import health_families
from hogpipe_prometheus.labels import Labels
from hogpipe_prometheus.pipeline import PipelineCounters
from hogpipe_prometheus.series import SeriesTable, Traffic


class WindowCollector(Collector):
    """The totals of all windows so far. `names` are those of the labels."""

    def __init__(self, names: tuple[str, ...], series: SeriesTable) -> None:
        self._names = names
        self._series = series
        self._pipeline = PipelineCounters()
        self._window_end: float | None = None
        self._lock = threading.Lock()

    def add(self, traffic: Mapping[Labels, Traffic], stats: list[StatsRecord], end: float) -> None:
        """Add a whole window that ended at `end`, in seconds since the epoch."""
        with self._lock:
            self._series.add(traffic, end)
            for record in stats:
                self._pipeline.add(record)
            self._window_end = end

    def collect(self) -> Iterator[Metric]:
        """Make the families that a scrape shows."""
        with self._lock:
            rows = self._series.rows()
            own = [*self._own_families(), *self._pipeline.families()]
        names = [*self._names, "direction"]
        volume = CounterMetricFamily(
            "hogpipe_network_io_bytes", "IP bytes that processes moved.", labels=names, unit="bytes"
        )
        packets = CounterMetricFamily(
            "hogpipe_network_io_packets", "Packets that processes moved.", labels=names
        )
        for labels, totals in rows:
            transmit, receive = [*labels, "transmit"], [*labels, "receive"]
            volume.add_metric(transmit, totals.transmit_bytes)
            volume.add_metric(receive, totals.receive_bytes)
            packets.add_metric(transmit, totals.transmit_packets)
            packets.add_metric(receive, totals.receive_packets)
        known = [(labels, totals.health) for labels, totals in rows if totals.health is not None]
        yield from (volume, packets, *health_families(self._names, known), *own)

    def _own_families(self) -> Iterator[Metric]:
        build = GaugeMetricFamily(
            "hogpipe_build_info", "The version of hogpipe that runs.", labels=["version"]
        )
        build.add_metric([__version__], 1)
        yield build
        if self._window_end is not None:
            yield GaugeMetricFamily(
                "hogpipe_window_end_timestamp_seconds",
                "When the last window ended that is in these numbers.",
                value=self._window_end,
                unit="seconds",
            )
        yield GaugeMetricFamily(
            "hogpipe_prometheus_label_sets",
            "Sets of labels that have series of their own.",
            value=len(self._series),
        )
        yield CounterMetricFamily(
            "hogpipe_prometheus_removed_label_sets",
            "Sets of labels whose series were removed because nothing moved for long.",
            value=self._series.removed,
        )
        yield CounterMetricFamily(
            "hogpipe_prometheus_folded_records",
            "Records counted as other: without room for series of their own, or remainders.",
            value=self._series.folded_records,
        )

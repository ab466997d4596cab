"""PURE: counters and gauges of hogpipe itself, from the stats records.

Numbers of a window are summed; those of sinks are totals of the run already.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from hogpipe import StatsRecord

Path = tuple[str, ...]


class Item(NamedTuple):
    """A metric of the pipeline: its key paths in a stats record, by the value of its label."""

    name: str
    help: str
    paths: Mapping[str, Path]
    label: str = ""


def _one(name: str, text: str, *path: str) -> Item:
    return Item(name, text, {"": path})


def _by(label: str, name: str, text: str, paths: Mapping[str, Path]) -> Item:
    return Item(name, text, paths, label)


_UNCOUNTED = ("not_local", "not_ip", "undecoded")
_QUALITIES = ("exact", "listener", "inferred", "none")

COUNTERS = (
    _one("hogpipe_capture_packets", "Packets captured.", "capture", "packets"),
    _one("hogpipe_capture_bytes", "IP bytes of the packets captured.", "capture", "bytes"),
    _by(
        "by",
        "hogpipe_capture_dropped_packets",
        "Packets dropped before they reached hogpipe, by where.",
        {by: ("capture", "dropped", by) for by in ("kernel", "interface")},
    ),
    _by(
        "reason",
        "hogpipe_capture_uncounted_bytes",
        "Captured bytes that are in no series, by reason.",
        {reason: ("capture", reason, "bytes") for reason in _UNCOUNTED},
    ),
    _one(
        "hogpipe_capture_both_sides_bytes",
        "Bytes of packets between two addresses of this host, which count at both ends.",
        *("capture", "both_sides", "bytes"),
    ),
    _one(
        "hogpipe_capture_length_floored_bytes",
        "Bytes of packets without a length from the kernel, counted as their minimum.",
        *("capture", "length_floored", "bytes"),
    ),
    _one(
        "hogpipe_capture_overflowed_bytes",
        "Bytes recorded without their flow because too many flows were queued.",
        *("capture", "overflowed", "bytes"),
    ),
    _by(
        "quality",
        "hogpipe_attribution_bytes",
        "Bytes of all recorded traffic, by attribution quality.",
        {quality: ("attribution", "bytes", quality) for quality in _QUALITIES},
    ),
    _one("hogpipe_attribution_new_flows", "New flows.", "attribution", "new_flows"),
    _one("hogpipe_attribution_lookups", "Lookups.", "attribution", "batches"),
    _one(
        "hogpipe_attribution_failed_lookups",
        "Lookups that failed.",
        *("attribution", "failed_batches"),
    ),
    _one(
        "hogpipe_attribution_lookup_seconds",
        "CPU time of lookups.",
        *("attribution", "lookup_seconds"),
    ),
    _one("hogpipe_attribution_fds_read", "File descriptors read.", "attribution", "fds_read"),
    _one(
        "hogpipe_attribution_deferred",
        "Lookups deferred to a later batch to keep within cpu_budget.",
        *("attribution", "deferred"),
    ),
    _one(
        "hogpipe_attribution_not_permitted",
        "Processes that hogpipe had no permission to read.",
        *("attribution", "not_permitted"),
    ),
    _one(
        "hogpipe_attribution_overflowed_bytes",
        "Bytes recorded without an owner because too many flows were pending.",
        *("attribution", "overflowed", "bytes"),
    ),
    _one(
        "hogpipe_attribution_translated_bytes",
        "Second copies of containers' packets, translated by NAT, which are in no record.",
        *("attribution", "translated", "bytes"),
    ),
    _one(
        "hogpipe_ledger_events_lost",
        "Events lost because the kernel's buffer was full.",
        *("attribution", "ledger", "events_lost"),
    ),
    _one(
        "hogpipe_ledger_sockets_lost",
        "Sockets lost because the kernel's map was full.",
        *("attribution", "ledger", "sockets_lost"),
    ),
    _one("hogpipe_records", "Traffic records.", "aggregation", "records"),
    _one(
        "hogpipe_folded_groups",
        "Groups in the remainder because there were too many.",
        *("aggregation", "folded_groups"),
    ),
    _one("hogpipe_cpu_seconds", "CPU time of hogpipe.", "self", "cpu", "seconds"),
)

GAUGES = (
    _one(
        "hogpipe_attribution_pending_flows",
        "Pending flows.",
        *("attribution", "pending", "flows"),
    ),
    _one(
        "hogpipe_attribution_pending_bytes",
        "Bytes of pending flows.",
        *("attribution", "pending", "bytes"),
    ),
    _one(
        "hogpipe_attribution_latency_max_seconds",
        "The longest time until the first lookup of a new flow, in the last window with one.",
        *("attribution", "latency", "max_seconds"),
    ),
    _one(
        "hogpipe_ledger_sockets",
        "Sockets in the ledger.",
        *("attribution", "ledger", "sockets"),
    ),
    _one("hogpipe_resident_memory_bytes", "Resident memory.", "self", "memory", "bytes"),
    _one(
        "hogpipe_loop_delay_max_seconds",
        "The longest delay of a batch of packets by the event loop, in the last window.",
        *("self", "loop", "longest_delay_seconds"),
    ),
)

_SINK_COUNTERS = (
    _one("hogpipe_sink_delivered_records", "Delivered records.", "delivered"),
    _one("hogpipe_sink_dropped_records", "Dropped records.", "dropped"),
    _one("hogpipe_sink_coalesced_records", "Records merged into others.", "coalesced"),
    _one("hogpipe_sink_retries", "Retries.", "retries"),
    _one(
        "hogpipe_sink_spool_damaged_files", "Damaged files of the spool.", "spool", "damaged_files"
    ),
    _one(
        "hogpipe_sink_spool_disk_failures",
        "Errors of the spool's disk.",
        *("spool", "disk_failures"),
    ),
)
_SINK_GAUGES = (
    _one("hogpipe_sink_queued_records", "Queued records.", "queued"),
    _one("hogpipe_sink_spool_records", "Records in the spool.", "spool", "records"),
    _one("hogpipe_sink_spool_bytes", "Bytes of the spool on disk.", "spool", "bytes"),
)


class PipelineCounters:
    """The sums of the stats records of a run."""

    def __init__(self) -> None:
        self._counters: dict[tuple[str, str], float] = {
            (item.name, value): 0 for item in COUNTERS for value in item.paths
        }
        self._gauges: dict[str, float] = {}
        self._last: StatsRecord | None = None

    def add(self, record: StatsRecord) -> None:
        """Add the stats of a window."""
        self._last = record
        for item in COUNTERS:
            for value, path in item.paths.items():
                self._counters[item.name, value] += _number(record, path) or 0
        for item in GAUGES:
            if (number := _number(record, item.paths[""])) is not None:
                self._gauges[item.name] = number

    def families(self) -> Iterator[Metric]:
        """Return the metric families of all windows so far."""
        for item in COUNTERS:
            family = CounterMetricFamily(
                item.name, item.help, labels=[item.label] if item.label else [], unit=_unit(item)
            )
            for value in item.paths:
                labels = [value] if item.label else []
                family.add_metric(labels, self._counters[item.name, value])
            yield family
        for item in GAUGES:
            if item.name in self._gauges:
                yield GaugeMetricFamily(
                    item.name, item.help, value=self._gauges[item.name], unit=_unit(item)
                )
        yield from self._sink_families()

    def _sink_families(self) -> Iterator[Metric]:
        sinks = self._last.get("sinks", []) if self._last else []
        for item in (*_SINK_COUNTERS, *_SINK_GAUGES):
            kind = CounterMetricFamily if item in _SINK_COUNTERS else GaugeMetricFamily
            family = kind(item.name, item.help, labels=["sink", "type"], unit=_unit(item))
            for sink in sinks:
                if (number := _number(sink, item.paths[""])) is not None:
                    family.add_metric([sink["name"], sink["type"]], number)
            yield family


def _number(record: object, path: Path) -> float | None:
    """Return the number at `path`; None if it is absent."""
    for key in path:
        if not isinstance(record, dict) or key not in record:
            return None
        record = record[key]
    return record if isinstance(record, (int, float)) else None


def _unit(item: Item) -> str:
    """Return the base unit at the end of the metric's name, empty if there is none."""
    ending = item.name.rpartition("_")[2]
    return ending if ending in {"bytes", "seconds"} else ""

"""PURE: how hogpipe itself fares, as counters and gauges, from the stats records.

Numbers of a window are added up; those of sinks are totals of the run already.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from hogpipe import StatsRecord

Path = tuple[str, ...]


class Item(NamedTuple):
    """A metric of the pipeline: where a stats record has it, by the value of its one label."""

    name: str
    help: str
    paths: Mapping[str, Path]
    label: str = ""


def _one(name: str, text: str, *path: str) -> Item:
    return Item(name, text, {"": path})


def _by(label: str, name: str, text: str, paths: Mapping[str, Path]) -> Item:
    return Item(name, text, paths, label)


_NOT_TOLD = ("not_local", "not_ip", "undecoded")
_QUALITIES = ("exact", "listener", "inferred", "none")

COUNTERS = (
    _one("hogpipe_capture_packets", "Packets captured.", "capture", "packets"),
    _one("hogpipe_capture_bytes", "IP bytes of the packets captured.", "capture", "bytes"),
    _by(
        "by",
        "hogpipe_capture_dropped_packets",
        "Packets that never reached hogpipe, by who dropped them.",
        {by: ("capture", "dropped", by) for by in ("kernel", "interface")},
    ),
    _by(
        "reason",
        "hogpipe_capture_uncounted_bytes",
        "Bytes captured that are in no series, by the reason.",
        {reason: ("capture", reason, "bytes") for reason in _NOT_TOLD},
    ),
    _one(
        "hogpipe_capture_both_sides_bytes",
        "Bytes of packets between two addresses of this host, which count at both ends.",
        *("capture", "both_sides", "bytes"),
    ),
    _one(
        "hogpipe_capture_length_floored_bytes",
        "Bytes of packets whose length the kernel did not tell, counted as the least they can be.",
        *("capture", "length_floored", "bytes"),
    ),
    _one(
        "hogpipe_capture_overflowed_bytes",
        "Bytes told without their flow because too many flows waited.",
        *("capture", "overflowed", "bytes"),
    ),
    _by(
        "quality",
        "hogpipe_attribution_bytes",
        "Bytes of all traffic told, by how sure their owner is.",
        {quality: ("attribution", "bytes", quality) for quality in _QUALITIES},
    ),
    _one("hogpipe_attribution_new_flows", "Flows seen first.", "attribution", "new_flows"),
    _one("hogpipe_attribution_lookups", "Look-ups made.", "attribution", "batches"),
    _one(
        "hogpipe_attribution_failed_lookups",
        "Look-ups that failed as a whole.",
        *("attribution", "failed_batches"),
    ),
    _one(
        "hogpipe_attribution_lookup_seconds",
        "CPU time spent on look-ups.",
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
        "Processes that the kernel refused to show.",
        *("attribution", "not_permitted"),
    ),
    _one(
        "hogpipe_attribution_overflowed_bytes",
        "Bytes told without an owner because too many flows waited for one.",
        *("attribution", "overflowed", "bytes"),
    ),
    _one(
        "hogpipe_ledger_events_lost",
        "Events that the kernel had no room for.",
        *("attribution", "ledger", "events_lost"),
    ),
    _one(
        "hogpipe_ledger_sockets_lost",
        "Sockets that the kernel had no room for.",
        *("attribution", "ledger", "sockets_lost"),
    ),
    _one("hogpipe_records", "Traffic records made.", "aggregation", "records"),
    _one(
        "hogpipe_folded_groups",
        "Groups summed up in the remainder because there were too many.",
        *("aggregation", "folded_groups"),
    ),
    _one("hogpipe_cpu_seconds", "CPU time that hogpipe took.", "self", "cpu", "seconds"),
)

GAUGES = (
    _one(
        "hogpipe_attribution_pending_flows",
        "Flows that wait for an owner.",
        *("attribution", "pending", "flows"),
    ),
    _one(
        "hogpipe_attribution_pending_bytes",
        "Bytes that wait for an owner.",
        *("attribution", "pending", "bytes"),
    ),
    _one(
        "hogpipe_attribution_latency_max_seconds",
        "The longest that a new flow waited for its first answer, in the last window that had one.",
        *("attribution", "latency", "max_seconds"),
    ),
    _one(
        "hogpipe_ledger_sockets",
        "Sockets that the ledger knows.",
        *("attribution", "ledger", "sockets"),
    ),
    _one("hogpipe_resident_memory_bytes", "Resident memory.", "self", "memory", "bytes"),
    _one(
        "hogpipe_loop_delay_max_seconds",
        "The longest that a batch of packets waited for the event loop, in the last window.",
        *("self", "loop", "longest_delay_seconds"),
    ),
)

_SINK_COUNTERS = (
    _one("hogpipe_sink_delivered_records", "Records that the sink delivered.", "delivered"),
    _one("hogpipe_sink_dropped_records", "Records that it will never deliver.", "dropped"),
    _one("hogpipe_sink_coalesced_records", "Records merged into others meanwhile.", "coalesced"),
    _one("hogpipe_sink_retries", "Tries that followed a failed one.", "retries"),
    _one(
        "hogpipe_sink_spool_damaged_files", "Damaged files of its spool.", "spool", "damaged_files"
    ),
    _one(
        "hogpipe_sink_spool_disk_failures",
        "Times that the disk of its spool could not be used.",
        *("spool", "disk_failures"),
    ),
)
_SINK_GAUGES = (
    _one("hogpipe_sink_queued_records", "Records that wait for the sink.", "queued"),
    _one("hogpipe_sink_spool_records", "Records in its spool.", "spool", "records"),
    _one("hogpipe_sink_spool_bytes", "What its spool takes on the disk.", "spool", "bytes"),
)


class PipelineCounters:
    """What the stats records of a run told, added up."""

    def __init__(self) -> None:
        self._counters: dict[tuple[str, str], float] = {
            (item.name, value): 0 for item in COUNTERS for value in item.paths
        }
        self._gauges: dict[str, float] = {}
        self._last: StatsRecord | None = None

    def add(self, record: StatsRecord) -> None:
        """Add a window's stats."""
        self._last = record
        for item in COUNTERS:
            for value, path in item.paths.items():
                self._counters[item.name, value] += _number(record, path) or 0
        for item in GAUGES:
            if (number := _number(record, item.paths[""])) is not None:
                self._gauges[item.name] = number

    def families(self) -> Iterator[Metric]:
        """Make metric families of what was told so far."""
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
    """Return the number at `path`; None if it is not told."""
    for key in path:
        if not isinstance(record, dict) or key not in record:
            return None
        record = record[key]
    return record if isinstance(record, (int, float)) else None


def _unit(item: Item) -> str:
    """Return the base unit that ends the metric's name, if it is one."""
    ending = item.name.rpartition("_")[2]
    return ending if ending in {"bytes", "seconds"} else ""

"""PURE: the parts of a stats record, from the counters of the stages."""

from collections.abc import Mapping

from hogpipe.model import AttributionCounts, CaptureCounts, LedgerCounts, Tally
from hogpipe.model.peer_names import NameCounts
from hogpipe.records.schema import (
    AggregationInfo,
    AttributionInfo,
    CaptureInfo,
    LedgerInfo,
    PeerNamesInfo,
    SelfInfo,
    TallyInfo,
)


def capture_info(counts: CaptureCounts) -> CaptureInfo:
    """Return the counters of capture in a window."""
    return {
        "packets": counts.captured.packets,
        "bytes": counts.captured.bytes,
        "dropped": {"kernel": counts.kernel_dropped, "interface": counts.interface_dropped},
        "not_local": _tally_info(counts.not_local),
        "not_ip": _tally_info(counts.not_ip),
        "undecoded": _tally_info(counts.undecoded),
        "both_sides": _tally_info(counts.both_sides),
        "length_floored": _tally_info(counts.length_floored),
        "overflowed": _tally_info(counts.overflowed),
        "merged_batches": counts.merged_batches,
        "health_lost": counts.health_lost,
    }


def attribution_info(
    counts: AttributionCounts, bytes_by_quality: Mapping[str, int], *, timed: bool
) -> AttributionInfo:
    """Return the counters of attribution in a window.

    A replay is not `timed`, so that the same packets give the same record.
    """
    resolver = counts.resolver
    info: AttributionInfo = {
        "new_flows": counts.new_flows,
        "batches": counts.batches,
        "failed_batches": counts.failed_batches,
        "table_reads": resolver.table_reads,
        "tables_incomplete": resolver.tables_incomplete,
        "tuple_lookups": resolver.tuple_lookups,
        "dumps_interrupted": resolver.dumps_interrupted,
        "dumps_failed": resolver.dumps_failed,
        "rows_skipped": resolver.rows_skipped,
        "fd_scans": resolver.fd_scans,
        "fds_read": resolver.fds_read,
        "fds_evicted": resolver.fds_evicted,
        "not_permitted": resolver.not_permitted,
        "malformed_files": resolver.malformed_files,
        "container_files_unread": resolver.container_files_unread,
        "deferred": resolver.deferred,
        "ambiguous": resolver.ambiguous,
        "evicted_flows": counts.evicted_flows,
        "overflowed": _tally_info(counts.overflowed),
        "translated": _tally_info(counts.translated),
        "pending": {"flows": counts.pending_flows, "bytes": counts.pending_bytes},
        "bytes": dict(bytes_by_quality),
    }
    if resolver.ledger is not None:
        info["ledger"] = _ledger_info(resolver.ledger)
    if timed:
        info["lookup_seconds"] = round(counts.lookup_seconds, 6)
        if counts.latency is not None:
            info["latency"] = {
                "median_seconds": round(counts.latency.median, 6),
                "max_seconds": round(counts.latency.longest, 6),
            }
    return info


def aggregation_info(*, records: int, folded_groups: int, uncounted_flows: int) -> AggregationInfo:
    """Return the counters of aggregation in a window."""
    return {
        "records": records,
        "folded_groups": folded_groups,
        "uncounted_flows": uncounted_flows,
    }


def names_info(counts: NameCounts) -> PeerNamesInfo:
    """Return what passed on port 53 in a window, and what reverse DNS was asked."""
    info: PeerNamesInfo = {
        "addresses": counts.addresses,
        "queries": counts.queries,
        "answers": counts.answers,
        "unasked": counts.unasked,
        "malformed": counts.malformed,
        "dropped": counts.dropped,
        "evicted": counts.evicted,
    }
    if counts.reverse is not None:
        info["reverse"] = {
            "asked": counts.reverse.asked,
            "answered": counts.reverse.answered,
            "failed": counts.reverse.failed,
            "dropped": counts.reverse.dropped,
        }
    return info


def self_info(*, cpu_seconds: float, memory_bytes: int, loop_delay_seconds: float) -> SelfInfo:
    """Return the resources of hogpipe itself: seconds of the window, resident bytes now."""
    return {
        "cpu": {"seconds": round(cpu_seconds, 6)},
        "memory": {"bytes": memory_bytes},
        "loop": {"longest_delay_seconds": round(loop_delay_seconds, 6)},
    }


def _ledger_info(counts: LedgerCounts) -> LedgerInfo:
    return {
        "sockets": counts.sockets,
        "events": counts.events,
        "events_lost": counts.events_lost,
        "sockets_lost": counts.sockets_lost,
        "malformed_events": counts.malformed_events,
        "evicted": counts.evicted,
        "unknown_releases": counts.unknown_releases,
        "contested": counts.contested,
        "unidentified_processes": counts.unidentified_processes,
        "snapshots": counts.snapshots,
        "namespaces_not_entered": counts.namespaces_not_entered,
    }


def _tally_info(tally: Tally) -> TallyInfo:
    return {"bytes": tally.bytes, "packets": tally.packets}

"""PURE: merges the stats records of two windows into one, and the windows.

Counters are added. Gauges (`pending`, `sinks`, memory, the sockets of the ledger, the
addresses that have names) are those of the
newer record. Of delays and medians the larger is kept, an upper bound of the merged median.
"""

from collections.abc import Mapping
from typing import cast

from hogpipe.records.schema import LatencyInfo, LoopInfo, StatsBody, StatsRecord, Window


def merge_stats(older: StatsRecord, newer: StatsRecord) -> StatsRecord:
    """Return one record for both windows; the arguments are not changed."""
    merged = cast("StatsRecord", merge_bodies(older, newer))
    merged["schema"] = newer["schema"]
    merged["timestamp"] = newer["timestamp"]
    merged["window"] = join_windows(older["window"], newer["window"])
    merged["sequence"] = newer["sequence"]
    return merged


def merge_bodies(older: StatsBody, newer: StatsBody) -> StatsBody:
    """Return the counters and gauges of two windows; the arguments are not changed."""
    # Every number is added up as a counter; the others are corrected below.
    merged = cast("StatsBody", _sum(older, newer))
    merged["attribution"]["pending"] = newer["attribution"]["pending"]
    if "ledger" in merged["attribution"] and "ledger" in newer["attribution"]:
        merged["attribution"]["ledger"]["sockets"] = newer["attribution"]["ledger"]["sockets"]
    if "latency" in older["attribution"] and "latency" in newer["attribution"]:
        merged["attribution"]["latency"] = _find_longest_latency(older, newer)
    if "peer_names" in merged and "peer_names" in newer:
        merged["peer_names"]["addresses"] = newer["peer_names"]["addresses"]
    if "self" in newer:
        merged["self"]["memory"] = newer["self"]["memory"]
        merged["self"]["loop"] = _find_longest_delay(older, newer)
    return merged


def join_windows(one: Window, other: Window) -> Window:
    """Return the window that spans both, which may be one of them; they are not changed."""
    first = one if one["start_unix"] <= other["start_unix"] else other
    last = one if one["end_unix"] >= other["end_unix"] else other
    if first is last:
        return first
    return {
        "start": first["start"],
        "end": last["end"],
        "start_unix": first["start_unix"],
        "end_unix": last["end_unix"],
    }


def _find_longest_latency(older: StatsBody, newer: StatsBody) -> LatencyInfo:
    latencies = [record["attribution"]["latency"] for record in (older, newer)]
    return {
        "median_seconds": max(latency["median_seconds"] for latency in latencies),
        "max_seconds": max(latency["max_seconds"] for latency in latencies),
    }


def _find_longest_delay(older: StatsBody, newer: StatsBody) -> LoopInfo:
    delays = [record["self"]["loop"]["longest_delay_seconds"] for record in (older, newer)]
    return {"longest_delay_seconds": max(delays)}


def _sum(older: Mapping[str, object], newer: Mapping[str, object]) -> dict[str, object]:
    """Add two trees of numbers key by key; a key that only one of them has is copied."""
    total: dict[str, object] = {**older, **newer}
    for key in older.keys() & newer.keys():
        one, other = older[key], newer[key]
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            total[key] = _sum(one, other)
        elif isinstance(one, int | float) and isinstance(other, int | float):
            total[key] = one + other
    return total

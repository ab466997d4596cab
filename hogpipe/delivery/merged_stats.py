"""PURE: what hogpipe tells of itself in two windows, as one.

Deltas are added, and states (`pending`, `sinks`, memory, the ledger's sockets) are the newest; of
delays and of medians the longest stays (the median of two windows lies between theirs).
"""

from collections.abc import Mapping
from typing import cast

from hogpipe.records.schema import LatencyInfo, LoopInfo, StatsRecord, Window


def merge_stats(older: StatsRecord, newer: StatsRecord) -> StatsRecord:
    """Return one record for both windows; neither is changed."""
    # Whatever is a number is a delta, unless it is put right here.
    merged = cast("StatsRecord", _sum(older, newer))
    merged["timestamp"] = newer["timestamp"]
    merged["window"] = _span(older["window"], newer["window"])
    merged["sequence"] = newer["sequence"]
    merged["attribution"]["pending"] = newer["attribution"]["pending"]
    if "ledger" in merged["attribution"] and "ledger" in newer["attribution"]:
        merged["attribution"]["ledger"]["sockets"] = newer["attribution"]["ledger"]["sockets"]
    if "latency" in older["attribution"] and "latency" in newer["attribution"]:
        merged["attribution"]["latency"] = _slower(older, newer)
    if "self" in newer:
        merged["self"]["memory"] = newer["self"]["memory"]
        merged["self"]["loop"] = _longer(older, newer)
    return merged


def _span(older: Window, newer: Window) -> Window:
    return {
        "start": min(older["start"], newer["start"]),
        "end": max(older["end"], newer["end"]),
    }


def _slower(older: StatsRecord, newer: StatsRecord) -> LatencyInfo:
    latencies = [record["attribution"]["latency"] for record in (older, newer)]
    return {
        "median_seconds": max(latency["median_seconds"] for latency in latencies),
        "max_seconds": max(latency["max_seconds"] for latency in latencies),
    }


def _longer(older: StatsRecord, newer: StatsRecord) -> LoopInfo:
    delays = [record["self"]["loop"]["longest_delay_seconds"] for record in (older, newer)]
    return {"longest_delay_seconds": max(delays)}


def _sum(older: Mapping[str, object], newer: Mapping[str, object]) -> dict[str, object]:
    """Add two trees of numbers key by key; a key that only one has is taken as it is."""
    total: dict[str, object] = {**older, **newer}
    for key in older.keys() & newer.keys():
        one, other = older[key], newer[key]
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            total[key] = _sum(one, other)
        elif isinstance(one, int | float) and isinstance(other, int | float):
            total[key] = one + other
    return total

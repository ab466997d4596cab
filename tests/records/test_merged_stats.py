"""Two stats records are merged into one."""

from typing import cast

from support.sinks import stats

from hogpipe.records.merged_stats import merge_stats
from hogpipe.records.schema import LedgerInfo


def test_deltas_are_added_and_gauges_are_the_newest() -> None:
    merged = merge_stats(stats(1, packets=10), stats(2, packets=5, second=1))
    assert merged["capture"]["packets"] == 15
    assert merged["capture"]["dropped"] == {"kernel": 2, "interface": 0}
    assert merged["attribution"]["new_flows"] == 4
    assert merged["attribution"]["bytes"] == {"exact": 600}
    assert merged["attribution"]["pending"] == {"flows": 2, "bytes": 7}
    assert merged["aggregation"]["records"] == 4
    assert merged["self"] == {
        "cpu": {"seconds": 0.5},
        "memory": {"bytes": 1002},
        "loop": {"longest_delay_seconds": 1.0},
    }
    assert merged["sequence"] == 2
    assert merged["window"]["start"] == "2026-11-22T07:00:00.000Z"


def test_the_sockets_of_a_ledger_are_a_gauge() -> None:
    older, newer, none = stats(1), stats(2), stats(3)
    counts = dict.fromkeys(LedgerInfo.__annotations__, 2)
    older["attribution"]["ledger"] = cast("LedgerInfo", dict(counts))
    newer["attribution"]["ledger"] = cast("LedgerInfo", {**counts, "sockets": 1})
    merged = merge_stats(merge_stats(older, newer), none)
    assert merged["attribution"]["ledger"] == {**dict.fromkeys(counts, 4), "sockets": 1}
    assert older["attribution"]["ledger"] == counts


def test_of_two_latencies_the_longest_is_kept() -> None:
    older, newer, none = stats(1), stats(2), stats(3)
    older["attribution"]["latency"] = {"median_seconds": 0.2, "max_seconds": 0.3}
    newer["attribution"]["latency"] = {"median_seconds": 0.1, "max_seconds": 0.5}
    merged = merge_stats(merge_stats(older, newer), none)
    assert merged["attribution"]["latency"] == {"median_seconds": 0.2, "max_seconds": 0.5}

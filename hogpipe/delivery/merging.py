"""PURE: windows of records merged into one, so that a full queue loses time and never a byte.

Traffic records that say the same of everything but numbers and stamp are one group. Within a group
bytes, packets, the bytes of each attribution quality, and flows are added. A flow that moved bytes
in both windows thus counts twice, just as it does for whoever adds up the two records unmerged.
Of stats records the deltas are added and the states (`pending`, `sinks`, memory, the ledger's
sockets) are the newest; of delays and of medians the longest stays (the median of two windows lies
between theirs).
The window spans both; timestamp, sequence, run and host are those of the newer record.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np
import orjson

from hogpipe.record import (
    IoInfo,
    LatencyInfo,
    LoopInfo,
    NetworkInfo,
    Record,
    StatsRecord,
    TallyInfo,
    TrafficRecord,
    Window,
)

_STAMP = ("timestamp", "window", "run", "sequence", "host")
_NUMBERS = (*_STAMP, "network", "attribution")
_STEP = 500


class Merger:
    """A window that others are merged into, each at a cost that follows its own size.

    Beyond `max_groups` those that moved least are summed up in the remainder record.
    """

    def __init__(self, max_groups: int | None = None) -> None:
        self._max_groups = max_groups
        self._groups: dict[bytes, TrafficRecord] = {}
        self._stats: StatsRecord | None = None

    def __len__(self) -> int:
        return len(self._groups) + (self._stats is not None)

    def add(self, window: Sequence[Record]) -> None:
        """Merge in a window that is newer than those before; it is not changed."""
        for record in window:
            if record["type"] == "stats":
                self._stats = _merge_stats(self._stats, record) if self._stats else record
            else:
                self._add(record)
        if self._max_groups is not None:
            for _ in self.fold(self._max_groups):
                pass

    def fold(self, max_groups: int) -> Iterator[None]:
        """Sum up those that moved least until there are no more than `max_groups`, in steps.

        Between two steps, each some milliseconds long, nothing is missing and nothing doubled.
        """
        if len(self._groups) <= max_groups:
            return
        keys = list(self._groups)
        sizes = np.empty(len(keys))
        for start in range(0, len(keys), _STEP):
            part = keys[start : start + _STEP]
            sizes[start : start + len(part)] = [_total_bytes(self._groups[key]) for key in part]
            yield
        surplus = len(keys) - (max_groups - 1)  # the remainder is a group, too
        least = np.sort(np.argpartition(sizes, surplus - 1)[:surplus]).tolist()
        for start in range(0, surplus, _STEP):
            for index in least[start : start + _STEP]:
                self._add(_nameless(self._groups.pop(keys[index])))
            yield

    def records(self) -> list[Record]:
        """Return the records of the merged window by sequence."""
        merged: list[Record] = [*self._groups.values()]
        if self._stats is not None:
            merged.append(self._stats)
        return sorted(merged, key=lambda record: record["sequence"])

    def _add(self, record: TrafficRecord) -> None:
        key = _group_key(record)
        # Put in anew each time, groups are nearly sorted by sequence already.
        older = self._groups.pop(key, None)
        self._groups[key] = _merge_traffic(older, record) if older else record


def _group_key(record: TrafficRecord) -> bytes:
    about: dict[str, object] = {k: v for k, v in record.items() if k not in _NUMBERS}
    about["network"] = {k: v for k, v in record["network"].items() if k not in ("flows", "io")}
    return orjson.dumps(about, option=orjson.OPT_SORT_KEYS)


def _total_bytes(record: TrafficRecord) -> int:
    io = record["network"]["io"]
    return io["transmit"]["bytes"] + io["receive"]["bytes"]


def _nameless(record: TrafficRecord) -> TrafficRecord:
    network = record["network"]
    return {
        "type": "traffic",
        "timestamp": record["timestamp"],
        "window": record["window"],
        "run": record["run"],
        "sequence": record["sequence"],
        "host": record["host"],
        "network": {"flows": network["flows"], "io": network["io"]},
        "attribution": record["attribution"],
        "remainder": True,
    }


def _merge_traffic(older: TrafficRecord, newer: TrafficRecord) -> TrafficRecord:
    return {
        **newer,
        "window": _span(older["window"], newer["window"]),
        "network": _merge_network(older["network"], newer["network"]),
        "attribution": _added(older["attribution"], newer["attribution"]),
    }


def _merge_network(older: NetworkInfo, newer: NetworkInfo) -> NetworkInfo:
    io: IoInfo = {
        "transmit": _merge_tally(older["io"]["transmit"], newer["io"]["transmit"]),
        "receive": _merge_tally(older["io"]["receive"], newer["io"]["receive"]),
    }
    return {**newer, "flows": older["flows"] + newer["flows"], "io": io}


def _merge_tally(older: TallyInfo, newer: TallyInfo) -> TallyInfo:
    return {
        "bytes": older["bytes"] + newer["bytes"],
        "packets": older["packets"] + newer["packets"],
    }


def _span(older: Window, newer: Window) -> Window:
    # The stamps are all of one form, in UTC: they sort as text.
    return {
        "start": min(older["start"], newer["start"]),
        "end": max(older["end"], newer["end"]),
    }


def _merge_stats(older: StatsRecord, newer: StatsRecord) -> StatsRecord:
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


def _slower(older: StatsRecord, newer: StatsRecord) -> LatencyInfo:
    latencies = [record["attribution"]["latency"] for record in (older, newer)]
    return {
        "median_seconds": max(latency["median_seconds"] for latency in latencies),
        "max_seconds": max(latency["max_seconds"] for latency in latencies),
    }


def _longer(older: StatsRecord, newer: StatsRecord) -> LoopInfo:
    delays = [record["self"]["loop"]["longest_delay_seconds"] for record in (older, newer)]
    return {"longest_delay_seconds": max(delays)}


def _added(older: Mapping[str, int], newer: Mapping[str, int]) -> dict[str, int]:
    return {key: older.get(key, 0) + newer.get(key, 0) for key in {**older, **newer}}


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

"""PURE: merges windows of records into one window.

In: windows of records, the oldest first. Out: the records of one window that spans all of them.

Traffic records that differ in nothing but counters and stamp are one group. The counters of a group
are added up: bytes, packets, flows, and the bytes of each attribution quality. A flow with traffic
in two windows therefore counts twice, as it does in the sum of the two records. Timestamp,
sequence, run and host are those of the newer record. merged_stats.py merges stats records.

A group takes less than 1 KB of memory, a fifth of what a record takes.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from functools import reduce
from typing import cast

import msgspec
import numpy as np
import orjson

from hogpipe.model import TcpHealth, TrafficCounts, join_health
from hogpipe.records.groups import describe_group
from hogpipe.records.merged_stats import join_windows, merge_stats
from hogpipe.records.schema import (
    HostInfo,
    NetworkInfo,
    Record,
    StatsRecord,
    TrafficRecord,
    Window,
    describe_io,
    parse_io,
)
from hogpipe.records.tcp_health import add_tcp, parse_tcp

_REMAINDER = orjson.dumps({"remainder": True})


class _Stamp(msgspec.Struct, frozen=True, gc=False):
    """The stamp that the records of one window share."""

    schema: int
    timestamp: str
    window: Window
    run: str
    host: HostInfo


class _GroupSums(msgspec.Struct, gc=False, kw_only=True):
    """The counters of a group. Never changed: several merged windows may share one object."""

    flows: int
    traffic: TrafficCounts
    health: TcpHealth | None
    attribution: dict[str, int]
    sequence: int
    stamp: _Stamp


class MergedWindow:
    """A window into which others are merged, each at a cost in proportion to its own size."""

    def __init__(self) -> None:
        self._groups: dict[bytes, _GroupSums] = {}
        self._stats: StatsRecord | None = None
        self._last_stamp: _Stamp | None = None
        self._last_joined: tuple[_Stamp, _Stamp, _Stamp] | None = None
        """Two stamps that were joined, and the result."""

    def __len__(self) -> int:
        return len(self._groups) + (self._stats is not None)

    def add(self, window: Sequence[Record]) -> None:
        """Merge a window that is newer than those before; it is not changed."""
        for record in window:
            if record["type"] == "stats":
                self._add_stats(record)
            else:
                self._add(_make_key(record), self._sum_up(record))

    def add_total(self, window: Sequence[Record]) -> None:
        """Merge a window with all its traffic in the remainder, which takes less time."""
        sums = [self._sum_up(record) for record in window if record["type"] == "traffic"]
        if sums:
            self._add(_REMAINDER, _total(sums))
        self.add([record for record in window if record["type"] == "stats"])

    def merge(self, newer: "MergedWindow") -> None:
        """Merge a merged window that is newer; it is not changed."""
        for key, sums in newer._groups.items():  # noqa: SLF001 - of the same class
            self._add(key, sums)
        if (stats := newer._stats) is not None:  # noqa: SLF001 - of the same class
            self._add_stats(stats)

    def fold(self, max_groups: int) -> None:
        """Add the groups with the fewest bytes to the remainder until `max_groups` are left."""
        if len(self._groups) <= max_groups:
            return
        keys = list(self._groups)
        sizes = (sums.traffic.total_bytes for sums in self._groups.values())
        by_size = np.fromiter(sizes, float, len(keys))
        surplus = len(keys) - (max_groups - 1)  # the remainder is a group, too
        least = np.sort(np.argpartition(by_size, surplus - 1)[:surplus]).tolist()
        self._add(_REMAINDER, _total([self._groups.pop(keys[index]) for index in least]))

    def records(self) -> list[Record]:
        """Return the records of the merged window, sorted by sequence."""
        merged: list[Record] = [_make_record(*group) for group in self._groups.items()]
        if self._stats is not None:
            merged.append(self._stats)
        return sorted(merged, key=lambda record: record["sequence"])

    def _add(self, key: bytes, newer: _GroupSums) -> None:
        # Moved to the end each time, groups are nearly sorted by sequence.
        older = self._groups.pop(key, None)
        self._groups[key] = newer if older is None else self._join(older, newer)

    def _add_stats(self, newer: StatsRecord) -> None:
        self._stats = newer if self._stats is None else merge_stats(self._stats, newer)

    def _sum_up(self, record: TrafficRecord) -> _GroupSums:
        network = record["network"]
        return _GroupSums(
            flows=network["flows"],
            traffic=parse_io(network["io"]),
            health=parse_tcp(network),
            attribution=record["attribution"],
            sequence=record["sequence"],
            stamp=self._make_stamp(record),
        )

    def _make_stamp(self, record: TrafficRecord) -> _Stamp:
        """Return the stamp of a record, the same object for all records of a window."""
        last = self._last_stamp
        if (
            last is None
            or last.window != record["window"]
            or last.timestamp != record["timestamp"]
            or last.run != record["run"]
            or last.host != record["host"]
            or last.schema != record["schema"]
        ):
            last = self._last_stamp = _Stamp(
                record["schema"],
                record["timestamp"],
                record["window"],
                record["run"],
                record["host"],
            )
        return last

    def _join(self, older: _GroupSums, newer: _GroupSums) -> _GroupSums:
        traffic = copy(older.traffic)
        traffic.add_counts(newer.traffic)
        return _GroupSums(
            flows=older.flows + newer.flows,
            traffic=traffic,
            health=join_health(older.health, newer.health),
            attribution=_add_qualities(older.attribution, newer.attribution),
            sequence=newer.sequence,
            stamp=self._join_stamps(older.stamp, newer.stamp),
        )

    def _join_stamps(self, older: _Stamp, newer: _Stamp) -> _Stamp:
        """Return the stamp of a window that spans both.

        Consecutive groups mostly have the same two stamps, so that the last result is kept.
        """
        last = self._last_joined
        if last is None or last[0] is not older or last[1] is not newer:
            window = join_windows(older.window, newer.window)
            last = older, newer, msgspec.structs.replace(newer, window=window)
            self._last_joined = last
        return last[2]


def _make_key(record: TrafficRecord) -> bytes:
    """Return what describes the group of `record`, as JSON."""
    # The bytes that orjson returns keep its buffer of 4 KiB allocated.
    return bytes(memoryview(orjson.dumps(describe_group(record))))


def _make_record(key: bytes, sums: _GroupSums) -> TrafficRecord:
    description, stamp = orjson.loads(key), sums.stamp
    counters: NetworkInfo = {"flows": sums.flows, "io": describe_io(sums.traffic)}
    if sums.health is not None:
        add_tcp(counters, sums.health)
    network = {**counters, **description.pop("network", {})}
    record = {
        "type": "traffic",
        "schema": stamp.schema,
        "timestamp": stamp.timestamp,
        "window": stamp.window,
        "run": stamp.run,
        "sequence": sums.sequence,
        "host": stamp.host,
        **description,
        "network": network,
        "attribution": sums.attribution,
    }
    return cast("TrafficRecord", record)


def _total(sums: Sequence[_GroupSums]) -> _GroupSums:
    """Return the sum of one or more sums, the newest last."""
    attribution: dict[str, int] = {}
    traffic = TrafficCounts()
    for one in sums:
        traffic.add_counts(one.traffic)
        for quality, size in one.attribution.items():
            attribution[quality] = attribution.get(quality, 0) + size
    newest = sums[-1].stamp
    window = reduce(join_windows, (one.stamp.window for one in sums))
    return _GroupSums(
        flows=sum(one.flows for one in sums),
        traffic=traffic,
        health=reduce(join_health, (one.health for one in sums)),
        attribution=attribution,
        sequence=sums[-1].sequence,
        stamp=msgspec.structs.replace(newest, window=window),
    )


def _add_qualities(older: Mapping[str, int], newer: Mapping[str, int]) -> dict[str, int]:
    return {key: older.get(key, 0) + newer.get(key, 0) for key in {**older, **newer}}

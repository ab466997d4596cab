"""PURE: windows of records as sums by group, which take little room and add up.

Traffic records that say the same of everything but numbers and stamp are one group. Within a group
bytes, packets, the bytes of each attribution quality, and flows are added. A flow that moved bytes
in both windows thus counts twice, just as it does for whoever adds up the two records unmerged.
The window spans both; timestamp, sequence, run and host are those of the newer record. Stats
records are merged by merged_stats.py.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from typing import cast

import msgspec
import numpy as np
import orjson

from hogpipe.delivery.merged_stats import merge_stats
from hogpipe.model import TrafficCounts
from hogpipe.records.network_io import describe_io, parse_io
from hogpipe.records.schema import HostInfo, Record, StatsRecord, TrafficRecord

_STAMP = ("timestamp", "window", "run", "sequence", "host")
_NUMBERS = (*_STAMP, "network", "attribution")
_REMAINDER = orjson.dumps({"type": "traffic", "remainder": True})


class _Stamp(msgspec.Struct, frozen=True, gc=False):
    """What the records of one window have in common."""

    timestamp: str
    start: str
    end: str
    run: str
    host: HostInfo


class _Sums(msgspec.Struct, gc=False, kw_only=True):
    """What a group moved; not changed once another Merger may have it, too."""

    flows: int
    traffic: TrafficCounts
    attribution: dict[str, int]
    sequence: int
    stamp: _Stamp


class Merger:
    """A window that others are merged into, each at a cost that follows its own size.

    A group takes less than 1 KB, a fifth of what a record does.
    """

    def __init__(self) -> None:
        self._groups: dict[bytes, _Sums] = {}
        self._stats: StatsRecord | None = None
        self._stamp: _Stamp | None = None
        self._span: tuple[_Stamp, _Stamp, _Stamp] | None = None

    def __len__(self) -> int:
        return len(self._groups) + (self._stats is not None)

    def add(self, window: Sequence[Record]) -> None:
        """Merge in a window that is newer than those before; it is not changed."""
        for record in window:
            if record["type"] == "stats":
                self._add_stats(record)
            else:
                self._add(_make_key(record), self._sum_up(record))

    def add_nameless(self, window: Sequence[Record]) -> None:
        """Merge in a window with all its traffic in the remainder: that takes less time."""
        sums = [self._sum_up(record) for record in window if record["type"] == "traffic"]
        if sums:
            self._add(_REMAINDER, _total(sums))
        self.add([record for record in window if record["type"] == "stats"])

    def merge(self, newer: "Merger") -> None:
        """Merge in what `newer` holds, which stays as it is."""
        for key, sums in newer._groups.items():  # noqa: SLF001 - of the same class
            self._add(key, sums)
        if (stats := newer._stats) is not None:  # noqa: SLF001 - of the same class
            self._add_stats(stats)

    def fold(self, max_groups: int) -> None:
        """Sum up those that moved least in the remainder, until there are no more groups."""
        if len(self._groups) <= max_groups:
            return
        keys = list(self._groups)
        moved = np.fromiter(map(_count_bytes, self._groups.values()), float, len(keys))
        surplus = len(keys) - (max_groups - 1)  # the remainder is a group, too
        least = np.sort(np.argpartition(moved, surplus - 1)[:surplus]).tolist()
        self._add(_REMAINDER, _total([self._groups.pop(keys[index]) for index in least]))

    def records(self) -> list[Record]:
        """Return the records of the merged window by sequence."""
        merged: list[Record] = [_make_record(*group) for group in self._groups.items()]
        if self._stats is not None:
            merged.append(self._stats)
        return sorted(merged, key=lambda record: record["sequence"])

    def _add(self, key: bytes, newer: _Sums) -> None:
        # Put in anew each time, groups are nearly sorted by sequence already.
        older = self._groups.pop(key, None)
        self._groups[key] = newer if older is None else self._join(older, newer)

    def _add_stats(self, newer: StatsRecord) -> None:
        self._stats = newer if self._stats is None else merge_stats(self._stats, newer)

    def _sum_up(self, record: TrafficRecord) -> _Sums:
        network = record["network"]
        return _Sums(
            flows=network["flows"],
            traffic=parse_io(network["io"]),
            attribution=record["attribution"],
            sequence=record["sequence"],
            stamp=self._make_stamp(record),
        )

    def _make_stamp(self, record: TrafficRecord) -> _Stamp:
        """Return the stamp of a record, the same one for all of a window."""
        last, window = self._stamp, record["window"]
        if (
            last is None
            or last.end != window["end"]
            or last.start != window["start"]
            or last.timestamp != record["timestamp"]
            or last.run != record["run"]
            or last.host != record["host"]
        ):
            last = self._stamp = _Stamp(
                record["timestamp"], window["start"], window["end"], record["run"], record["host"]
            )
        return last

    def _join(self, older: _Sums, newer: _Sums) -> _Sums:
        traffic = copy(older.traffic)
        traffic.add_counts(newer.traffic)
        return _Sums(
            flows=older.flows + newer.flows,
            traffic=traffic,
            attribution=_added(older.attribution, newer.attribution),
            sequence=newer.sequence,
            stamp=self._join_stamps(older.stamp, newer.stamp),
        )

    def _join_stamps(self, older: _Stamp, newer: _Stamp) -> _Stamp:
        """Return the stamp of what spans both; groups come in turns that have the same two."""
        if self._span is None or self._span[0] is not older or self._span[1] is not newer:
            # The stamps are all of one form, in UTC: they sort as text.
            start, end = min(older.start, newer.start), max(older.end, newer.end)
            self._span = older, newer, msgspec.structs.replace(newer, start=start, end=end)
        return self._span[2]


def _make_key(record: TrafficRecord) -> bytes:
    """Return all that `record` says but numbers and stamp."""
    about = cast("dict[str, object]", record.copy())
    for key in _NUMBERS:
        del about[key]
    if len(record["network"]) > 2:
        about["network"] = {k: v for k, v in record["network"].items() if k not in ("flows", "io")}
    # What orjson returns keeps the 4 KiB that it was written to.
    return bytes(memoryview(orjson.dumps(about)))


def _make_record(key: bytes, sums: _Sums) -> TrafficRecord:
    about, stamp = orjson.loads(key), sums.stamp
    network = {"flows": sums.flows, "io": describe_io(sums.traffic), **about.pop("network", {})}
    record = {
        "type": "traffic",
        "timestamp": stamp.timestamp,
        "window": {"start": stamp.start, "end": stamp.end},
        "run": stamp.run,
        "sequence": sums.sequence,
        "host": stamp.host,
        **about,
        "network": network,
        "attribution": sums.attribution,
    }
    return cast("TrafficRecord", record)


def _total(sums: Sequence[_Sums]) -> _Sums:
    """Return the sum of at least one; the newer come last."""
    attribution: dict[str, int] = {}
    traffic = TrafficCounts()
    for one in sums:
        traffic.add_counts(one.traffic)
        for quality, size in one.attribution.items():
            attribution[quality] = attribution.get(quality, 0) + size
    newest = sums[-1].stamp
    start, end = min(one.stamp.start for one in sums), max(one.stamp.end for one in sums)
    return _Sums(
        flows=sum(one.flows for one in sums),
        traffic=traffic,
        attribution=attribution,
        sequence=sums[-1].sequence,
        stamp=msgspec.structs.replace(newest, start=start, end=end),
    )


def _count_bytes(sums: _Sums) -> int:
    return sums.traffic.total_bytes


def _added(older: Mapping[str, int], newer: Mapping[str, int]) -> dict[str, int]:
    return {key: older.get(key, 0) + newer.get(key, 0) for key in {**older, **newer}}

"""PURE: windows of records as the history keeps them, and back.

In: the records of one delivery. Out: a `StampedWindow` for each stamp: coalesced records have those
of several windows. `pack_window` makes the `content` of its row, from which `unpack_window`
restores the counters, and `unpack_records` the records to the letter.

Content: one JSON object, compressed by zlib. `timestamp` and `window` are the stamp; `sequence`,
`member`, `group` and each array of `counters` have an item for each traffic record (`sequence` as
the difference to the one before); a counter that is zero in all of them is absent. `exact` is what
exceeds the bytes of no other quality, so that it is mostly absent. `stats` has the stats records,
without the stamp.
"""

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Annotated, cast

import msgspec
import numpy as np

from hogpipe.history.counters import (
    ALL_COUNTERS,
    COUNTERS,
    QUALITIES,
    Integers,
    Totals,
    read_counters,
    read_health,
)
from hogpipe.history.members import Description
from hogpipe.records.schema import (
    SCHEMA_VERSION,
    NetworkInfo,
    Record,
    StatsRecord,
    TrafficRecord,
    Window,
)
from hogpipe.records.tcp_health import add_tcp

_COMPRESSION = 1  # 40 % of the size, at 0.1 ms for 500 groups
_BYTES = [COUNTERS.index("transmit_bytes"), COUNTERS.index("receive_bytes")]
_EXACT = COUNTERS.index("exact")
_OTHER_QUALITIES = [COUNTERS.index(name) for name in QUALITIES if name != "exact"]
_IN_STAMP = ("schema", "timestamp", "window", "run", "host")


class DamagedContentError(ValueError):
    """The content of a window cannot be decoded."""


class StampedWindow(msgspec.Struct):
    """The records of one run that share one stamp."""

    timestamp: str
    window: Window
    traffic: list[TrafficRecord] = msgspec.field(default_factory=list)
    stats: list[StatsRecord] = msgspec.field(default_factory=list)

    @property
    def start_ms(self) -> int:
        """When the window starts."""
        return round(self.window["start_unix"] * 1000)

    @property
    def end_ms(self) -> int:
        """When the window ends."""
        return round(self.window["end_unix"] * 1000)


class UnpackedWindow(msgspec.Struct):
    """The counters of a window: a row for each traffic record."""

    members: Integers
    groups: Integers
    rows: Integers
    stats: Sequence[StatsRecord]


_Number = Annotated[int, msgspec.Meta(ge=-(1 << 60), le=1 << 60)]
"""So that sums of a few of them fit into 64 bits."""


class _Content(msgspec.Struct):
    timestamp: str
    window: dict[str, str | float]
    sequence: list[_Number]
    member: list[_Number]
    group: list[_Number]
    counters: dict[str, list[_Number]]
    stats: list[dict[str, object]]


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(_Content)


def split_by_stamp(records: Iterable[Record]) -> list[StampedWindow]:
    """Return the windows that records of one run are of, in the order of their first records."""
    windows: dict[tuple[str, str, str], StampedWindow] = {}
    for record in records:
        window = record["window"]
        key = record["timestamp"], window["start"], window["end"]
        if (stamped := windows.get(key)) is None:
            stamped = windows[key] = StampedWindow(record["timestamp"], window)
        if record["type"] == "stats":
            stamped.stats.append(record)
        else:
            stamped.traffic.append(record)
    return list(windows.values())


def pack_window(stamped: StampedWindow, counted: UnpackedWindow) -> tuple[bytes, int]:
    """Return the content of a window, and its size before compression.

    `counted` has a member, a group and a row for each of its traffic records.
    """
    rows = counted.rows.copy()
    rows[:, _EXACT] -= _find_rest(rows)
    used = set(np.flatnonzero(rows.any(axis=0)).tolist())
    sequences = [0, *(record["sequence"] for record in stamped.traffic)]
    content = _Content(
        timestamp=stamped.timestamp,
        window=cast("dict[str, str | float]", stamped.window),
        sequence=[after - before for before, after in pairwise(sequences)],
        member=counted.members.tolist(),
        group=counted.groups.tolist(),
        counters={
            name: rows[:, index].tolist()
            for index, name in enumerate(ALL_COUNTERS)
            if index in used
        },
        stats=[_drop_stamp(record) for record in stamped.stats],
    )
    text = _ENCODER.encode(content)
    return zlib.compress(text, _COMPRESSION), len(text)


def make_rows(records: Sequence[TrafficRecord]) -> Integers:
    """Return the counters of records, a row for each."""
    rows = np.zeros((len(records), len(ALL_COUNTERS)), np.int64)
    if records:
        rows[:, : len(COUNTERS)] = [read_counters(one) for one in records]
    for row, record in zip(rows, records, strict=True):
        if (health := read_health(record)) is not None:
            row[len(COUNTERS) :] = health
    return rows


def unpack_window(packed: bytes) -> UnpackedWindow:
    """Return the counters of a window. Raises DamagedContentError."""
    content = _decode(packed)
    rows = _decode_rows(content)
    stamp = {
        "schema": SCHEMA_VERSION,
        "timestamp": content.timestamp,
        "window": content.window,
    }
    return UnpackedWindow(
        np.array(content.member, np.int64),
        np.array(content.group, np.int64),
        rows,
        [cast("StatsRecord", {**one, **stamp}) for one in content.stats],
    )


def unpack_records(
    packed: bytes, run: str, host: str, describe: Callable[[int, int], Description]
) -> list[Record]:
    """Return the records of a window, in the order of their sequence.

    `describe` returns the description of a member and its group. Raises DamagedContentError.
    """
    content = _decode(packed)
    stamp = {
        "schema": SCHEMA_VERSION,
        "timestamp": content.timestamp,
        "window": content.window,
        "run": run,
        "host": {"name": host},
    }
    records: list[Mapping[str, object]] = [
        {
            "type": "traffic",
            **stamp,
            "sequence": sequence,
            **describe_traffic(describe(member, group), Totals(*row)),
        }
        for sequence, member, group, row in zip(
            accumulate(content.sequence),
            content.member,
            content.group,
            _decode_rows(content).tolist(),
            strict=True,
        )
    ]
    records += [{**one, **stamp} for one in content.stats]
    return sorted(cast("list[Record]", records), key=lambda record: record["sequence"])


def describe_traffic(description: Description, totals: Totals) -> dict[str, object]:
    """Return the body of a traffic record."""
    network = cast("Mapping[str, object]", description.get("network", {}))
    counters: NetworkInfo = {"flows": totals.flows, "io": totals.io}
    if (health := totals.health) is not None:
        add_tcp(counters, health)
    return {
        **description,
        "network": {**counters, **network},
        "attribution": totals.attribution,
    }


def _decode_rows(content: _Content) -> Integers:
    rows = np.zeros((len(content.group), len(ALL_COUNTERS)), np.int64)
    for index, name in enumerate(ALL_COUNTERS):
        if name in content.counters:
            rows[:, index] = content.counters[name]
    rows[:, _EXACT] += _find_rest(rows)
    return rows


def _find_rest(rows: Integers) -> Integers:
    """Return the bytes of no other quality than `exact`."""
    rest: Integers = rows[:, _BYTES].sum(axis=1) - rows[:, _OTHER_QUALITIES].sum(axis=1)
    return rest


def _drop_stamp(record: StatsRecord) -> dict[str, object]:
    return {key: value for key, value in record.items() if key not in _IN_STAMP}


def _decode(packed: bytes) -> _Content:
    try:
        content = _DECODER.decode(zlib.decompress(packed))
    except (zlib.error, msgspec.DecodeError, RecursionError) as error:
        raise DamagedContentError(f"the content of a window is damaged: {error}") from error
    columns = (content.member, content.group, *content.counters.values())
    if {len(column) for column in columns} != {len(content.sequence)}:
        raise DamagedContentError("the content of a window is damaged: a column is cut")
    if not all(isinstance(one.get("sequence"), int) for one in content.stats):
        raise DamagedContentError("the content of a window is damaged: stats have no sequence")
    return content

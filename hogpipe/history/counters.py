"""PURE: the counters of traffic in a history, and their exact sums by group.

In: traffic records. Out: rows of integers in the order of `ALL_COUNTERS`, or of `COUNTERS` alone,
and back. A sum of rows is exact: nothing is rounded, and 64 bits hold eight exabytes. All counters
add up but one, the least round-trip time, of which the least that is known stays; 0 is unknown.
"""

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from hogpipe.model import TcpHealth
from hogpipe.records.schema import IoInfo, TrafficRecord
from hogpipe.records.tcp_health import parse_tcp

Integers = NDArray[np.int64]

_MOST_PENDING = 1 << 16
"""Rows that are summed up at a time, of 72 bytes each, or of 208 with the health."""


class Totals(msgspec.Struct, frozen=True):
    """The counters of some traffic; those by quality add up to the bytes of both directions.

    From `health_records` on, they are of the health of TCP connections; their names are those of
    `TcpHealth`.
    """

    transmit_bytes: int = 0
    transmit_packets: int = 0
    receive_bytes: int = 0
    receive_packets: int = 0
    flows: int = 0
    exact: int = 0
    listener: int = 0
    inferred: int = 0
    none: int = 0
    health_records: int = 0
    """Records whose health is known, also if it has nothing but zeros."""
    transmit_payload_bytes: int = 0
    receive_payload_bytes: int = 0
    rtt_sum_us: int = 0
    opening_us: int = 0
    lifetime_us: int = 0
    retransmits: int = 0
    rtt_samples: int = 0
    rtt_min_us: int = 0
    opened: int = 0
    accepted: int = 0
    refused: int = 0
    timed_out: int = 0
    unreachable: int = 0
    abandoned: int = 0
    reset: int = 0
    closed: int = 0

    @property
    def health(self) -> TcpHealth | None:
        """The health of TCP connections; None where no record has it."""
        if not self.health_records:
            return None
        return TcpHealth(**{name: int(getattr(self, name)) for name in HEALTH_COUNTERS[1:]})

    @property
    def bytes(self) -> int:
        """The bytes of both directions."""
        return self.transmit_bytes + self.receive_bytes

    @property
    def io(self) -> IoInfo:
        """The counters of both directions, as records hold them."""
        return {
            "transmit": {"bytes": self.transmit_bytes, "packets": self.transmit_packets},
            "receive": {"bytes": self.receive_bytes, "packets": self.receive_packets},
        }

    @property
    def attribution(self) -> dict[str, int]:
        """The bytes by quality, as records hold them: a quality without bytes is absent."""
        sizes = {name: int(getattr(self, name)) for name in QUALITIES}
        return {name: size for name, size in sizes.items() if size}


ALL_COUNTERS = Totals.__struct_fields__
"""The columns of rows, in their order."""
COUNTERS, HEALTH_COUNTERS = ALL_COUNTERS[:9], ALL_COUNTERS[9:]
"""The columns of a level, and those of its health."""
QUALITIES = COUNTERS[5:]
LEAST = "rtt_min_us"
"""The counter that does not add up."""
_LEAST_COLUMN = ALL_COUNTERS.index(LEAST)
_NEVER = np.iinfo(np.int64).max


def read_counters(record: TrafficRecord) -> tuple[int, ...]:
    """Return the counters of a record, those of `COUNTERS`."""
    network, get = record["network"], record["attribution"].get
    transmit, receive = network["io"]["transmit"], network["io"]["receive"]
    return (
        transmit["bytes"],
        transmit["packets"],
        receive["bytes"],
        receive["packets"],
        network["flows"],
        get("exact", 0),
        get("listener", 0),
        get("inferred", 0),
        get("none", 0),
    )


def read_health(record: TrafficRecord) -> tuple[int, ...] | None:
    """Return the counters of a record's health, those of `HEALTH_COUNTERS`; None without it."""
    health = parse_tcp(record["network"])
    return None if health is None else (1, *msgspec.structs.astuple(health))


def add_totals(totals: Iterable[Totals]) -> Totals:
    """Return the sum of totals."""
    each = list(totals)
    names = ALL_COUNTERS if any(one.health_records for one in each) else COUNTERS
    sums = {name: sum(getattr(one, name) for one in each) for name in names}
    if LEAST in sums:
        sums[LEAST] = min((one.rtt_min_us for one in each if one.rtt_min_us), default=0)
    return Totals(**sums)


class GroupSums:
    """The sums of rows by a number, such as that of their group."""

    def __init__(self) -> None:
        self._numbers: list[Integers] = []
        self._rows: list[Integers] = []
        self._pending = 0

    def add(self, numbers: Integers, rows: Integers) -> None:
        """Add rows of counters, each to the sum of its number."""
        self._numbers.append(numbers)
        self._rows.append(rows)
        self._pending += len(numbers)
        if self._pending > _MOST_PENDING:
            self._sum_up()
            self._pending = 0

    def arrays(self) -> tuple[Integers, Integers]:
        """Return the numbers in order, and their sums."""
        self._sum_up()
        if not self._numbers:
            return np.zeros(0, np.int64), np.zeros((0, len(ALL_COUNTERS)), np.int64)
        return self._numbers[0], self._rows[0]

    def items(self) -> Iterable[tuple[int, Sequence[int]]]:
        """Return the numbers in order, each with its sum."""
        numbers, rows = self.arrays()
        return zip(numbers.tolist(), rows.tolist(), strict=True)

    def _sum_up(self) -> None:
        if not self._numbers:
            return
        numbers, rows = np.concatenate(self._numbers), np.concatenate(self._rows)
        if len(numbers):
            order = np.argsort(numbers, kind="stable")
            numbers, rows = numbers[order], rows[order]
            starts = np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1]])
            numbers, rows = numbers[starts], _sum_parts(rows, starts)
        self._numbers, self._rows = [numbers], [rows]


def _sum_parts(rows: Integers, starts: Integers) -> Integers:
    """Return the sums of the parts of rows that begin at `starts`."""
    sums: Integers = np.add.reduceat(rows, starts, axis=0)
    if rows.shape[1] > _LEAST_COLUMN:
        least = rows[:, _LEAST_COLUMN]
        found = np.minimum.reduceat(np.where(least == 0, _NEVER, least), starts)
        sums[:, _LEAST_COLUMN] = np.where(found == _NEVER, 0, found)
    return sums

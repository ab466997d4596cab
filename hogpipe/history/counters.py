"""PURE: the counters of traffic in a history, and their exact sums by group.

In: traffic records. Out: rows of integers in the order of `COUNTERS`, and back. A sum of rows is
exact: nothing is rounded, and 64 bits hold eight exabytes.
"""

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from hogpipe.records.schema import IoInfo, TrafficRecord

Integers = NDArray[np.int64]

_MOST_PENDING = 1 << 16
"""Rows that are summed up at a time, of 72 bytes each."""


class Totals(msgspec.Struct, frozen=True):
    """The counters of some traffic; those by quality add up to the bytes of both directions."""

    transmit_bytes: int = 0
    transmit_packets: int = 0
    receive_bytes: int = 0
    receive_packets: int = 0
    flows: int = 0
    exact: int = 0
    listener: int = 0
    inferred: int = 0
    none: int = 0

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


COUNTERS = Totals.__struct_fields__
"""The columns of a level, in their order."""
QUALITIES = COUNTERS[5:]


def read_counters(record: TrafficRecord) -> tuple[int, ...]:
    """Return the counters of a record."""
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
            return np.zeros(0, np.int64), np.zeros((0, len(COUNTERS)), np.int64)
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
            numbers, rows = numbers[starts], np.add.reduceat(rows, starts, axis=0)
        self._numbers, self._rows = [numbers], [rows]

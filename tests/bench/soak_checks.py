"""PURE: what must hold during a soak, checked on records and samples as they come.

In: records of a file in their order, samples of the process. Out: violations, a line for each.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from support.running import balance

MAX_MIB = 400
GROWTH_MIB = 60
"""How much more memory a process may have at its end than at `WARM_SECONDS`."""
WARM_SECONDS = 60.0
MORE_DESCRIPTORS = 12
MORE_THREADS = 8
"""Beyond those after the start: `asyncio.to_thread` starts threads when they are needed first."""


class Sample(msgspec.Struct):
    """A process at a time; `is_calm` if no fault is under way."""

    seconds: float
    """Since the begin of the soak."""
    process: int
    """The number of the process: each start is another one."""
    mib: float
    descriptors: int
    threads: int
    is_calm: bool


@dataclass(slots=True)
class RecordChecker:
    """Checks conservation and sequence while records come."""

    violations: list[str] = field(default_factory=list)
    records: int = 0
    runs: int = 0
    packets: int = 0
    rates: list[tuple[float, float]] = field(default_factory=list)
    """Packets a second of each window, by its end, seconds since the epoch."""
    dropped: int = 0
    """By the kernel."""
    overflowed: int = 0
    """Packets that are recorded without their flow."""
    unattributed: int = 0
    bytes: int = 0
    """Of all records."""
    seen: set[tuple[str, int]] = field(default_factory=set)
    """The run and the sequence of each record."""
    _run: str = ""
    _sequence: int = 0
    _recorded: int = 0
    _counted: int = 0

    def add(self, record: dict[str, Any]) -> None:
        """Check the next record of the file."""
        if record["run"] != self._run:
            self._run, self._sequence, self._recorded, self._counted = record["run"], 0, 0, 0
            self.runs += 1
        self._sequence += 1
        if record["sequence"] != self._sequence:
            self._report(f"sequence {record['sequence']} in place of {self._sequence}")
            self._sequence = record["sequence"]
        recorded, counted = balance([record])
        self._recorded += recorded
        self._counted += counted
        self.records += 1
        self.bytes += recorded
        self.seen.add((record["run"], record["sequence"]))
        if record["type"] == "stats":
            self._add_stats(record)
        else:
            self.unattributed += record["attribution"].get("none", 0)

    def _add_stats(self, record: dict[str, Any]) -> None:
        capture, attribution = record["capture"], record["attribution"]
        self.packets += capture["packets"]
        start, end = record["window"]["start_unix"], record["window"]["end_unix"]
        self.rates.append((end, capture["packets"] / max(end - start, 0.001)))
        self.dropped += capture["dropped"]["kernel"]
        self.overflowed += capture["overflowed"]["packets"]
        self.overflowed += attribution["overflowed"]["packets"]
        missing = self._counted - attribution["pending"]["bytes"] - self._recorded
        if missing:
            self._report(f"{missing} bytes are counted and in no record")
            self._recorded += missing  # each loss is reported once

    def _report(self, text: str) -> None:
        self.violations.append(f"run {self._run}: {text}")


def check_samples(samples: Sequence[Sample]) -> list[str]:
    """Return where memory, descriptors or threads grow."""
    found = []
    for number in sorted({one.process for one in samples}):
        mine = [one for one in samples if one.process == number]
        begun = mine[0].seconds
        if (most := max(one.mib for one in mine)) > MAX_MIB:
            found.append(f"process {number} had {most:.0f} MiB")
        warm = [one for one in mine if begun + WARM_SECONDS <= one.seconds < begun + 90]
        last = [one for one in mine if one.seconds > mine[-1].seconds - 30]
        if warm and last[0].seconds > warm[-1].seconds:
            growth = statistics.median(one.mib for one in last) - statistics.median(
                one.mib for one in warm
            )
            if growth > GROWTH_MIB:
                found.append(f"process {number} grew by {growth:.0f} MiB")
        calm = [one for one in mine if one.is_calm]
        if len(calm) < 2:
            continue
        for name, more in (("descriptors", MORE_DESCRIPTORS), ("threads", MORE_THREADS)):
            first, now = getattr(calm[0], name), getattr(calm[-1], name)
            if now > first + more:
                found.append(f"process {number} had {first} {name} and then {now}")
    return found

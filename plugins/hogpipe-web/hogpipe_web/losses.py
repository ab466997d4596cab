"""PURE: what is missing in the traffic of some windows, and what hogpipe itself needs.

In: stats records (docs/record.md), or the stats of a span of a history. Out: `Losses`, which add
up: counts are sums over the windows, the values below `pending_bytes` are those of the newest.
"""

from collections.abc import Iterable, Mapping

import msgspec

from hogpipe import StatsRecord
from hogpipe_web.dimensions import look_up


class Losses(msgspec.Struct, frozen=True, kw_only=True):
    """The counters of stats records that the page shows."""

    packets: int = 0
    dropped: int = 0
    """Packets that the kernel or an interface dropped before they were captured."""
    undecoded: int = 0
    events_lost: int = 0
    """Socket events that the kernel had no room for."""
    folded: int = 0
    """Groups of records that are part of the remainder."""
    cpu_seconds: float | None = None
    pending_bytes: int | None = None
    memory_bytes: int | None = None
    sink_dropped: int | None = None
    """Records that sinks dropped since the run began."""


_COUNTS = ("packets", "dropped", "undecoded", "events_lost", "folded")


def read_losses(records: Iterable[StatsRecord]) -> Losses | None:
    """Return the losses of the stats records of one window; None without any."""
    total = LossSum()
    for record in records:
        total.add(_read(record))
    return total.total()


class LossSum:
    """The losses of the windows of a ring; what is a state is that of the newest window."""

    def __init__(self) -> None:
        self._sums = dict.fromkeys(_COUNTS, 0)
        self._windows = 0
        self._cpu_seconds = 0.0
        self._newest = Losses()

    def add(self, losses: Losses) -> None:
        """Add those of a newer window."""
        self._change(losses, 1)
        self._newest = losses

    def remove(self, losses: Losses) -> None:
        """Remove those of the oldest window."""
        self._change(losses, -1)

    def total(self) -> Losses | None:
        """Return the sum; None if no window has any."""
        if not self._windows:
            return None
        cpu = None if self._newest.cpu_seconds is None else max(self._cpu_seconds, 0.0)
        return msgspec.structs.replace(self._newest, cpu_seconds=cpu, **self._sums)

    def _change(self, losses: Losses, sign: int) -> None:
        self._windows += sign
        self._cpu_seconds += sign * (losses.cpu_seconds or 0.0)
        for name in _COUNTS:
            self._sums[name] += sign * getattr(losses, name)


def read_capture(capture: Mapping[str, object]) -> Losses:
    """Return what a `capture` table has of these, of which zeros may be absent."""
    return Losses(
        packets=_number(capture, "packets"),
        dropped=_number(capture, "dropped", "kernel") + _number(capture, "dropped", "interface"),
        undecoded=_number(capture, "undecoded", "packets"),
    )


def _read(record: StatsRecord) -> Losses:
    capture = record["capture"]
    ledger = record["attribution"].get("ledger")
    own, sinks = record.get("self"), record.get("sinks")
    return Losses(
        packets=capture["packets"],
        dropped=capture["dropped"]["kernel"] + capture["dropped"]["interface"],
        undecoded=capture["undecoded"]["packets"],
        events_lost=ledger["events_lost"] if ledger else 0,
        folded=record["aggregation"]["folded_groups"],
        cpu_seconds=own["cpu"]["seconds"] if own else None,
        pending_bytes=record["attribution"]["pending"]["bytes"],
        memory_bytes=own["memory"]["bytes"] if own else None,
        sink_dropped=sum(sink["dropped"] for sink in sinks) if sinks is not None else None,
    )


def _number(table: Mapping[str, object], *path: str) -> int:
    found = look_up(table, path)
    return found if isinstance(found, int) else 0

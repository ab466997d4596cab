"""Reads ranges of time from the file of a sink `sqlite`, in a thread.

In: a query and a range. Out: `Past`, the same picture as a live `Snapshot`, in steps. Raises
HogpipeError for a history that cannot be read now or by this version (a locked, newer or damaged
one), BusyError while too many questions are queued, and ValueError for an impossible question.

The file is opened for each question, so that it may appear, be replaced or be upgraded meanwhile.
"""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from heapq import nlargest
from pathlib import Path

import msgspec

from hogpipe import HistoryReader
from hogpipe_web.dimensions import DIMENSIONS, Values, look_up
from hogpipe_web.losses import Losses, read_capture
from hogpipe_web.messages import REST_ID, Query, Row, Snapshot, describe_group
from hogpipe_web.ring import COUNTERS
from hogpipe_web.views import TOP

MOST_STEPS = 300
"""The most points of a chart."""
MOST_QUEUED = 8
_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400)
_LATEST_S = 1 << 36
_MEMBER_KEYS = ("process.pid", "process.creation.time")
"""Keys that only windows keep."""


class BusyError(Exception):
    """Too many questions are queued."""


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """A range of a history."""

    picture: Snapshot
    extent: tuple[float, float] | None
    """The first and the last moment of the whole history; None if it is empty."""
    step: float
    """The seconds between two points."""
    covered: float
    """How many seconds of the range were measured."""


class Archive:
    """Answers questions about the history at `path`, one at a time."""

    def __init__(self, path: Path, most_groups: int) -> None:
        self._path = path
        self._most_groups = most_groups
        self._thread = ThreadPoolExecutor(1, "hogpipe-web-history")
        self._queued = 0

    async def read(self, query: Query, since: float, until: float) -> Past:
        """Return the traffic of a range, in seconds since the epoch."""
        if not 0 <= since < until <= _LATEST_S:
            raise ValueError("since, until: not a range of time")
        if any(values[-1] for _name, values in query.where):
            raise ValueError("where: groups that are omitted live are not those of a history")
        if self._queued >= MOST_QUEUED:
            raise BusyError
        self._queued += 1
        try:
            loop = asyncio.get_running_loop()
            span = (round(since * 1000), round(until * 1000))
            future = loop.run_in_executor(self._thread, self._read, query, *span)
            future.add_done_callback(self._count_done)
        except BaseException:
            self._queued -= 1
            raise
        return await asyncio.shield(future)

    def close(self) -> None:
        """Answer nothing more; a question that is being answered is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _count_done(self, future: "asyncio.Future[Past]") -> None:
        self._queued -= 1
        if not future.cancelled():
            future.exception()  # whoever asked may be gone

    def _read(self, query: Query, since_ms: int, until_ms: int) -> Past:
        dimension = DIMENSIONS[query.by]
        selection = _Selection(query)
        members = any(
            key in _MEMBER_KEYS for name, _values in query.where for key in DIMENSIONS[name].keys
        )
        with HistoryReader(self._path) as reader:
            extent = reader.find_extent()
            step_ms = _choose_step(since_ms, until_ms, reader.find_resolution(since_ms, until_ms))
            series = reader.series(
                since_ms,
                until_ms,
                step_ms=step_ms,
                by=(*dimension.keys, "remainder"),
                where=selection,
                by_member=members,
            )
            coverage = reader.coverage(since_ms, until_ms)
        table = _PastTable()
        windows = []
        for point in series.points:
            start = max(point.start_ms, series.since_ms)
            windows.append((start / 1000, min(point.start_ms + step_ms, series.until_ms) / 1000))
            for row in point.rows:
                *picked, remainder = row.values
                key = None if remainder else (*(_as_value(value) for value in picked), None)
                totals = row.totals
                counts = (
                    totals.transmit_bytes, totals.receive_bytes, totals.listener,
                    totals.inferred, totals.none,
                )  # fmt: skip
                table.add(key, len(windows) - 1, counts)
        losses = read_capture(coverage.stats["capture"]) if coverage.stats else None
        return Past(
            picture=table.picture(
                query, windows, self._most_groups, losses, selection.list_present()
            ),
            extent=(extent[0] / 1000, extent[1] / 1000) if extent else None,
            step=step_ms / 1000,
            covered=coverage.covered_ms / 1000,
        )


class _PastTable:
    """The sums of a range: by group, and by group and step."""

    def __init__(self) -> None:
        self._sums: dict[Values | None, list[int]] = {}
        self._steps: dict[Values | None, dict[int, tuple[int, int]]] = {}

    def add(self, key: Values | None, step: int, counts: tuple[int, ...]) -> None:
        """Add the counters of a group in a step; the key None is the remainder."""
        sums = self._sums.setdefault(key, [0] * len(COUNTERS))
        for column, count in enumerate(counts):
            sums[column] += count
        known = self._steps.setdefault(key, {})
        transmit, receive = known.get(step, (0, 0))
        known[step] = (transmit + counts[0], receive + counts[1])

    def picture(
        self,
        query: Query,
        windows: list[tuple[float, float]],
        most: int,
        losses: Losses | None,
        present: list[str],
    ) -> Snapshot:
        """Return the whole picture; groups beyond `most` are part of the rest."""
        dimension = DIMENSIONS[query.by]
        named = [key for key in self._sums if key is not None and any(self._sums[key][:2])]
        kept = nlargest(most, named, key=lambda key: sum(self._sums[key][:2]))
        rest = [0] * len(COUNTERS)
        for key in self._sums.keys() - set(kept):
            for column, count in enumerate(self._sums[key]):
                rest[column] += count
        rows: list[Row] = [(number, 0, 0, *self._sums[key]) for number, key in enumerate(kept, 1)]
        if any(rest):
            rows.append((REST_ID, 0, 0, *rest))
        totals: tuple[list[int], list[int]] = ([0] * len(windows), [0] * len(windows))
        for steps in self._steps.values():
            for step, counts in steps.items():
                for side in (0, 1):
                    totals[side][step] += counts[side]
        sums = [0] * len(COUNTERS)
        for one in self._sums.values():
            sums = [total + count for total, count in zip(sums, one, strict=True)]
        return Snapshot(
            by=query.by,
            windows=windows,
            totals=totals,
            top=[
                (number, *self._list_steps(key, len(windows)))
                for number, key in enumerate(kept[:TOP], 1)
            ],
            groups=[describe_group(number, dimension, key) for number, key in enumerate(kept, 1)],
            rows=rows,
            sums=sums,
            losses=losses,
            present=present,
        )

    def _list_steps(self, key: Values | None, length: int) -> tuple[list[int], list[int]]:
        sides: tuple[list[int], list[int]] = ([0] * length, [0] * length)
        for step, counts in self._steps[key].items():
            for side in (0, 1):
                sides[side][step] = counts[side]
        return sides


def _choose_step(since_ms: int, until_ms: int, resolution_ms: int) -> int:
    """Return the shortest step with few enough points, none shorter than what is kept."""
    for step in _STEPS_S:
        step_ms = step * 1000
        if step_ms % resolution_ms == 0 and (until_ms - since_ms) / step_ms <= MOST_STEPS:
            return step_ms
    days = -(-(until_ms - since_ms) // (MOST_STEPS * 86_400_000))
    return days * 86_400_000


class _Selection:
    """Whether a query selects traffic, by its description; and which dimensions have values."""

    def __init__(self, query: Query) -> None:
        self._wanted = [
            (key.split("."), value)
            for name, values in query.where
            for key, value in zip(DIMENSIONS[name].keys, values[:-1], strict=True)
        ]
        self._absent = {key: key.split(".") for one in DIMENSIONS.values() for key in one.keys}
        self._present: set[str] = set()

    def __call__(self, description: Mapping[str, object]) -> bool:
        """Return whether traffic with this description is selected."""
        found = [
            key for key, path in self._absent.items() if look_up(description, path) is not None
        ]
        for key in found:
            del self._absent[key]
        self._present.update(found)
        if self._wanted and description.get("remainder"):
            return False
        return all(look_up(description, path) == value for path, value in self._wanted)

    def list_present(self) -> list[str]:
        """Return the dimensions of which there are values."""
        return [name for name, one in DIMENSIONS.items() if one.has_values(self._present)]


def _as_value(value: object) -> str | int | None:
    return value if isinstance(value, str | int) else None

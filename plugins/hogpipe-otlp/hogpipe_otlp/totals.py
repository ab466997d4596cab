"""PURE: deltas -> cumulative points, for collectors that take nothing else.

A total counts from when its series was first told. Only what a collector has taken is remembered,
so a window that is sent again gives the same points again.
"""

from collections.abc import Iterable, Sequence

from hogpipe_otlp.points import Point, Series


class RunningTotals:
    """The last cumulative point of each of at most `max_series` series.

    Beyond that, series are forgotten that moved longest ago. One that moves again begins anew, with
    a new start, which to a collector is a counter that was reset.
    """

    def __init__(self, max_series: int) -> None:
        self._max_series = max_series
        self._last: dict[Series, Point] = {}

    def total(self, points: Iterable[Point]) -> list[Point]:
        """Return the cumulative points that `points` lead to; nothing is remembered yet."""
        return [self._extend(self._last.get(point.series), point) for point in points]

    def remember(self, totals: Sequence[Point]) -> None:
        """Go on from `totals`, which a collector has taken."""
        for point in totals:
            self._last.pop(point.series, None)  # to the end: it moved last
            self._last[point.series] = point
        for series in list(self._last)[: max(0, len(self._last) - self._max_series)]:
            del self._last[series]

    @staticmethod
    def _extend(before: Point | None, point: Point) -> Point:
        if before is None:
            return point
        return point._replace(value=before.value + point.value, start_ns=before.start_ns)

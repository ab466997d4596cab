"""PURE: deltas -> cumulative points, for collectors that accept nothing else.

A total starts with the first point of its series. Only points that the collector accepted are
committed, so a window that is sent again gives the same points again.
"""

from collections.abc import Iterable, Sequence

from hogpipe_otlp.points import Point, Series


class RunningTotals:
    """The last cumulative point of each of at most `max_series` series.

    Beyond that, the series with the oldest traffic are evicted. An evicted series starts at zero
    again, with a new start time, which a collector treats as a counter reset.
    """

    def __init__(self, max_series: int) -> None:
        self._max_series = max_series
        self._last: dict[Series, Point] = {}

    def total(self, points: Iterable[Point]) -> list[Point]:
        """Return the cumulative points after `points`, without committing them."""
        return [self._extend(self._last.get(point.series), point) for point in points]

    def commit(self, totals: Sequence[Point]) -> None:
        """Continue from `totals`, which the collector accepted."""
        for point in totals:
            self._last.pop(point.series, None)  # to the end: the latest traffic
            self._last[point.series] = point
        for series in list(self._last)[: max(0, len(self._last) - self._max_series)]:
            del self._last[series]

    @staticmethod
    def _extend(before: Point | None, point: Point) -> Point:
        if before is None:
            return point
        return point.plus(before)._replace(start_ns=before.start_ns)

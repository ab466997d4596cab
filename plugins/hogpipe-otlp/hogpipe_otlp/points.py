"""PURE: data points, whose attributes are bytes as they are sent.

Such points are small and not tracked by the garbage collector, which would block the event loop if
a window has tens of thousands of them.
"""

from typing import NamedTuple

Series = tuple[str, bytes, bytes]
"""The identity of a series: its metric, its resource and its attributes, the latter encoded."""


class Point(NamedTuple):
    """A value from `start_ns` to `end_ns` (nanoseconds since the epoch)."""

    metric: str
    resource: bytes
    attributes: bytes
    value: int
    """Of a histogram the sum of its observations, in microseconds."""
    start_ns: int
    end_ns: int
    observed: int = 0
    """Of a histogram, how many observations there were."""
    least: int = 0
    """Of a histogram, the least observation in microseconds; 0 if it is unknown."""

    @property
    def series(self) -> Series:
        """The series of the point."""
        return self.metric, self.resource, self.attributes

    def plus(self, other: "Point") -> "Point":
        """Return this point with the counters of both."""
        least = min(self.least, other.least) or self.least or other.least
        return self._replace(
            value=self.value + other.value,
            observed=self.observed + other.observed,
            least=least,
        )

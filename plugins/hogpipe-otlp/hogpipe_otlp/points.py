"""PURE: data points, whose attributes are bytes as they are sent.

Such points are small and not tracked by the garbage collector, which would block the event loop if
a window has tens of thousands of them.
"""

from typing import NamedTuple

Series = tuple[bytes, bytes]
"""The identity of a series: its resource and its attributes, each encoded."""


class Point(NamedTuple):
    """The bytes of one direction, from `start_ns` to `end_ns` (nanoseconds since the epoch)."""

    resource: bytes
    attributes: bytes
    value: int
    start_ns: int
    end_ns: int

    @property
    def series(self) -> Series:
        """The series of the point."""
        return self.resource, self.attributes

"""PURE: data points, with what they are known by in the bytes that go out.

So they are small, and no work for the garbage collector, which would hold up the event loop when a
window has tens of thousands of them.
"""

from typing import NamedTuple

Series = tuple[bytes, bytes]
"""What a series is known by: its resource and its own attributes, each encoded."""


class Point(NamedTuple):
    """Bytes of one direction, moved from `start_ns` to `end_ns` (nanoseconds since the epoch)."""

    resource: bytes
    attributes: bytes
    value: int
    start_ns: int
    end_ns: int

    @property
    def series(self) -> Series:
        """What it is a point of."""
        return self.resource, self.attributes

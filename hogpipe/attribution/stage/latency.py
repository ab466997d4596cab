"""PURE: how long look-ups let new flows wait, in memory that does not grow with them.

Times are counted by their size, eight sizes to each doubling, so that a median is right to a tenth.
"""

from collections import Counter
from math import log2

from hogpipe.model import Latency

_SIZES = 8  # to a doubling
_LEAST = 1e-6  # seconds; what is shorter counts as this


class LatencyMeter:
    """Takes times up, and tells of them."""

    def __init__(self) -> None:
        self._sizes: Counter[int] = Counter()
        self._longest = 0.0

    def add(self, seconds: float) -> None:
        """Take up one time."""
        self._sizes[round(log2(max(seconds, _LEAST)) * _SIZES)] += 1
        self._longest = max(self._longest, seconds)

    def drain(self) -> Latency | None:
        """Return what the times since the last call amount to; None if there were none."""
        sizes, longest = self._sizes, self._longest
        if not sizes:
            return None
        self._sizes, self._longest = Counter(), 0.0
        half = (sizes.total() + 1) // 2
        for size in sorted(sizes):
            half -= sizes[size]
            if half <= 0:
                break
        return Latency(min(2 ** (size / _SIZES), longest), longest)

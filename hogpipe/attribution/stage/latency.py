"""PURE: the time from a flow's first packets to its first answer, in constant memory.

Times are counted by magnitude, eight classes to each doubling, so that the median is within ten
percent.
"""

from collections import Counter
from math import log2

from hogpipe.model import Latency

_CLASSES = 8  # to a doubling
_MIN_SECONDS = 1e-6  # shorter times count as this


class LatencyMeter:
    """Measures the times of a window."""

    def __init__(self) -> None:
        self._classes: Counter[int] = Counter()
        self._longest = 0.0
        self._last, self._last_class = 0.0, _class_of(0.0)

    def add(self, seconds: float) -> None:
        """Add one time. Flows that came in one batch have the same."""
        if seconds != self._last:
            self._last, self._last_class = seconds, _class_of(seconds)
            self._longest = max(self._longest, seconds)
        self._classes[self._last_class] += 1

    def drain(self) -> Latency | None:
        """Return the median and the longest time since the last call; None if there was none."""
        classes, longest = self._classes, self._longest
        if not classes:
            return None
        self._classes, self._longest = Counter(), 0.0
        self._last, self._last_class = 0.0, _class_of(0.0)
        remaining = (classes.total() + 1) // 2
        for one in sorted(classes):
            remaining -= classes[one]
            if remaining <= 0:
                break
        return Latency(min(2 ** (one / _CLASSES), longest), longest)


def _class_of(seconds: float) -> int:
    return round(log2(max(seconds, _MIN_SECONDS)) * _CLASSES)

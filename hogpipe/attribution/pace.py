"""PURE: how long to gather new flows before they are looked up together, which costs less.

As long as sockets are still there when they are looked for, the pause grows; when some are gone it
shrinks, down to a few times the CPU time that a look-up takes. So connections that live long enough
are looked up in time, at no higher cost than that takes.
"""

_SHORTEST = 4.0  # of the CPU time of a look-up
_SHORT_BOUND, _LONGEST = 0.006, 0.025  # seconds
_GROWTH = 1.25
_TOLERATED = 0.02  # of the flows may be gone


class Pace:
    """Seconds of the caller's clock."""

    def __init__(self) -> None:
        self._pause = 0.0

    def next_pause(self, cpu_seconds: float, flows: int, gone: int) -> float:
        """Return how long to wait after a look-up for so many flows, of which some were gone."""
        shortest = min(_SHORTEST * cpu_seconds, _SHORT_BOUND)
        if gone > _TOLERATED * flows:
            self._pause = shortest
        elif flows:
            self._pause = min(max(self._pause, shortest) * _GROWTH, _LONGEST)
        return self._pause

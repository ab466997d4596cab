"""PURE: how early new flows have to be looked up, and so how long they may be gathered before.

Gathering makes look-ups cheap. As long as sockets are still there when they are looked for, the
pause between look-ups grows; when some are gone it shrinks to a few times the CPU time that one
takes, and grows again no further than to where that happened, for a while. Where nearly all are
gone, their connections are too short for any look-up, and nothing is gained by being early; but
look-ups go on often until it is known whose they are (`sampling`).
"""

_SHORTEST = 4.0  # times the CPU time of a look-up
_SHORT_BOUND, _IN_VAIN, _LONGEST = 0.006, 0.01, 0.025  # seconds
_GROWTH, _RECOVERY = 1.25, 1.02
_TOLERATED, _NEARLY_ALL = 0.02, 0.98  # of the flows are gone
_BELOW = 0.7  # of the pause at which sockets were gone


class Pace:
    """The pause after each look-up, in seconds."""

    def __init__(self) -> None:
        self._pause = 0.0
        self._ceiling = _LONGEST
        self.early = False
        """Whether sockets are lost if packets are not told of as soon as may be."""

    def next_pause(self, cpu_seconds: float, flows: int, gone: int, inferred: int = 0) -> float:
        """Return how long to wait after a look-up for so many flows.

        Of these the sockets of some were gone, and the owners of some of those were inferred.
        """
        if not flows:
            return self._pause
        shortest = min(_SHORTEST * cpu_seconds, _SHORT_BOUND)
        if gone >= _NEARLY_ALL * flows:
            self.early = False
            self._pause = _LONGEST if inferred >= _NEARLY_ALL * flows else _IN_VAIN
        elif gone > _TOLERATED * flows:
            self.early = True
            self._ceiling = max(shortest, _BELOW * self._pause)
            self._pause = shortest
        else:
            self._ceiling = min(self._ceiling * _RECOVERY, _LONGEST)
            self._pause = min(max(self._pause, shortest) * _GROWTH, self._ceiling)
            self.early = self.early and self._ceiling < _LONGEST
        return self._pause

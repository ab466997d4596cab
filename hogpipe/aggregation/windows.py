"""PURE: where windows begin and end. All times are nanoseconds since the epoch, given as arguments.

Windows begin at multiples of the interval, so that those of several hosts line up.
"""

from hogpipe.model import Span
from hogpipe.protocols import NANOSECONDS


class ClockWindows:
    """Windows of a live run: they follow a wall clock, which may be set while it runs.

    So does the time until a window ends: whoever waits for that has to ask again now and then.
    """

    def __init__(self, interval_ns: int, now_ns: int) -> None:
        self._interval_ns = interval_ns
        self._start_ns = now_ns

    def delay(self, now_ns: int) -> float:
        """Return the seconds until the open window is to be closed, 0 if it began in the future.

        The clock was set back then, and the end that the window should have had may be years away.
        """
        if now_ns < self._start_ns:
            return 0.0
        return max(0, self._floor(self._start_ns) + self._interval_ns - now_ns) / NANOSECONDS

    def close(self, now_ns: int, *, last: bool = False) -> Span:
        """End the window at the boundary that was reached last (the last window: now)."""
        boundary = now_ns if last else self._floor(now_ns)
        # No boundary since the start means that the clock was set back.
        end = boundary if boundary > self._start_ns else now_ns
        span = Span(min(self._start_ns, end), end)
        self._start_ns = end
        return span

    def _floor(self, time_ns: int) -> int:
        return time_ns - time_ns % self._interval_ns


class PacketWindows:
    """Windows of a replay: they follow packet time; those without a packet do not occur."""

    def __init__(self, interval_ns: int) -> None:
        self._interval_ns = interval_ns
        self._current: Span | None = None

    def advance(self, time_ns: int) -> Span | None:
        """Enter the window of `time_ns`; return the one that this ends, if any."""
        start = time_ns - time_ns % self._interval_ns
        ended = self._current
        if ended is not None and start < ended.end_ns:
            return None
        self._current = Span(start, start + self._interval_ns)
        return ended

    def close(self) -> Span | None:
        """Return the window that is still open, if any."""
        return self._current

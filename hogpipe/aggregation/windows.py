"""PURE: where windows begin and end. Times are nanoseconds since the epoch, given as arguments.

Windows begin at multiples of the interval, so that the windows of several hosts are aligned.
"""

from hogpipe.model import Span
from hogpipe.protocols import NANOSECONDS


class ClockWindows:
    """The windows of a live run, which follow the wall clock.

    The clock may be set during the run, so a caller that waits for the end of a window has to call
    `delay` again from time to time.

    The first window lasts for `first_ns`, if that is given, so that a reader gets something soon;
    up to twice as long if it then ends at a boundary, so that neither it nor the next one is tiny.
    """

    def __init__(self, interval_ns: int, now_ns: int, *, first_ns: int | None = None) -> None:
        self._interval_ns = interval_ns
        self._start_ns = now_ns
        self._first_ns = first_ns

    def delay(self, now_ns: int) -> float:
        """Return the seconds until the open window has to be closed.

        It is 0 if the window began in the future: the clock was set back, and the regular end may
        be years away.
        """
        if now_ns < self._start_ns:
            return 0.0
        end = self._floor(self._start_ns) + self._interval_ns
        if self._first_ns is not None:
            left = end - self._start_ns
            if not self._first_ns <= left <= 2 * self._first_ns:
                end = self._start_ns + self._first_ns
        return max(0, end - now_ns) / NANOSECONDS

    def close(self, now_ns: int, *, last: bool = False) -> Span:
        """End the window at the latest boundary, or now if it is the last window."""
        shortest, self._first_ns = self._first_ns or 1, None
        boundary = now_ns if last else self._floor(now_ns)
        # Without a boundary since the start, the window is the first, or the clock was set back.
        end = boundary if boundary - self._start_ns >= shortest else now_ns
        span = Span(min(self._start_ns, end), end)
        self._start_ns = end
        return span

    def set_interval(self, interval_ns: int) -> None:
        """Use another interval, for the open window too."""
        self._interval_ns = interval_ns

    def _floor(self, time_ns: int) -> int:
        return time_ns - time_ns % self._interval_ns


class PacketWindows:
    """The windows of a replay, which follow packet time; there is none without a packet."""

    def __init__(self, interval_ns: int) -> None:
        self._interval_ns = interval_ns
        self._current: Span | None = None

    def advance(self, time_ns: int) -> Span | None:
        """Open the window of `time_ns` if it is new, and return the window that this ends."""
        start = time_ns - time_ns % self._interval_ns
        ended = self._current
        if ended is not None and start < ended.end_ns:
            return None
        self._current = Span(start, start + self._interval_ns)
        return ended

    def close(self) -> Span | None:
        """Return the open window, if there is one."""
        return self._current

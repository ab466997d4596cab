"""PURE: how much CPU look-ups may take, as a token bucket.

Credit grows with time, at `share` CPU seconds a second, up to what `burst` seconds give. So a host
that was quiet is looked at at once, and one that is busy no more than its share allows on average.
"""


class CpuBudget:
    """`share` is that of one core; times are seconds of the caller's clock."""

    def __init__(self, share: float, now: float, *, burst: float = 1.0) -> None:
        self._share = share
        self._most = share * burst
        self._credit = self._most
        self._counted = now

    def spend(self, seconds: float, now: float) -> None:
        """Take `seconds` of CPU time off; the credit may fall below zero."""
        earned = (now - self._counted) * self._share
        self._credit = min(self._most, self._credit + earned) - seconds
        self._counted = now

    def ready_at(self) -> float:
        """Return when there is credit again: a time that has passed if there is some."""
        return self._counted - self._credit / self._share

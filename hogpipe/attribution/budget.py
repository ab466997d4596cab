"""PURE: the CPU budget of lookups, as a token bucket.

Credit grows by `share` CPU seconds a second, up to the credit of `burst` seconds. So a lookup after
a quiet time starts at once, and on a busy host lookups take no more than their share on average.
"""


class CpuBudget:
    """`share` is of one core; times are seconds of the caller's clock."""

    def __init__(self, share: float, now: float, *, burst: float = 1.0) -> None:
        self._share = share
        self._max_credit = share * burst
        self._credit = self._max_credit
        self._updated = now

    def spend(self, seconds: float, now: float) -> None:
        """Subtract `seconds` of CPU time; the credit may become negative."""
        self._credit = self.credit(now) - seconds
        self._updated = now

    def credit(self, now: float) -> float:
        """Return how many seconds of CPU time may be spent."""
        earned = (now - self._updated) * self._share
        return min(self._max_credit, self._credit + earned)

    def ready_at(self) -> float:
        """Return when the credit is no longer negative; a past time if it is not."""
        return self._updated - self._credit / self._share

"""What a run is asked from outside while it processes traffic: to stop, and to use other rules."""

import asyncio
import time
from collections.abc import Callable

# A stop must not take two seconds: queued batches get this long.
_INTAKE_SECONDS = 0.3


class StopRequest:
    """Whether the run was asked to stop; made in the event loop."""

    def __init__(self) -> None:
        self._requested = asyncio.Event()
        self._requested_at: float | None = None
        self.is_urgent = False
        """Whether no time is left for lookups."""

    def make(self, *, urgent: bool) -> None:
        """Ask the run to stop; may be called again."""
        if self._requested_at is None:
            self._requested_at = time.monotonic()
        self.is_urgent |= urgent
        self._requested.set()

    @property
    def is_made(self) -> bool:
        """Whether the run was asked to stop."""
        return self._requested.is_set()

    async def wait(self) -> None:
        """Wait until the run is asked to stop."""
        await self._requested.wait()

    def is_late(self) -> bool:
        """Return whether no time is left for flows that are not known."""
        if self._requested_at is None:
            return False
        return self.is_urgent or time.monotonic() - self._requested_at > _INTAKE_SECONDS


class RulesRequest:
    """Other rules for windows, to be used from the next one on; one request at a time.

    `wake` is set with each request, so that a task can wait for one and for other things.
    """

    def __init__(self, wake: asyncio.Event) -> None:
        self._wake = wake
        self._interval_ns = 0
        self._use: Callable[[], None] | None = None

    def make(self, interval_ns: int, use: Callable[[], None]) -> None:
        """Ask for windows of `interval_ns`, and for `use` to be called between two windows."""
        self._interval_ns, self._use = interval_ns, use
        self._wake.set()

    @property
    def is_made(self) -> bool:
        """Whether a request is to be fulfilled."""
        return self._use is not None

    def fulfil(self) -> int:
        """Fulfil the request: a window was closed, and nothing of the next one has come.

        Returns the interval.
        """
        use, self._use = self._use, None
        assert use is not None
        use()
        return self._interval_ns

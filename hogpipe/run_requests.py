"""What a run is asked from outside while it processes traffic: to stop."""

import asyncio
import time

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

"""The waits between tries: exponential, with full jitter, and cut short in a hurry."""

import asyncio
import random
from contextlib import suppress


class Backoff:
    """Each wait is random, up to a ceiling that doubles from `initial` to `maximum` seconds."""

    def __init__(self, initial: float, maximum: float, rng: random.Random) -> None:
        self._initial = min(initial, maximum)
        self._maximum = maximum
        self._rng = rng
        self._ceiling = self._initial
        self._hurry = asyncio.Event()

    async def wait(self) -> None:
        """Wait once; not at all, or no longer, after `hurry`."""
        delay = self._rng.uniform(0, self._ceiling)
        self._ceiling = min(self._ceiling * 2, self._maximum)
        with suppress(TimeoutError):  # that is how a wait ends
            async with asyncio.timeout(delay):
                await self._hurry.wait()

    def reset(self) -> None:
        """Begin anew with a short wait: something has worked."""
        self._ceiling = self._initial

    def hurry(self) -> None:
        """Cut the next wait short, or the one under way."""
        self._hurry.set()

    def take_time(self) -> None:
        """Forget about hurrying."""
        self._hurry.clear()

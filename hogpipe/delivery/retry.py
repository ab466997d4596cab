"""The delivery of one window in as many attempts as it takes, and the backoff between attempts.

In: a window and a sink that may fail. Out: counts of delivered and dropped records (health.py), and
the error that makes a further attempt worthwhile. Which records remain after an attempt is decided
by partial_delivery.py.

Backoff is exponential with full jitter: each wait is random, up to a ceiling that doubles from
`retry_initial` to `retry_max` seconds and returns to `retry_initial` with each success. `skip` cuts
a wait short, for the end of a run.
"""

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress

from hogpipe.delivery.health import Health
from hogpipe.delivery.isolation import IsolatedSink
from hogpipe.delivery.partial_delivery import PartialDelivery
from hogpipe.errors import DeliveryError, OutputClosedError
from hogpipe.records.schema import Record


class Backoff:
    """The waits between the attempts of one sink, of `initial` to `maximum` seconds."""

    def __init__(self, initial: float, maximum: float, rng: random.Random) -> None:
        self._initial = min(initial, maximum)
        self._maximum = maximum
        self._rng = rng
        self._ceiling = self._initial
        self._skipped = asyncio.Event()

    async def wait(self) -> None:
        """Wait once; `skip` ends the wait, and prevents it if it came before."""
        delay = self._rng.uniform(0, self._ceiling)
        self._ceiling = min(self._ceiling * 2, self._maximum)
        await self.pause(delay)

    async def pause(self, seconds: float) -> None:
        """Wait for so long, at most `maximum` seconds; `skip` ends the wait as it ends `wait`."""
        with suppress(TimeoutError):  # the time has passed
            async with asyncio.timeout(min(seconds, self._maximum)):
                await self._skipped.wait()

    def reset(self) -> None:
        """Return to the initial ceiling, after a success."""
        self._ceiling = self._initial

    def skip(self) -> None:
        """End the wait under way, or the next one."""
        self._skipped.set()

    def rearm(self) -> None:
        """Let the next wait take its time, whatever was skipped before."""
        self._skipped.clear()


class WindowDelivery:
    """Delivers one window after another; true while records of one remain to be delivered."""

    def __init__(self, sink: IsolatedSink, health: Health, backoff: Backoff) -> None:
        self._sink = sink
        self._health = health
        self._backoff = backoff
        self._window = PartialDelivery()

    def __len__(self) -> int:
        """Return how many records of the window remain."""
        return len(self._window)

    def begin(self, records: Sequence[Record]) -> None:
        """Begin with a window; the one before is delivered or dropped."""
        self._window = PartialDelivery(records)

    async def attempt(self) -> None:
        """Write what remains, once, and count the outcome.

        Raises the error of the sink if records remain that need a further attempt after a wait, and
        OutputClosedError.
        """
        error: Exception | None = None
        try:
            await self._sink.write(self._window.part)
        except OutputClosedError:
            raise
        except Exception as raised:  # noqa: BLE001 - a plugin may raise any error
            error = raised
        delivered, dropped = self._window.conclude(error)
        self._health.delivered += delivered
        if delivered or dropped:
            self._backoff.reset()
        if error is None:
            self._health.report_success()
        elif dropped:
            self._health.report_drop(error, dropped)
        if self._window and isinstance(error, OSError | DeliveryError):
            raise error

    def discard(self) -> None:
        """Discard what remains; the caller counts it."""
        self._window = PartialDelivery()

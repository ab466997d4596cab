"""One sink and all that keeps its troubles to itself: its outbox, its task, its retries.

Every record that is offered, or found in the spool, ends in exactly one count: delivered, dropped,
coalesced or queued.
"""

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import Executor

from hogpipe.delivery.backoff import Backoff
from hogpipe.delivery.coalescing import WaitingWindow
from hogpipe.delivery.disk_queue import make_queue
from hogpipe.delivery.health import Health
from hogpipe.delivery.isolation import IsolatedSink
from hogpipe.delivery.partial_delivery import PartialDelivery
from hogpipe.errors import ConfigurationError, DeliveryError, OutputClosedError
from hogpipe.records.schema import SinkInfo
from hogpipe.sinks.contract import Sink, SinkSettings
from hogpipe.sinks.plugin_errors import describe_bug
from hogpipe.text import printable

START_SECONDS = 0.5
"""How long the start of a run waits for a sink that is being opened."""


class SinkWorker:
    """Owns a sink from its first open to its close.

    `on_output_closed` is called once if the sink says that its reader has left. `helper` runs what
    would hold up the event loop.
    """

    def __init__(
        self,
        sink: Sink,
        settings: SinkSettings,
        on_output_closed: Callable[[], None],
        rng: random.Random,
        helper: Executor,
    ) -> None:
        self.name = printable(settings.name or settings.type)
        self._sink = IsolatedSink(sink, settings.write_timeout)
        self._type = settings.type
        self._on_output_closed = on_output_closed
        self._blocks = settings.when_full == "block"
        self._health = Health(self.name)
        self._outbox = make_queue(settings, self._health, self._settle, helper)
        self._in_flight = PartialDelivery()
        self._closing: asyncio.Task[None] | None = None
        self._ended = False
        self._reopen_asked = False
        self._backoff = Backoff(settings.retry_initial, settings.retry_max, rng)
        self._work = asyncio.Event()
        """Set when a window or a wish to reopen has come."""
        self._room = asyncio.Event()
        """Set unless whoever offers has to wait."""
        self._idle = asyncio.Event()
        """Set while nothing waits and nothing is being written."""
        self._settle()

    async def open(self) -> str | None:
        """Open the sink, or leave that to `run`; return why the run must not start, if so."""
        try:
            await self._outbox.open()
            await self._open(START_SECONDS)
        except OutputClosedError:
            self._end()
        except (OSError, DeliveryError) as error:
            self._health.note_failure(error)
        except ConfigurationError as error:
            return "\n".join(f"sink {self.name}: {problem}" for problem in error.problems)
        except Exception as error:  # noqa: BLE001 - a plugin may raise whatever it likes
            return f"sink {self.name}: cannot be opened: {describe_bug(error)}"
        return None

    def offer(self, window: WaitingWindow) -> None:
        """Let a window wait for the sink."""
        if self._ended or self._closing:
            self._health.dropped += len(window)
            return
        self._outbox.offer(window)
        self._settle()

    async def room(self) -> None:
        """Wait while the queue is full, for a sink that asks for it."""
        await self._room.wait()

    async def idle(self) -> None:
        """Wait until all is delivered."""
        await self._idle.wait()

    async def run(self) -> None:
        """Write what comes until cancelled or the output is closed, then close the sink."""
        try:
            while not (self._closing or self._ended):
                self._backoff.take_time()
                await self._step()
        except OutputClosedError:
            self._end()
        finally:
            await self.close()

    def reopen(self) -> None:
        """Have the sink reopened before its next write."""
        self._reopen_asked = self._sink.reopenable
        self._work.set()
        self._backoff.hurry()

    def stop_blocking(self) -> None:
        """Make nobody wait for room any more."""
        self._blocks = False
        self._settle()

    def finish(self) -> None:
        """Deliver what waits without delay: nothing more will come."""
        self._backoff.reset()
        self._backoff.hurry()
        self.stop_blocking()

    async def close(self) -> None:
        """Close the sink, once; what it has not taken stays counted as queued.

        Cancelled, that goes on: who closes it again waits for its end.
        """
        if self._closing is None:
            self.stop_blocking()
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    def left_over(self) -> str | None:
        """Return a line on what was not delivered, None if nothing."""
        lost = self._outbox.count_lost(len(self._in_flight))
        return self._health.describe_left_over(lost, self._outbox.kept)

    def health(self) -> SinkInfo:
        """Return how the sink stands; everything in records, `retries` in tries."""
        info: SinkInfo = {
            "name": self.name,
            "type": self._type,
            "queued": self._queued,
            "delivered": self._health.delivered,
            "dropped": self._health.dropped + self._outbox.dropped,
            "coalesced": self._outbox.coalesced,
            "retries": self._health.retries,
        }
        if self._health.last_error is not None:
            info["last_error"] = self._health.last_error
        if (spool := self._outbox.describe()) is not None:
            info["spool"] = spool
        return info

    @property
    def _queued(self) -> int:
        return self._outbox.queued + len(self._in_flight)

    async def _step(self) -> None:
        """Do the next thing that is due; raise nothing but OutputClosedError and cancellation."""
        try:
            if not self._sink.opened:
                await self._open()
            elif self._reopen_asked:
                await self._reopen()
            elif self._in_flight:
                await self._write()
            else:
                await self._next_window()
        except OutputClosedError:
            raise
        except Exception as error:  # noqa: BLE001 - a plugin may raise whatever it likes
            await self._pause(error)

    async def _open(self, patience: float | None = None) -> None:
        if await self._sink.open(patience):
            self._reopen_asked = False
            self._health.note_success()
            self._backoff.reset()

    async def _reopen(self) -> None:
        self._reopen_asked = False
        try:
            await self._sink.reopen()
        except Exception as error:  # noqa: BLE001 - what waits must not be dropped for it
            self._health.note_failure(error)

    async def _write(self) -> None:
        """Give the sink what is in flight, once; raises what makes another try worth while."""
        error: Exception | None = None
        try:
            await self._sink.write(self._in_flight.part)
        except OutputClosedError:
            raise
        except Exception as raised:  # noqa: BLE001 - RefusedError, or a bug in a plugin
            error = raised
        delivered, dropped = self._in_flight.settle(error)
        self._health.delivered += delivered
        if delivered or dropped:
            self._backoff.reset()
        if error is None:
            self._health.note_success()
        elif dropped:
            self._health.note_drop(error, dropped)
        if not self._in_flight:
            await self._outbox.done()
        self._settle()
        if self._in_flight and isinstance(error, OSError | DeliveryError):
            raise error

    async def _next_window(self) -> None:
        self._work.clear()
        self._in_flight = PartialDelivery(await self._outbox.next())
        self._settle()
        if not self._in_flight:
            await self._work.wait()

    async def _pause(self, error: Exception) -> None:
        """Wait before another try."""
        self._health.note_failure(error)
        await self._backoff.wait()
        self._health.retries += 1

    async def _close(self) -> None:
        try:
            await self._sink.close()
        except Exception as error:  # noqa: BLE001 - the other sinks are still to be closed
            self._health.note_unclosed(error)
        try:
            await self._outbox.close()
        except OSError as error:
            self._health.note_unclosed(error)

    def _end(self) -> None:
        """Take no more: whoever read this output has left, so nobody misses what waits."""
        self._ended = True
        self._health.dropped += self._outbox.abandon(len(self._in_flight))
        self._in_flight = PartialDelivery()
        self._settle()
        self._on_output_closed()

    def _settle(self) -> None:
        """Bring the events in line with the outbox."""
        _set_if(self._idle, condition=self._ended or not self._queued)
        _set_if(self._room, condition=not (self._blocks and self._outbox.full))
        if self._outbox.ready:
            self._work.set()


def _set_if(event: asyncio.Event, *, condition: bool) -> None:
    if condition:
        event.set()
    else:
        event.clear()

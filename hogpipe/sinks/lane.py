"""One sink and all that keeps its troubles to itself: its queue, its task, its retries.

Every record that is offered ends in exactly one count: delivered, dropped, coalesced or queued.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from hogpipe.errors import ConfigurationError, DeliveryError, OutputClosedError
from hogpipe.record import Record, SinkInfo
from hogpipe.sinks.backlog import Backlog
from hogpipe.sinks.health import Health
from hogpipe.sinks.protocol import Reopenable, Sink, SinkSettings
from hogpipe.text import describe_error, printable

START_SECONDS = 0.5
"""How long the start of a run waits for a sink that is being opened."""
OPEN_SECONDS = 5.0
"""How long an open or a reopen may take."""
CLOSE_SECONDS = 0.4
"""How long a close may take: whoever stops a run waits for it."""


class Lane:
    """Owns a sink from its first open to its close.

    `on_output_closed` is called once if the sink says that its reader has left.
    """

    def __init__(
        self,
        sink: Sink,
        settings: SinkSettings,
        on_output_closed: Callable[[], None],
        rng: random.Random,
    ) -> None:
        self.name = printable(settings.name or settings.type)
        self._sink = sink
        self._settings = settings
        self._on_output_closed = on_output_closed
        self._rng = rng
        self._blocks = settings.when_full == "block"
        self._backlog = Backlog(settings.queue_windows, settings.when_full)
        self._in_flight: Sequence[Record] = ()
        self._opening: asyncio.Task[None] | None = None
        self._opened = False
        self._closed = False
        self._ended = False
        self._reopen_asked = False
        self._health = Health(self.name)
        self._ceiling = 0.0
        """The longest that the next pause may be."""
        self._reset_ceiling()
        self._work = asyncio.Event()
        """Set when a window or a wish to reopen has come."""
        self._hurry = asyncio.Event()
        """Set to cut short the pause between two tries."""
        self._room = asyncio.Event()
        """Set unless whoever offers has to wait."""
        self._idle = asyncio.Event()
        """Set while nothing waits and nothing is being written."""
        self._settle()

    async def open(self) -> str | None:
        """Open the sink, or leave that to `run`; return why the run must not start, if so."""
        self._opening = self._start_opening()
        done, _late = await asyncio.wait({self._opening}, timeout=START_SECONDS)
        if not done:
            return None
        try:
            await self._open()
        except OutputClosedError:
            self._end()
        except (OSError, DeliveryError) as error:
            self._health.note_failure(error)
        except ConfigurationError as error:
            return "\n".join(f"sink {self.name}: {problem}" for problem in error.problems)
        except Exception as error:  # noqa: BLE001 - a plugin may raise whatever it likes
            return f"sink {self.name}: cannot be opened: {describe_error(error)}"
        return None

    def offer(self, records: Sequence[Record]) -> None:
        """Let a window wait for the sink."""
        if self._ended or self._closed:
            self._health.dropped += len(records)
            return
        self._backlog.push(records)
        self._settle()

    async def room(self) -> None:
        """Wait while the queue is full, if the sink is one to wait for."""
        await self._room.wait()

    async def idle(self) -> None:
        """Wait until nothing is left to deliver."""
        await self._idle.wait()

    async def run(self) -> None:
        """Write what comes until cancelled or the output is closed, then close the sink."""
        try:
            while not (self._closed or self._ended):
                self._hurry.clear()
                await self._step()
        except OutputClosedError:
            self._end()
        finally:
            await self.close()

    def reopen(self) -> None:
        """Have the sink reopened before its next write."""
        self._reopen_asked = isinstance(self._sink, Reopenable)
        self._work.set()
        self._hurry.set()

    def stop_blocking(self) -> None:
        """Make nobody wait for room any more."""
        self._blocks = False
        self._settle()

    def finish(self) -> None:
        """Deliver what waits without delay: nothing more will come."""
        self._reset_ceiling()
        self._hurry.set()
        self.stop_blocking()

    async def close(self) -> None:
        """Close the sink, once; what it has not taken stays counted as queued."""
        if self._closed:
            return
        self._closed = True
        self.stop_blocking()
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait({self._opening}, timeout=CLOSE_SECONDS)
        try:
            await self._call(self._sink.close(), CLOSE_SECONDS)
        except Exception as error:  # noqa: BLE001 - the other sinks are still to be closed
            self._health.note_unclosed(error)

    def left_over(self) -> str | None:
        """Return a line on what was not delivered, None if nothing."""
        queued = self._queued
        if not queued:
            return None
        last_error = self._health.last_error
        reason = f" (last error: {last_error})" if last_error else ""
        return f"sink {self.name}: {queued} records not delivered{reason}"

    def health(self) -> SinkInfo:
        """Return how the sink stands; everything in records, `retries` in tries."""
        info: SinkInfo = {
            "name": self.name,
            "type": self._settings.type,
            "queued": self._queued,
            "delivered": self._health.delivered,
            "dropped": self._health.dropped + self._backlog.dropped,
            "coalesced": self._backlog.coalesced,
            "retries": self._health.retries,
        }
        if self._health.last_error is not None:
            info["last_error"] = self._health.last_error
        return info

    @property
    def _queued(self) -> int:
        return self._backlog.queued + len(self._in_flight)

    async def _step(self) -> None:
        """Do the next thing that is due; raise nothing but OutputClosedError and cancellation."""
        try:
            if not self._opened:
                await self._open()
            elif self._reopen_asked:
                await self._reopen()
            elif self._in_flight:
                await self._call(self._sink.write(self._in_flight), self._settings.write_timeout)
                self._delivered()
            else:
                await self._next_window()
        except OutputClosedError:
            raise
        except (OSError, DeliveryError) as error:
            await self._pause(error)
        except Exception as error:  # noqa: BLE001 - RefusedError, or a bug in a plugin
            if self._opened:
                self._discard(error)
            else:
                await self._pause(error)

    def _start_opening(self) -> asyncio.Task[None]:
        return asyncio.create_task(self._call(self._sink.open(), OPEN_SECONDS))

    async def _open(self) -> None:
        """Open the sink; an open that is under way is waited for."""
        opening = self._opening = self._opening or self._start_opening()
        await asyncio.wait({opening})
        self._opening = None
        opening.result()
        self._opened = True
        self._reopen_asked = False
        self._health.note_success()
        self._reset_ceiling()

    async def _reopen(self) -> None:
        assert isinstance(self._sink, Reopenable)
        self._reopen_asked = False
        try:
            await self._call(self._sink.reopen(), OPEN_SECONDS)
        except Exception as error:  # noqa: BLE001 - what waits must not be dropped for it
            self._health.note_failure(error)

    async def _call(self, call: Awaitable[None], seconds: float) -> None:
        """Await what the sink does, within `seconds`; TimeoutError is an OSError."""
        try:
            async with asyncio.timeout(seconds) as limit:
                await call
        except TimeoutError as error:
            if limit.expired():
                raise TimeoutError(f"it took longer than {seconds:g} s") from error
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody cancelled us: the sink awaited something that was cancelled.
            raise RuntimeError("the sink was cancelled from within") from error
        except Exception:
            raise
        except BaseException as error:
            # SystemExit and the like are a plugin's own; they must not end the run.
            raise RuntimeError(f"the sink raised {describe_error(error)}") from error

    async def _next_window(self) -> None:
        self._work.clear()
        self._in_flight = self._backlog.pop()
        self._settle()
        if not self._in_flight:
            await self._work.wait()

    async def _pause(self, error: Exception) -> None:
        """Wait before another try: exponential back-off with full jitter."""
        self._health.note_failure(error)
        delay = self._rng.uniform(0, self._ceiling)
        self._ceiling = min(self._ceiling * 2, self._settings.retry_max)
        with suppress(TimeoutError):  # that is how a pause ends
            async with asyncio.timeout(delay):
                await self._hurry.wait()
        self._health.retries += 1

    def _reset_ceiling(self) -> None:
        self._ceiling = min(self._settings.retry_initial, self._settings.retry_max)

    def _delivered(self) -> None:
        self._health.note_success(len(self._in_flight))
        self._in_flight = ()
        self._reset_ceiling()
        self._settle()

    def _discard(self, error: Exception) -> None:
        self._health.note_drop(error, len(self._in_flight))
        self._in_flight = ()
        self._settle()

    def _end(self) -> None:
        """Take no more: whoever read this output has left, so nobody misses what waits."""
        self._ended = True
        self._health.dropped += self._queued
        self._in_flight = ()
        while self._backlog.pop():
            pass
        self._settle()
        self._on_output_closed()

    def _settle(self) -> None:
        """Bring the events in line with the queue."""
        _set_if(self._idle, condition=not self._queued)
        _set_if(self._room, condition=not (self._blocks and self._backlog.full))
        if self._backlog.queued:
            self._work.set()


def _set_if(event: asyncio.Event, *, condition: bool) -> None:
    if condition:
        event.set()
    else:
        event.clear()

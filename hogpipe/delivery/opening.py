"""The opening of a sink: with the run, later if it fails for now, and again on SIGHUP.

A run starts without a sink that fails for now (OSError, DeliveryError) or needs longer than
`START_SECONDS`: the task of the sink goes on opening it. A run does not start with a sink that can
never be opened (any other error). Once a run has started, every error is one for now.

The same holds for sinks that are added to a run (dispatch.py). If such a sink replaces another one,
which may use the same file, port or spool, an InUseError is no reason to refuse it: it is opened
again after the other one is closed.
"""

from collections.abc import Sequence

from hogpipe.delivery.health import Health
from hogpipe.delivery.isolation import IsolatedSink
from hogpipe.delivery.retry import Backoff
from hogpipe.delivery.window_queue import WindowQueue
from hogpipe.errors import ConfigurationError, DeliveryError, InUseError, OutputClosedError
from hogpipe.sinks.plugin_errors import describe_bug

START_SECONDS = 0.5
"""How long the start of a run waits for a sink that is being opened."""


class SinkOpening:
    """Opens and reopens one sink, after its queue."""

    def __init__(
        self, sink: IsolatedSink, queue: WindowQueue, health: Health, backoff: Backoff
    ) -> None:
        self._sink = sink
        self._queue = queue
        self._queue_opened = False
        self._health = health
        self._backoff = backoff
        self._reopen_requested = False

    @property
    def due(self) -> bool:
        """Whether the sink has to be opened or reopened before its next write."""
        return not self._sink.opened or self._reopen_requested

    async def start(self, *, replaces: bool) -> Sequence[str]:
        """Open the queue and the sink; return why the run must not start.

        With `replaces`, what another sink uses is left to `open_queue` and `run`. Raises
        OutputClosedError.
        """
        try:
            await self._queue.open()
            self._queue_opened = True
            await self._open(START_SECONDS)
        except OutputClosedError:
            raise
        except (OSError, DeliveryError) as error:
            self._health.report_failure(error)
        except ConfigurationError as error:
            if replaces and isinstance(error, InUseError):
                return ()
            return [f"sink {self._health.name}: {problem}" for problem in error.problems]
        except Exception as error:  # noqa: BLE001 - a plugin may raise any error
            return [f"sink {self._health.name}: cannot be opened: {describe_bug(error)}"]
        return ()

    async def open_queue(self) -> None:
        """Open the queue if it is not open; an error is one for now."""
        if not self._queue_opened:
            await self._queue.open(may_fail=True)
            self._queue_opened = True

    def request_reopen(self) -> None:
        """Have the sink reopened before its next write, if it has files to reopen."""
        self._reopen_requested = self._sink.reopenable

    async def run(self) -> None:
        """Open or reopen the sink, whichever is due; raises the error of an open."""
        if self._sink.opened:
            await self._reopen()
        else:
            await self._open()

    async def _open(self, patience: float | None = None) -> None:
        if await self._sink.open(patience):
            self._health.report_success()
            self._backoff.reset()

    async def _reopen(self) -> None:
        self._reopen_requested = False
        try:
            await self._sink.reopen()
        except Exception as error:  # noqa: BLE001 - no reason to drop the queued windows
            self._health.report_failure(error)

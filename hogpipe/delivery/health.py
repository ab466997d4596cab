"""The counts of one sink, and what the log reports of it.

The log has a line when a sink begins to fail and one when it recovers, not one for each attempt;
and one for the first records that are dropped by each kind of error.
"""

import logging

from hogpipe.delivery.window_queue import WindowQueue
from hogpipe.errors import HogpipeError
from hogpipe.records.schema import SinkInfo
from hogpipe.records.summary import RecordsLeft
from hogpipe.sinks.plugin_errors import describe_bug
from hogpipe.text import describe_error

log = logging.getLogger(__name__)


class Health:
    """Counts of one sink: `delivered` and `dropped` in records, `retries` in attempts."""

    def __init__(self, name: str, sink_type: str) -> None:
        self.name = name
        self._type = sink_type
        self.delivered = 0
        self.dropped = 0
        self.retries = 0
        self.last_error: str | None = None
        self._failing = False
        self._blocking_logged = False
        self._kinds_logged: set[type[Exception]] = set()

    def report_success(self) -> None:
        """Report that a call of the sink succeeded."""
        if self._failing:
            self._failing = False
            log.warning("sink %s: works again", self.name)

    def report_failure(self, error: Exception) -> None:
        """Report an error after which the call is retried."""
        self.last_error = describe_error(error)
        if not self._failing:
            self._failing = True
            log.warning("sink %s: fails, and is retried: %s", self.name, self.last_error)

    def report_drop(self, error: Exception, records: int) -> None:
        """Count records that are dropped because of `error`."""
        self.last_error = describe_error(error)
        self.dropped += records
        if type(error) not in self._kinds_logged:
            self._kinds_logged.add(type(error))
            reason = self.last_error if isinstance(error, HogpipeError) else describe_bug(error)
            log.error("sink %s: drops %d records: %s", self.name, records, reason)
            log.debug("sink %s: where it failed", self.name, exc_info=error)

    def report_spool_failure(self, error: Exception) -> None:
        """Report that the spool cannot be used, so that windows are queued in memory."""
        reason = describe_error(error)
        self.last_error = f"spool: {reason}"
        log.error("sink %s: its spool fails, windows stay in memory: %s", self.name, reason)

    def report_spool_success(self) -> None:
        """Report that the spool can be used again."""
        log.warning("sink %s: its spool works again", self.name)

    def report_blocking(self, place: str) -> None:
        """Report that a call blocks the event loop, with its place in the code, if known.

        The thread of the watch calls this, while the event loop is blocked.
        """
        self.last_error = f"blocks the event loop{place}"
        if not self._blocking_logged:
            self._blocking_logged = True
            log.error(
                "sink %s: %s, and so delays the whole run; make its blocking calls in a thread",
                self.name,
                self.last_error,
            )

    def report_close_failure(self, error: Exception) -> None:
        """Report that the sink or its spool could not be closed."""
        self.last_error = describe_error(error)
        log.warning("sink %s: cannot be closed: %s", self.name, self.last_error)

    def describe(self, queue: WindowQueue, in_flight: int) -> SinkInfo:
        """Return all counts of the sink, with those of its queue and of the window in flight."""
        info: SinkInfo = {
            "name": self.name,
            "type": self._type,
            "queued": queue.queued + in_flight,
            "delivered": self.delivered,
            "dropped": self.dropped + queue.dropped,
            "coalesced": queue.coalesced,
            "retries": self.retries,
        }
        if self.last_error is not None:
            info["last_error"] = self.last_error
        if (spool := queue.spool_info()) is not None:
            info["spool"] = spool
        return info

    def describe_end(
        self, queue: WindowQueue, in_flight: int, *, of_run: bool
    ) -> RecordsLeft | None:
        """Return what is left of the records at the end of a sink, None if nothing is.

        `of_run` says whether the run ends with it.
        """
        lost, saved = queue.count_unsaved(in_flight), queue.saved
        parts = [f"{lost} records not delivered"] if lost else []
        whose = "the next run" if of_run else "the next sink that uses it"
        parts += [f"{saved} records kept in its spool for {whose}"] if saved else []
        if not parts:
            return None
        reason = f" (last error: {self.last_error})" if self.last_error else ""
        return RecordsLeft(f"sink {self.name}: {', '.join(parts)}{reason}", lost)

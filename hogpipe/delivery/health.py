"""The counts of one sink, and what the log reports of it.

The log has a line when a sink begins to fail and one when it recovers, not one for each attempt;
and one for the first records that are dropped by each kind of error.
"""

import logging

from hogpipe.errors import HogpipeError
from hogpipe.sinks.plugin_errors import describe_bug
from hogpipe.text import describe_error

log = logging.getLogger(__name__)


class Health:
    """Counts of the sink `name`: `delivered` and `dropped` in records, `retries` in attempts."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.delivered = 0
        self.dropped = 0
        self.retries = 0
        self.last_error: str | None = None
        self._failing = False
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

    def report_close_failure(self, error: Exception) -> None:
        """Report that the sink or its spool could not be closed."""
        self.last_error = describe_error(error)
        log.warning("sink %s: cannot be closed: %s", self.name, self.last_error)

    def describe_end(self, lost: int, saved: int) -> str | None:
        """Return a line on the records left at the end of a run, None if there are none.

        `lost` are in memory only, `saved` are on disk.
        """
        parts = [f"{lost} records not delivered"] if lost else []
        parts += [f"{saved} records kept in its spool for the next run"] if saved else []
        if not parts:
            return None
        reason = f" (last error: {self.last_error})" if self.last_error else ""
        return f"sink {self.name}: {', '.join(parts)}{reason}"

"""How a sink fares: its counts, and what the log says of it.

The log tells when a sink begins to fail and when it recovers, not each try; and what makes it drop
records once for each kind of error.
"""

import logging

from hogpipe.errors import HogpipeError
from hogpipe.sinks.plugin_errors import describe_bug
from hogpipe.text import describe_error

log = logging.getLogger(__name__)


class Health:
    """Counts of one sink: `delivered` and `dropped` in records, `retries` in tries."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._failing = False
        self._kinds_logged: set[type[Exception]] = set()
        self.delivered = 0
        self.dropped = 0
        self.retries = 0
        self.last_error: str | None = None

    def note_success(self) -> None:
        """Note that the sink works."""
        if self._failing:
            self._failing = False
            log.warning("sink %s: works again", self._name)

    def note_failure(self, error: Exception) -> None:
        """Note what keeps the sink from working for now."""
        self.last_error = describe_error(error)
        if not self._failing:
            self._failing = True
            log.warning("sink %s: fails, is tried again: %s", self._name, self.last_error)

    def note_drop(self, error: Exception, records: int) -> None:
        """Count what `error` made us drop."""
        self.last_error = describe_error(error)
        self.dropped += records
        if type(error) not in self._kinds_logged:
            self._kinds_logged.add(type(error))
            told = self.last_error if isinstance(error, HogpipeError) else describe_bug(error)
            log.error("sink %s: drops %d records: %s", self._name, records, told)
            log.debug("sink %s: where it failed", self._name, exc_info=error)

    def note_spool_failure(self, error: Exception) -> None:
        """Note that windows wait in memory for now."""
        reason = describe_error(error)
        self.last_error = f"spool: {reason}"
        log.error("sink %s: its windows wait in memory only: %s", self._name, reason)

    def note_spool_works(self) -> None:
        """Note that windows are on disk again."""
        log.warning("sink %s: its spool works again", self._name)

    def note_unclosed(self, error: Exception) -> None:
        """Note that closing failed."""
        self.last_error = describe_error(error)
        log.warning("sink %s: cannot be closed: %s", self._name, self.last_error)

    def describe_left_over(self, lost: int, kept: int) -> str | None:
        """Return a line on so many records that a run leaves, `kept` on disk; None if none."""
        parts = [f"{lost} records not delivered"] if lost else []
        parts += [f"{kept} records kept in its spool for the next run"] if kept else []
        if not parts:
            return None
        reason = f" (last error: {self.last_error})" if self.last_error else ""
        return f"sink {self._name}: {', '.join(parts)}{reason}"

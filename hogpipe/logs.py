"""The lines of the log on the standard error output: text or JSON, with a time where none is added.

In: log records; `report_failure` and `report_error` take what ends a command. Out: a line for each.

    with the format json     an object: time, level, logger, message, exception (a traceback)
    into the journal         text after the priority, such as "<4>" (sd-daemon(3))
    of a run, into a file    text after the time (ISO 8601 in UTC)
    otherwise                text

A file is everything but a terminal; the format is read with the configuration of a run. Text names
the level, except that of notices and of what ends a command. Whatever the format, no text of a
record begins another line or controls a terminal.

Known limit: what a plugin prints or writes to the descriptor is not formatted.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import Literal

from hogpipe.errors import HogpipeError
from hogpipe.text import NOTICE, printable

log = logging.getLogger("hogpipe")

_LEVELS = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    NOTICE: "notice",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "critical",
}
# Those of syslog(3).
_PRIORITIES = {"debug": 7, "info": 6, "notice": 5, "warning": 4, "error": 3, "critical": 2}

Prefix = Literal["none", "time", "priority"]
"""What is before a line of text."""


def set_up_logging(environ: Mapping[str, str]) -> None:
    """Log notices and what is above, as text without times."""
    handler = logging.StreamHandler()
    handler.setFormatter(TextFormatter("priority" if _is_journal(environ) else "none"))
    logging.basicConfig(level=NOTICE, handlers=[handler])


def use_format(chosen: Literal["text", "json"], environ: Mapping[str, str]) -> None:
    """Format what is logged from now on, for a run with this setting and environment."""
    formatter = JsonFormatter() if chosen == "json" else TextFormatter(_choose_prefix(environ))
    for handler in logging.getLogger().handlers:
        handler.setFormatter(formatter)


def report_failure(text: str) -> None:
    """Log one line about what ends a command."""
    log.critical("%s", text)


def report_error(error: HogpipeError) -> int:
    """Write one line for each problem of an error; return the exit code."""
    for line in str(error).split("\n"):
        report_failure(line)
    return error.exit_code


def _choose_prefix(environ: Mapping[str, str]) -> Prefix:
    if _is_journal(environ):
        return "priority"
    return "none" if sys.stderr is None or os.isatty(sys.stderr.fileno()) else "time"


def _is_journal(environ: Mapping[str, str]) -> bool:
    """Return whether the journal gets stderr (systemd.exec(5)).

    Its variable outlives a redirection, so the numbers of the file have to be compared.
    """
    if sys.stderr is None or "JOURNAL_STREAM" not in environ:
        return False
    status = os.fstat(sys.stderr.fileno())
    return environ["JOURNAL_STREAM"] == f"{status.st_dev}:{status.st_ino}"


class TextFormatter(logging.Formatter):
    """`hogpipe: WARNING: sink tcp: works again`, after a prefix."""

    def __init__(self, prefix: Prefix) -> None:
        super().__init__()
        self._prefix = prefix

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - of logging
        """Return the first line of a record; a traceback may follow."""
        is_plain = record.levelno in (NOTICE, logging.CRITICAL)
        level = "" if is_plain else f"{record.levelname}: "
        return f"{self._make_prefix(record)}hogpipe: {level}{printable(record.message)}"

    def _make_prefix(self, record: logging.LogRecord) -> str:
        match self._prefix:
            case "none":
                return ""
            case "time":
                return f"{_format_time(record)} "
            case "priority":
                return f"<{_PRIORITIES[_name_level(record)]}>"


class JsonFormatter(logging.Formatter):
    """One object of ASCII characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a line."""
        document = {
            "time": _format_time(record),
            "level": _name_level(record),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document)


def _name_level(record: logging.LogRecord) -> str:
    below = [level for level in _LEVELS if level <= record.levelno]
    return _LEVELS[max(below, default=logging.DEBUG)]


def _format_time(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"

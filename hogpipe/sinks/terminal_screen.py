"""A terminal on which one table replaces the other.

In: lines. Out: text that moves the cursor back to the first line of the table before, and writes
the new one there. The cursor rests below the table and is never hidden, so that the table stays
readable however the process ends.

A table is drawn below the one before, which stays, if log lines may have been printed since then:
they are not overwritten. After a change of the terminal's size, lines may have been wrapped or cut;
the visible part of the screen is cleared then.

Known limit: what other programs print on the same terminal is overwritten by the next table, or
leaves a line of the table before.
"""

import logging
import os
import sys

from hogpipe.sinks.table_layout import measure

_WIDTH, _HEIGHT = 80, 24  # if the terminal reports none, or there is none
_UP, _ERASE_LINE, _ERASE_BELOW = "\r\x1b[{}A", "\x1b[K", "\x1b[J"
_ERASE_SCREEN = "\x1b[H\x1b[2J"
_UNABLE = frozenset({"", "dumb", "unknown"})
"""Values of TERM: the terminal is not known to have a cursor that moves."""


def can_move_cursor(descriptor: int) -> bool:
    """Return whether the descriptor is that of a terminal whose cursor can be moved."""
    return os.isatty(descriptor) and os.environ.get("TERM", "") not in _UNABLE


def read_size(descriptor: int) -> os.terminal_size:
    """Return columns and lines of a terminal, those of an ordinary one if it reports none."""
    try:
        size = os.get_terminal_size(descriptor)
    except OSError:  # no terminal, or one that hung up: the write will fail
        return os.terminal_size((_WIDTH, _HEIGHT))
    return os.terminal_size((size.columns or _WIDTH, size.lines or _HEIGHT))


class LogCounter(logging.Handler):
    """Counts the lines that are logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = 0

    def emit(self, _record: logging.LogRecord) -> None:
        """Count a line; nothing is written."""
        self.lines += 1


class TerminalScreen:
    """Replaces tables; `start` must have been called, and `stop` must follow."""

    def __init__(self) -> None:
        self._log = LogCounter()
        self._logged = 0
        self._drawn = 0
        """The lines of the table on the screen, above the cursor."""
        self._size = os.terminal_size((0, 0))

    def start(self) -> None:
        """Begin to watch for log lines, if they are printed on a terminal."""
        if sys.stderr is not None and sys.stderr.isatty():
            logging.getLogger().addHandler(self._log)

    def stop(self) -> None:
        """End what `start` began."""
        logging.getLogger().removeHandler(self._log)

    def replace(self, lines: list[str], size: os.terminal_size) -> str:
        """Return the text that replaces the table; `lines` fit `size`, which is the present one.

        Only the last lines are written if the terminal has fewer than there are.
        """
        lines = lines[-max(1, size.lines - 1) :]
        text = self._go_back(size)
        for line in lines:
            # At the right edge some terminals would erase the last character.
            text += line + (_ERASE_LINE if measure(line) < size.columns else "") + "\n"
        self._drawn, self._size = len(lines), size
        return text + _ERASE_BELOW

    def _go_back(self, size: os.terminal_size) -> str:
        logged, self._logged = self._logged, self._log.lines
        if not self._drawn or logged != self._logged:
            return ""
        if size != self._size:
            return _ERASE_SCREEN
        return _UP.format(self._drawn)

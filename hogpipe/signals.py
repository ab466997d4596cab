"""Signals of the command line, from the first line of the program on (docs/cli.md).

In: SIGINT and SIGTERM, which stop, and SIGHUP. Out: calls of `on_stop` and `on_hangup`, in the main
thread between two instructions of it, even while something blocks the event loop. A signal that
arrives before there is an action for it is kept until there is one. A stop that arrives
`STOP_SECONDS` or more after another that was not answered (`answer`) ends the process at once.

This module imports only what the interpreter has loaded or loads in a millisecond, so that the
handlers come before all other imports, which take half a second.

Known limit: before its first line, for some 20 ms, the program is the interpreter, whose signals
are those of any Python program: SIGTERM and SIGHUP end it without a line, SIGINT with a traceback.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

STOP_SECONDS = 2.0


class StopSignals:
    """Calls `on_stop` and `on_hangup` for the signals of this process, once `install` was called.

    Both are called again for each further signal.
    """

    def __init__(self) -> None:
        self._on_stop: Callable[[signal.Signals], object] | None = None
        self._on_hangup: Callable[[], object] | None = None
        self._unanswered_since: float | None = None
        """When the first stop arrived that was not answered."""
        self._is_answered = False
        self._kept: signal.Signals | None = None
        self._is_hangup_kept = False
        self.ignored: frozenset[signal.Signals] = frozenset()
        """Those that were ignored before, as nohup(1) and a shell in the background let them be."""

    def install(self) -> None:
        """Replace the handlers of this process; call it in the main thread."""
        before = {
            signal.SIGHUP: signal.signal(signal.SIGHUP, self._handle_hangup),
            signal.SIGINT: signal.signal(signal.SIGINT, self._handle_stop),
            signal.SIGTERM: signal.signal(signal.SIGTERM, self._handle_stop),
        }
        ignored = (number for number, handler in before.items() if handler is signal.SIG_IGN)
        self.ignored = frozenset(ignored)

    def set_stop_action(self, action: Callable[[signal.Signals], object]) -> None:
        """Call `action` for a stop from now on, and at once for one that was kept."""
        self._on_stop = action
        if self._kept is not None:
            kept, self._kept = self._kept, None
            action(kept)

    def set_hangup_action(self, action: Callable[[], object]) -> None:
        """Call `action` for SIGHUP from now on, and at once if there was one before."""
        self._on_hangup = action
        if self._is_hangup_kept:
            self._is_hangup_kept = False
            action()

    def answer(self) -> None:
        """Record that what was asked to stop is stopping, so that nothing blocks it.

        Only the first answer counts, as a second stop should take no time.
        """
        if not self._is_answered:
            self._is_answered, self._unanswered_since = True, None

    def _handle_stop(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._unanswered_since is None:
            self._unanswered_since = now
        elif now - self._unanswered_since > STOP_SECONDS:
            end_process("the run does not stop; process terminated", 1)
        if self._on_stop is None:
            self._kept = signal.Signals(number)
        else:
            self._on_stop(signal.Signals(number))

    def _handle_hangup(self, _number: int, _frame: FrameType | None) -> None:
        if self._on_hangup is None:
            self._is_hangup_kept = True
        else:
            self._on_hangup()


def exit_code_of(number: signal.Signals) -> int:
    """Return the exit code of a command that a signal ended, as shells have it."""
    return 128 + number


def end_process(line: str, code: int) -> NoReturn:
    """End the process at once, with a line on the standard error output, if that is open."""
    with suppress(OSError):
        os.write(2, f"hogpipe: {line}\n".encode())
    os._exit(code)

"""Waits for long work in a thread, with a progress bar on a terminal, until a signal.

In: a function that takes long, what returns its progress in percent, and what interrupts it. A
signal ends the command by SystemExit, at any place but one of `deferred`: the work is interrupted
and joined before the exception goes on, and temporary files are removed. The bar appears after a
second, and only if the standard error output is a terminal.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from signal import Signals
from typing import TextIO, TypeVar

import click

from hogpipe.signals import exit_code_of

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_PATIENCE = 1.0
_PACE = 0.1
_FULL = 100


class Waiter:
    """Waits for one piece of work after the other."""

    def __init__(self) -> None:
        self._defers = False
        self._deferred: Signals | None = None

    def stop(self, number: Signals) -> None:
        """End the command because of a signal (main thread)."""
        if self._defers:
            self._deferred = number
            return
        log.error("interrupted by %s", number.name)
        sys.exit(exit_code_of(number))

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let a signal wait for the end of the context."""
        self._defers = True
        try:
            yield
        finally:
            self._defers = False
        if self._deferred is not None:
            self.stop(self._deferred)

    def wait(
        self,
        work: Callable[[], Result],
        progress: Callable[[], float],
        interrupt: Callable[[], object],
    ) -> Result:
        """Return what `work` returns; it runs in a thread of its own."""
        with ThreadPoolExecutor(1, "report") as executor:
            started: list[Future[Result]] = []
            try:
                with self.deferred():  # a signal within would leave the work without interrupt
                    started.append(executor.submit(work))
                (future,) = started
                wait([future], _PATIENCE)
                # Not `sys.stderr`, which escapes what draws the bar (hogpipe.terminal).
                terminal = sys.__stderr__
                if not future.done() and terminal is not None and terminal.isatty():
                    _show(future, progress, terminal)
                return future.result()
            finally:
                while not all(one.done() for one in started):
                    interrupt()
                    wait(started, _PACE)


def _show(future: "Future[Result]", progress: Callable[[], float], terminal: TextIO) -> None:
    with click.progressbar(length=_FULL, label="reading", file=terminal) as bar:
        while not future.done():
            wait([future], _PACE)
            # Unknown progress is negative.
            bar.update(max(0, int(progress()) - bar.pos))
        bar.update(_FULL - bar.pos)

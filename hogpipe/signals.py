"""How a run is told to end, and how it ends: in time, whatever a sink is doing."""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn, TextIO

_PATIENCE = 2.0  # seconds that a run has to end by itself before another signal ends it


class StopSignals:
    """Lets SIGINT and SIGTERM call `action` on the running loop.

    The handlers are the interpreter's and not the loop's, so that they run even while something
    blocks the loop: one that comes after two seconds ends the process at once.
    """

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action
        self._loop = asyncio.get_running_loop()
        self._first: float | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def on_hangup(self, action: Callable[[], None]) -> None:
        """Let SIGHUP call `action`."""
        self._loop.add_signal_handler(signal.SIGHUP, action)

    def _act(self) -> None:
        self.action()  # the one that counts when the loop comes to it

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
        elif now - self._first > _PATIENCE:
            os.write(2, b"hogpipe: something does not let go; ended at once\n")
            os._exit(1)
        self._loop.call_soon_threadsafe(self._act)


def leave(code: int) -> NoReturn:
    """End the process without waiting for its threads.

    All that matters is done by now; a thread may hang in a disk or a name server that is gone, and
    the interpreter would wait for it.
    """
    logging.shutdown()
    streams: list[TextIO | None] = [sys.stdout, sys.stderr]
    for stream in streams:
        with suppress(OSError, ValueError):  # whoever read it has left
            if stream is not None:  # it was never open
                stream.flush()
    os._exit(code)

"""Ends what blocks the main thread, by an exception that is raised in it.

In: requests of other threads. Out: TimeoutError, raised between two instructions of the main
thread, or in a system call that it waits in: a signal interrupts that (PEP 475).

A request names what it is for, and is void once that is over: the signal may arrive later. A
signal that nobody requested does nothing.

Known limit: C code that neither returns nor waits in a system call of the interpreter goes on.
"""

import signal
from collections.abc import Callable
from threading import get_ident
from types import FrameType

_NUMBER = signal.SIGUSR2


class Interrupter:
    """Handles SIGUSR2 of this process from `install` on."""

    def __init__(self) -> None:
        self._main_thread = 0
        self._request: tuple[Callable[[], bool], str] | None = None

    def install(self) -> None:
        """Replace the handler of this process; call it in the main thread."""
        self._main_thread = get_ident()
        signal.signal(_NUMBER, self._handle)

    def interrupt(self, is_running: Callable[[], bool], text: str) -> None:
        """Raise TimeoutError with `text` in the main thread, if `is_running` returns true there."""
        self._request = is_running, text
        signal.pthread_kill(self._main_thread, _NUMBER)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        request, self._request = self._request, None
        if request is not None and request[0]():
            raise TimeoutError(request[1])

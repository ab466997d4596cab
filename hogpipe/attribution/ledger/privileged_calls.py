"""Calls with the rights of the thread that opened the ledger, from threads that have fewer.

In: functions. Out: what they return or raise. A thread that has the capability runs a function
itself. For any other thread one of its own does, which was started with the rights, and the caller
waits. Where the opener itself had no capability, nobody has, and every thread runs functions
itself; so it does after `close`.
"""

import threading
from collections.abc import Callable
from typing import TypeVar

from hogpipe.linux.capabilities import Capability, read_permitted
from hogpipe.threads import SerialExecutor

T = TypeVar("T")


class PrivilegedCalls:
    """Made in a thread with the rights; `limit_rights` leaves its thread those that calls need."""

    def __init__(self, capability: Capability, limit_rights: Callable[[], None]) -> None:
        self._capability = capability
        self._known = threading.local()
        self._lock = threading.Lock()
        self._executor: SerialExecutor | None = None
        if self._has_capability():
            self._executor = SerialExecutor("ledger-calls")
            self._executor.submit(limit_rights).result()

    def call(self, function: Callable[[], T]) -> T:
        """Return what `function` returns, and raise what it raises."""
        if self._has_capability():
            return function()
        with self._lock:
            future = None if self._executor is None else self._executor.submit(function)
        return function() if future is None else future.result()

    def close(self) -> None:
        """End the thread, after what it was called for."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)

    def _has_capability(self) -> bool:
        """Return whether the calling thread has it; threads drop it before they come here."""
        known: bool | None = getattr(self._known, "has_capability", None)
        if known is None:
            known = self._known.has_capability = self._capability in read_permitted()
        return known

"""A lock that goes to the thread that has waited for it, not back to the one that released it.

Python's own lock does not guarantee that: the thread that releases it keeps running and can take
the lock again before a waiting thread wakes up.
"""

import threading
from types import TracebackType


class FairLock:
    """A lock for `with`. A thread that waits gets it before the one that has just released it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = threading.Lock()
        """Held by the thread that waits for `_lock`; all others queue behind it."""

    def __enter__(self) -> None:
        with self._next:
            self._lock.acquire()

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._lock.release()

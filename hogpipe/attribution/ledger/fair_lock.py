"""A lock for one who has it most of the time, and others who need it soon."""

import threading
from types import TracebackType


class FairLock:
    """A lock that whoever waits for it gets before whoever has just let go of it.

    Python's own goes to the thread that runs, which is the one that let go.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = threading.Lock()
        """Held by whoever waits for the lock, so that others wait behind."""

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

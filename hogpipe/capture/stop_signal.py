"""A flag that another thread sets to end a wait in poll(2)."""

import os
import threading
from contextlib import suppress


class StopSignal:
    """A flag with a descriptor that polls as readable once the flag is set.

    `set` may be called from any thread, before `open`, and while another thread calls `close`.
    """

    def __init__(self) -> None:
        self._flag = threading.Event()
        self._lock = threading.Lock()
        self._descriptor: int | None = None

    def open(self) -> None:
        """Make the descriptor. Raises OSError."""
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """Return the descriptor, which is open until `close`."""
        assert self._descriptor is not None
        return self._descriptor

    def is_set(self) -> bool:
        """Return whether `set` was called, whether or not the descriptor is open."""
        return self._flag.is_set()

    def set(self) -> None:
        """Set the flag for good."""
        with self._lock:
            self._flag.set()
            if self._descriptor is not None:
                os.eventfd_write(self._descriptor, 1)

    def wake(self) -> None:
        """End the present wait, or the next one, and leave the flag as it is."""
        with self._lock:
            if self._descriptor is not None:
                os.eventfd_write(self._descriptor, 1)

    def rearm(self) -> None:
        """Let further waits last, once the flag and the reason of `wake` have been looked at."""
        with suppress(BlockingIOError):  # neither was there
            os.eventfd_read(self.fileno())

    def close(self) -> None:
        """Close the descriptor. May be called again."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

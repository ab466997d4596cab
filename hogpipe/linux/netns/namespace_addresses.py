"""Which other network namespaces have an address, captured or not.

In: addresses, one at a time. Out: the inodes of the namespaces that have it. Reads the addresses of
all namespaces that a process is in, as one snapshot, when an address is unknown or the snapshot is
older than `_MAX_AGE`.

Cost follows the addresses that are asked about. Reading a namespace takes 0.05 ms of CPU. A
snapshot is taken once in `_MIN_PAUSE` at most, and so seldom that it takes 2 % of a core.

Known limit: an address that a namespace got since the last snapshot may be unknown until the pause
is over.
"""

import time
from collections.abc import Callable
from pathlib import Path

from hogpipe.linux.netns.namespace_processes import NamespaceProcesses
from hogpipe.linux.procfs_addresses import read_local_addresses

_MAX_AGE = 5.0  # seconds
_MIN_PAUSE = 1.0
_PAUSE_FACTOR = 50  # of the CPU time of the last snapshot


class NamespaceAddresses:
    """The addresses of the namespaces of `processes`. For one thread at a time.

    `clock` returns seconds.
    """

    def __init__(
        self,
        procfs: Path,
        processes: NamespaceProcesses,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._procfs = procfs
        self._processes = processes
        self._clock = clock
        self._namespaces: dict[bytes, tuple[int, ...]] = {}
        """By address."""
        self._read_at = self._next_at = float("-inf")

    def find(self, address: bytes) -> tuple[int, ...]:
        """Return the other namespaces that have an address. Raises OSError like `refresh`."""
        now = self._clock()
        is_old = now - self._read_at > _MAX_AGE
        if (is_old or address not in self._namespaces) and now >= self._next_at:
            self._read(now)
        return self._namespaces.get(address, ())

    def _read(self, now: float) -> None:
        started = time.thread_time()
        self._processes.refresh(now)
        self._namespaces = {}
        for namespace in list(self._processes.by_namespace()):
            pid = self._processes.find_process(namespace)
            if pid is None:
                continue
            for address in read_local_addresses(self._procfs, pid).addresses:
                self._namespaces[address] = (*self._namespaces.get(address, ()), namespace)
        self._read_at = now
        spent = time.thread_time() - started
        self._next_at = now + max(_MIN_PAUSE, _PAUSE_FACTOR * spent)

"""Which processes are in which network namespace, as a /proc tells it.

A namespace is known by the inode of /proc/PID/ns/net, which the kernel gives away anew once the
namespace is gone. To see it takes the same right as tracing the process (proc(5),
PTRACE_MODE_READ_FSCREDS): what the kernel hides is not there for us, and so is a namespace that no
process is in. /proc/PID shows a process's first thread; others may be elsewhere and are not seen.

Cost follows change: of the processes that were there before only some are looked at again.
"""

import os
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

_LINK = re.compile(rb"net:\[(\d+)\]")
_OWN = Path("/proc/thread-self/ns/net")
# A container's first process enters its namespace soon after it was made.
_YOUNG_SECONDS = 3.0
_RECHECK_SECONDS = 1.0
_RECHECKED_SHARE = 16
_RECHECKED_LEAST = 64


def parse_namespace(target: bytes) -> int | None:
    """Return the inode in the target of a link /proc/PID/ns/net, `net:[4026531840]`."""
    match = _LINK.fullmatch(target)
    return int(match[1]) if match else None


def read_own_namespace() -> int | None:
    """Return the namespace that this thread is in, None where no /proc tells it."""
    return _read_namespace(os.fsencode(_OWN))


def shows_own_namespace(procfs: Path) -> bool:
    """Tell whether the tables of `procfs` are of the network namespace of this very thread."""
    try:
        return (procfs / "self" / "ns" / "net").samefile(_OWN)
    except OSError:
        return False  # a recorded tree, or a procfs that does not know us


def _read_namespace(path: bytes) -> int | None:
    try:
        return parse_namespace(os.readlink(path))  # noqa: PTH115 (bytes, for each process)
    except OSError:
        return None  # gone, a zombie, hidden, or a tree without namespaces


class NamespaceScan:
    """The processes of a /proc by network namespace; `own` is left out. For one thread at a time.

    Raises OSError in `refresh` where the processes cannot be listed.
    """

    def __init__(self, procfs: Path, own: int | None) -> None:
        self._root = os.fsencode(procfs)
        self._own = own
        self._namespaces: dict[int, int | None] = {}
        """By pid, the one looked at longest ago first."""
        self._first_seen: dict[int, float] = {}
        """Of the young ones."""
        self._rechecked = float("-inf")
        self._pids: dict[int, list[int]] = {}

    def refresh(self, now: float, *, thorough: bool = False) -> None:
        """Look at what is new, and at some of what is not; `now` is in seconds.

        Of the latter at a sixteenth (64 processes at least) once a second, or each time if it is to
        be `thorough`: sixteen such looks have seen every process.
        """
        names = os.listdir(self._root)  # noqa: PTH208 (bytes, and no Path for each of thousands)
        present = {int(name) for name in names if name.isdigit()}
        for pid in self._namespaces.keys() - present:
            del self._namespaces[pid]
            self._first_seen.pop(pid, None)
        new = present - self._namespaces.keys()
        self._first_seen = {
            pid: seen for pid, seen in self._first_seen.items() if now - seen < _YOUNG_SECONDS
        } | dict.fromkeys(new, now)
        share = 0
        if thorough or now - self._rechecked >= _RECHECK_SECONDS:
            self._rechecked = now
            share = max(_RECHECKED_LEAST, -(-len(self._namespaces) // _RECHECKED_SHARE))
        self._look_at([*self._first_seen, *islice(self._namespaces, share)])
        self._pids = {}
        for pid, namespace in self._namespaces.items():
            if namespace is not None:
                self._pids.setdefault(namespace, []).append(pid)

    def namespaces(self) -> dict[int, list[int]]:
        """Return the processes of each namespace but our own, as the last refresh found them."""
        return self._pids

    def find_process(self, namespace: int) -> int | None:
        """Return a process that is in `namespace` now, None where none is known."""
        pids = self._pids.get(namespace, [])
        while pids:
            if self.is_in(pids[0], namespace):
                return pids[0]
            pids.pop(0)
        return None

    def is_in(self, pid: int, namespace: int) -> bool:
        """Tell whether the process is in `namespace` now."""
        return _read_namespace(self._path(pid)) == namespace

    def _look_at(self, pids: Iterable[int]) -> None:
        for pid in dict.fromkeys(pids):
            namespace = _read_namespace(self._path(pid))
            self._namespaces.pop(pid, None)  # to the end
            self._namespaces[pid] = None if namespace == self._own else namespace

    def _path(self, pid: int) -> bytes:
        return b"%b/%d/ns/net" % (self._root, pid)

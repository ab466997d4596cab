"""Which processes of a /proc are in which network namespace.

A namespace is known by the inode of /proc/PID/ns/net, which the kernel reuses once the namespace is
gone. Reading that link takes the same right as tracing the process (proc(5),
PTRACE_MODE_READ_FSCREDS).

Cost follows change: each refresh reads the links of new and young processes, and those of a share
of the older ones once a second.

Known limits: a namespace is not found if no process is in it, or if the kernel hides every process
that is. /proc/PID shows the namespace of a process's first thread only.
"""

import os
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from hogpipe.model import OWN_NAMESPACE

_LINK = re.compile(rb"net:\[(\d+)\]")
_OWN_LINK = Path("/proc/thread-self/ns/net")
# A container's first process enters its namespace soon after the process was made.
_YOUNG_SECONDS = 3.0
_RECHECK_SECONDS = 1.0
_RECHECKED_SHARE = 16
_RECHECKED_LEAST = 64


def netns_path(procfs: Path, pid: int | str) -> Path:
    """Return the file of the network namespace that a process is in."""
    return procfs / str(pid) / "ns" / "net"


def parse_namespace(target: bytes) -> int | None:
    """Return the inode in the target of a link /proc/PID/ns/net, `net:[4026531840]`."""
    match = _LINK.fullmatch(target)
    return int(match[1]) if match else None


def read_own_namespace() -> int | None:
    """Return the inode of this thread's namespace; None without a /proc."""
    return _read_namespace(os.fsencode(_OWN_LINK))


def is_own_namespace(link: Path) -> bool:
    """Return whether a link `ns/net` leads to this thread's namespace. Raises OSError."""
    return link.samefile(_OWN_LINK)


def shows_own_namespace(procfs: Path) -> bool:
    """Return whether the socket tables of `procfs` are those of this thread's namespace."""
    try:
        return is_own_namespace(netns_path(procfs, "self"))
    except OSError:
        return False  # a recorded tree, or the procfs of a pid namespace that this one is not in


def _read_namespace(path: bytes) -> int | None:
    try:
        return parse_namespace(os.readlink(path))  # noqa: PTH115 (bytes, for each process)
    except OSError:
        return None  # gone, a zombie, hidden, or a tree without namespaces


class NamespaceProcesses:
    """The processes of a /proc by the inode of their network namespace, `own` left out.

    For one thread at a time. `refresh` raises OSError if the processes cannot be listed.
    """

    def __init__(self, procfs: Path, own: int | None) -> None:
        self._root = os.fsencode(procfs)
        self._own = own
        self._namespaces: dict[int, int | None] = {}
        """By pid; the least recently read first."""
        self._first_seen: dict[int, float] = {}
        """By pid, of young processes only."""
        self._rechecked = float("-inf")
        self._pids: dict[int, list[int]] = {}

    def refresh(self, now: float, *, thorough: bool = False) -> None:
        """Read the namespaces of new and young processes, and of a share of the older ones.

        The share is a sixteenth (at least 64 processes) once a second, or at each call if
        `thorough`: sixteen such calls cover every process. `now` is in seconds.
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
        self._read([*self._first_seen, *islice(self._namespaces, share)])
        self._pids = {}
        for pid, namespace in self._namespaces.items():
            if namespace is not None:
                self._pids.setdefault(namespace, []).append(pid)

    def by_namespace(self) -> dict[int, list[int]]:
        """Return the pids in each namespace but `own`, as of the last refresh."""
        return self._pids

    def find_namespace(self, pid: int) -> int | None:
        """Return the namespace that a process was last read to be in; None if it was not read.

        OWN_NAMESPACE for `own`, and for a process whose namespace the kernel does not show.
        """
        if pid not in self._namespaces:
            return None
        return self._namespaces[pid] or OWN_NAMESPACE

    def find_process(self, namespace: int) -> int | None:
        """Return the pid of a process that is still in `namespace`; None if none is known."""
        pids = self._pids.get(namespace, [])
        while pids:
            if self.is_in(pids[0], namespace):
                return pids[0]
            pids.pop(0)
        return None

    def is_in(self, pid: int, namespace: int) -> bool:
        """Return whether the process is in `namespace` now."""
        return _read_namespace(self._path(pid)) == namespace

    def _read(self, pids: Iterable[int]) -> None:
        for pid in dict.fromkeys(pids):
            namespace = _read_namespace(self._path(pid))
            self._namespaces.pop(pid, None)  # so that the pid moves to the end
            self._namespaces[pid] = None if namespace == self._own else namespace

    def _path(self, pid: int) -> bytes:
        return b"%b/%d/ns/net" % (self._root, pid)

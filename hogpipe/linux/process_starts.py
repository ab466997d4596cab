"""When the processes that the kernel names were started, which makes a pid an identity.

The kernel's hooks tell pids. /proc/PID/stat tells the start, of a process that is still there: it
is read when its pid is first named, and again from time to time. Of one that is gone by then what
was seen before holds, but not for long: the pid may have been another's meanwhile.
"""

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from hogpipe.linux.clocks import boot_clock
from hogpipe.protocols import NANOSECONDS

_RECHECK_SECONDS = 1.0
# Pids are given in turn: one that was free a moment ago is hardly another's yet.
_BELIEVED_NS = 10_000_000_000
_KEPT = 8192
# PF_KTHREAD of include/linux/sched.h, in the flags of /proc/PID/stat (proc(5), field 9).
_KERNEL_THREAD = 0x00200000
# PROC_PID_INIT_INO of include/linux/proc_ns.h: the host's own namespace of pids.
_HOST_PIDS = 0xEFFFFFFC


class Identified(msgspec.Struct, frozen=True, gc=False):
    """What is known of a pid at a time."""

    start: int | None
    """Clock ticks since boot; None if the process is gone, or its pid is another one's by now."""
    kernel_thread: bool = False


_UNKNOWN = Identified(None)


def parse_identity(data: bytes) -> Identified | None:
    """Parse /proc/PID/stat (proc(5)); None where it is malformed."""
    fields = data[data.rfind(b")") + 1 :].split()
    try:
        return Identified(int(fields[19]), bool(int(fields[6]) & _KERNEL_THREAD))
    except (ValueError, IndexError):
        return None


def shows_host_pids(procfs: Path) -> bool:
    """Return whether the pids of a procfs are those that the kernel's hooks tell.

    Where its first process is not for us to look at, they are taken to be so if our own pid is the
    host's. Also True for a /proc without namespaces.
    """
    for process in ("1", "self"):
        try:
            return (procfs / process / "ns" / "pid").stat().st_ino == _HOST_PIDS
        except PermissionError:
            continue
        except OSError:
            break
    return True


class _Seen(msgspec.Struct, eq=False, gc=False):
    identified: Identified
    seen_ns: int
    """When the process was there, nanoseconds since boot."""
    looked: float
    """When that was to be looked at last."""


class ProcessStarts:
    """Reads a procfs, in which pids must be those of the host. For one thread at a time.

    `boot_clock` gives nanoseconds since boot, as the kernel tells them.
    """

    def __init__(self, procfs: Path, boot_clock: Callable[[], int] = boot_clock) -> None:
        self._root = os.fsencode(procfs)
        self._boot_clock = boot_clock
        self._tick_ns = NANOSECONDS // os.sysconf("SC_CLK_TCK")
        self._known: dict[int, _Seen] = {}
        """The one looked at longest ago first."""
        self.missed = 0
        """Times that a process was gone before it could be looked at; the number only grows."""

    def identify(self, pid: int, boot_ns: int, now: float) -> Identified:
        """Return who `pid` was `boot_ns` after boot; `now` is the caller's clock in seconds."""
        before = self._known.get(pid)
        if before is not None and now - before.looked < _RECHECK_SECONDS:
            return self._as_of(before, boot_ns)
        seen = self._look(pid, before or _Seen(_UNKNOWN, 0, now), now)
        who = self._as_of(seen, boot_ns)
        if before is None or seen.identified.start is not None:
            self.missed += who is _UNKNOWN and seen.seen_ns < boot_ns
        return who

    def _look(self, pid: int, before: _Seen, now: float) -> _Seen:
        seen_ns, found = self._boot_clock(), self._read(pid)
        if found is None:
            seen_ns, found = before.seen_ns, before.identified
        self._known.pop(pid, None)
        seen = self._known[pid] = _Seen(found, seen_ns, now)
        if len(self._known) > _KEPT:
            del self._known[next(iter(self._known))]
        return seen

    def _as_of(self, seen: _Seen, boot_ns: int) -> Identified:
        """Return who was seen, unless the pid may have been another's at that time."""
        start = seen.identified.start
        if start is None or start * self._tick_ns > boot_ns:
            return _UNKNOWN
        return seen.identified if boot_ns - seen.seen_ns < _BELIEVED_NS else _UNKNOWN

    def _read(self, pid: int) -> Identified | None:
        try:
            with open(b"%b/%d/stat" % (self._root, pid), "rb", buffering=0) as file:  # noqa: PTH123 (bytes)
                return parse_identity(file.read())
        except OSError:
            return None  # gone, or hidden (hidepid): counted as `missed`

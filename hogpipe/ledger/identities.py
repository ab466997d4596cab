"""When the processes that the kernel names were started, which makes a pid an identity.

The kernel's hooks tell pids. /proc/PID/stat tells the start, of a process that is still there: it
is read when its pid is first named, and again from time to time.
"""

import os
from pathlib import Path

import msgspec

_RECHECK_SECONDS = 1.0
_KEPT = 8192
_NANOSECONDS = 1_000_000_000
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

    Also True where that is not to be seen: a /proc without namespaces, or without the right.
    """
    try:
        return (procfs / "1" / "ns" / "pid").stat().st_ino == _HOST_PIDS
    except OSError:
        return True


class ProcessStarts:
    """Reads a procfs, in which pids must be those of the host. For one thread at a time."""

    def __init__(self, procfs: Path) -> None:
        self._root = os.fsencode(procfs)
        self._tick_ns = _NANOSECONDS // os.sysconf("SC_CLK_TCK")
        self._known: dict[int, tuple[Identified, float]] = {}
        """With the time of the last look, the one looked at longest ago first."""
        self.missed = 0
        """Times that a process was gone before it could be looked at; the number only grows."""

    def identify(self, pid: int, boot_ns: int, now: float) -> Identified:
        """Return who `pid` was `boot_ns` after boot; `now` is the caller's clock in seconds."""
        kept = self._known.get(pid)
        if kept is not None and now - kept[1] < _RECHECK_SECONDS:
            return self._as_of(kept[0], boot_ns)
        found = self._read(pid)
        if found is None:
            if kept is None:
                self.missed += 1
                found = _UNKNOWN
            else:
                found = kept[0]  # it has just ended
        self._known.pop(pid, None)
        self._known[pid] = (found, now)
        if len(self._known) > _KEPT:
            del self._known[next(iter(self._known))]
        return self._as_of(found, boot_ns)

    def _as_of(self, found: Identified, boot_ns: int) -> Identified:
        """Return `found`, unless it started only after that time."""
        if found.start is None or found.start * self._tick_ns > boot_ns:
            return _UNKNOWN
        return found

    def _read(self, pid: int) -> Identified | None:
        try:
            with open(b"%b/%d/stat" % (self._root, pid), "rb", buffering=0) as file:  # noqa: PTH123 (bytes)
                return parse_identity(file.read())
        except OSError:
            return None  # gone, or hidden (hidepid): counted as `missed`

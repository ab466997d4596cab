"""Resources that this process uses: CPU time, memory, file descriptors. Source: proc(5)."""

import os
import re
import time
from pathlib import Path
from typing import TypedDict

from hogpipe.protocols import NANOSECONDS

_NUMBER = re.compile(r":\[\d+\]$")  # of a socket or a pipe
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Usage(TypedDict):
    """CPU seconds since the previous reading; resident bytes now."""

    cpu_seconds: float
    memory_bytes: int


class UsageMeter:
    """Measures the CPU time and the memory of this process."""

    def __init__(self) -> None:
        self._cpu_seconds = time.process_time()

    def read(self) -> Usage:
        """Return the usage since the last reading."""
        before, self._cpu_seconds = self._cpu_seconds, time.process_time()
        return {
            "cpu_seconds": self._cpu_seconds - before,
            "memory_bytes": _read_resident_bytes(),
        }


def _read_resident_bytes() -> int:
    """Return the resident set of this process: proc(5), second field of statm, in pages."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * _PAGE_BYTES
    except OSError:
        return 0  # no /proc is mounted; attribution.procfs may name another mount point


def read_run_delay() -> float:
    """Return for how many seconds this thread has waited for a CPU; 0 if the kernel counts none."""
    try:
        text = Path("/proc/thread-self/schedstat").read_text("ascii")
    except OSError:
        return 0.0
    return int(text.split()[1]) / NANOSECONDS


def read_descriptors() -> list[str]:
    """Return the target of each file descriptor of this process, such as `socket` or a path."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.append(_NUMBER.sub("", str(entry.readlink())))
        except OSError:  # the descriptor that listed the directory is already closed
            continue
    return found

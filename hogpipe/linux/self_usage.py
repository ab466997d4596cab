"""What hogpipe itself costs: CPU time and memory."""

import os
import time
from pathlib import Path
from typing import TypedDict

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Usage(TypedDict):
    """CPU seconds since the reading before; resident bytes now."""

    cpu_seconds: float
    memory_bytes: int


class UsageMeter:
    """Measures this process."""

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
        return 0  # no /proc is mounted here; the one to attribute by may be elsewhere

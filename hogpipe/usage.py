"""What hogpipe itself costs: CPU time, memory, and how long its event loop stood still."""

import asyncio
import os
import time
from pathlib import Path
from typing import TypedDict

_WATCH_SECONDS = 0.02
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Usage(TypedDict):
    """CPU seconds and the loop's longest delay since the reading before; resident bytes now."""

    cpu_seconds: float
    memory_bytes: int
    loop_delay_seconds: float


class UsageMeter:
    """Measures this process."""

    def __init__(self) -> None:
        self._cpu_seconds = time.process_time()
        self._longest_delay = 0.0

    async def watch_loop(self) -> None:
        """Measure, until cancelled, how late the event loop comes to what is due."""
        while True:
            due = time.monotonic() + _WATCH_SECONDS
            await asyncio.sleep(_WATCH_SECONDS)
            self._longest_delay = max(self._longest_delay, time.monotonic() - due)

    def read(self) -> Usage:
        """Return the usage since the last reading."""
        before, self._cpu_seconds = self._cpu_seconds, time.process_time()
        delay, self._longest_delay = self._longest_delay, 0.0
        return {
            "cpu_seconds": self._cpu_seconds - before,
            "memory_bytes": _read_resident_bytes(),
            "loop_delay_seconds": delay,
        }


def _read_resident_bytes() -> int:
    """Return the resident set of this process: proc(5), second field of statm, in pages."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * _PAGE_BYTES
    except OSError:
        return 0  # no /proc is mounted here; the one to attribute by may be elsewhere

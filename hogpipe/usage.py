"""What hogpipe itself costs: its CPU time and its memory."""

import os
import time
from pathlib import Path

from hogpipe.record import SelfInfo

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class UsageMeter:
    """Measures this process; the CPU time of each reading is that since the one before."""

    def __init__(self) -> None:
        self._cpu_seconds = time.process_time()

    def read(self) -> SelfInfo:
        """Return the CPU seconds since the last reading and the resident bytes now."""
        before, self._cpu_seconds = self._cpu_seconds, time.process_time()
        # proc(5): the second field of statm is the resident set in pages.
        resident = int(Path("/proc/self/statm").read_text("ascii").split()[1])
        return {
            "cpu": {"seconds": round(self._cpu_seconds - before, 6)},
            "memory": {"bytes": resident * _PAGE_BYTES},
        }

"""The clock of the kernel's events, and the offset from it to the clock of packets.

BPF programs record nanoseconds since boot (bpf_ktime_get_boot_ns); packets carry nanoseconds since
the epoch.
"""

import os
import time

from hogpipe.protocols import NANOSECONDS

TICK_NS = NANOSECONDS // os.sysconf("SC_CLK_TCK")
"""A tick of the clock that /proc/PID/stat has start times in, in nanoseconds."""

_MAX_READINGS = 8
_CLOSE_NS = 5_000
_FOREVER_NS = 1 << 62


def boot_clock() -> int:
    """Return nanoseconds since boot, suspension included (bpf_ktime_get_boot_ns)."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def read_boot_time() -> int:
    """Return when the host booted, nanoseconds since the epoch, accurate to some microseconds.

    Both clocks are read several times until a pair of readings is close enough. The result changes
    when the wall clock is set, so packets should be looked up soon after they passed.
    """
    closest, booted_ns = _FOREVER_NS, 0
    for _ in range(_MAX_READINGS):
        before = boot_clock()
        now = time.time_ns()
        took = boot_clock() - before
        if took < closest:
            closest, booted_ns = took, now - before - took // 2
        if closest <= _CLOSE_NS:
            break
    return booted_ns

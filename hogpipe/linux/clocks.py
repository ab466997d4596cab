"""The clock of the kernel's events, and when it began by that of packets."""

import time

_READ = 8  # times, at the most, until nothing comes between two readings
_CLOSE_NS = 5_000
_FOREVER_NS = 1 << 62


def boot_clock() -> int:
    """Return nanoseconds since boot, suspension included (bpf_ktime_get_boot_ns)."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def read_boot_time() -> int:
    """Return when the host was booted, nanoseconds since the epoch, to some microseconds.

    It moves when the clock is set, so packets are to be asked about soon after they passed.
    """
    closest, booted_ns = _FOREVER_NS, 0
    for _ in range(_READ):
        before = boot_clock()
        now = time.time_ns()
        took = boot_clock() - before
        if took < closest:
            closest, booted_ns = took, now - before - took // 2
        if closest <= _CLOSE_NS:
            break
    return booted_ns

"""kcmp(2): whether two threads have one table of fds.

In: the ids of two threads, in the pid namespace of the caller. Out: True, False, or None if the
kernel does not answer: it was built without CONFIG_KCMP, a seccomp filter or a missing
CAP_SYS_PTRACE refuses the call, or a thread has exited.
"""

import ctypes
import platform
from functools import cache

_KCMP_FILES = 2  # include/uapi/linux/kcmp.h
# The number of the system call: include/uapi/asm-generic/unistd.h, and x86's own table.
_NUMBERS = {"x86_64": 312, "aarch64": 272, "riscv64": 272, "loongarch64": 272}


def compare_fd_tables(first: int, second: int) -> bool | None:
    """Return whether two threads have one table of fds, None if the kernel does not answer."""
    number = _NUMBERS.get(platform.machine())
    if number is None:
        return None
    answer = _libc().syscall(number, first, second, _KCMP_FILES, 0, 0)
    return None if answer < 0 else answer == 0


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)

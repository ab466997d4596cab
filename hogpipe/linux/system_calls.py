"""System calls for which the C library has no function (syscall(2))."""

import ctypes
import os


def call_kernel(number: int, *arguments: object) -> int:
    """Return the result of a system call. Raises OSError.

    Integers are passed as long ones, other arguments as ctypes does.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *words))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result

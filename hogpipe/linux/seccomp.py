"""Denying system calls to a thread, by a filter that libseccomp makes.

In: names of system calls. A denied call fails with EPERM, in the calling thread and those that it
starts later, for good. A name that this machine does not know is left out.

The binding is as small as what is used of libseccomp 2.4 or later (seccomp.h): the one that comes
with it is for the Python of the distribution only, and the one on PyPI has had no release since
2021.
"""

import ctypes
import errno
import os
from collections.abc import Iterable
from ctypes import c_char_p, c_int, c_uint, c_uint32, c_void_p
from functools import cache

LIBRARY = "libseccomp.so.2"
_ALLOW = 0x7FFF0000
_FAIL = 0x00050000 | errno.EPERM
_NO_MITIGATION = 7  # SCMP_FLTATR_CTL_SSB: before Linux 5.16 a filter slows its thread down
_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "seccomp_init": (c_void_p, [c_uint32]),
    "seccomp_release": (None, [c_void_p]),
    "seccomp_attr_set": (c_int, [c_void_p, c_int, c_uint32]),
    "seccomp_syscall_resolve_name": (c_int, [c_char_p]),
    "seccomp_rule_add_array": (c_int, [c_void_p, c_uint32, c_int, c_uint, c_void_p]),
    "seccomp_load": (c_int, [c_void_p]),
}


def deny_calls(names: Iterable[str]) -> None:
    """Deny these system calls to this thread. Raises OSError, with nothing changed."""
    library = _load_library()
    rules = library.seccomp_init(_ALLOW)
    if not rules:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    try:
        library.seccomp_attr_set(rules, _NO_MITIGATION, 1)  # unknown before libseccomp 2.5
        for name in names:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number >= 0:
                _check(library.seccomp_rule_add_array(rules, _FAIL, number, 0, None))
        _check(library.seccomp_load(rules))
    finally:
        library.seccomp_release(rules)


def is_available() -> bool:
    """Return whether libseccomp can be loaded."""
    try:
        _load_library()
    except OSError:
        return False
    return True


@cache
def _load_library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise OSError(errno.ENOENT, f"{LIBRARY} cannot be loaded; install libseccomp2") from error
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _check(code: int) -> None:
    """Raise the error in the result of a function of libseccomp, if it is one."""
    if code < 0:
        raise OSError(-code, os.strerror(-code))

"""Denying system calls to a thread, by a filter that libseccomp makes.

In: names of system calls. A denied call fails with EPERM, in the calling thread and those that it
starts later, for good. A name that this machine does not know is left out.

New namespaces are always denied: `unshare`, and `clone` with a flag for one. `clone3` has its flags
in memory, which a filter cannot read, so it fails with ENOSYS as on Linux before 5.3, and the C
library calls `clone`.

The binding is as small as what is used of libseccomp 2.4 or later (seccomp.h): the one that comes
with it is for the Python of the distribution only, and the one on PyPI has had no release since
2021.
"""

import ctypes
import errno
import os
import platform
from collections.abc import Iterable
from ctypes import c_char_p, c_int, c_uint, c_uint32, c_uint64, c_void_p
from functools import cache

LIBRARY = "libseccomp.so.2"
_ALLOW = 0x7FFF0000
_FAIL = 0x00050000 | errno.EPERM
_UNKNOWN = 0x00050000 | errno.ENOSYS
_NO_MITIGATION = 7  # SCMP_FLTATR_CTL_SSB: before Linux 5.16 a filter slows its thread down
_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "seccomp_init": (c_void_p, [c_uint32]),
    "seccomp_release": (None, [c_void_p]),
    "seccomp_attr_set": (c_int, [c_void_p, c_int, c_uint32]),
    "seccomp_syscall_resolve_name": (c_int, [c_char_p]),
    "seccomp_rule_add_array": (c_int, [c_void_p, c_uint32, c_int, c_uint, c_void_p]),
    "seccomp_load": (c_int, [c_void_p]),
}

# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (linux/sched.h). The bit of
# CLONE_NEWTIME belongs to the signal in the flags of clone.
_NAMESPACE_FLAGS = (1 << 17, 1 << 25, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30)
_MASKED_EQUAL = 7  # SCMP_CMP_MASKED_EQ
_CLONE_FLAGS = 1 if platform.machine().startswith("s390") else 0  # CONFIG_CLONE_BACKWARDS2


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp: the condition of a rule, on one argument of the call."""

    _fields_ = (
        ("argument", c_uint),
        ("operator", c_int),
        ("mask", c_uint64),
        ("value", c_uint64),
    )


def deny_calls(names: Iterable[str]) -> None:
    """Deny these system calls, and new namespaces, to this thread.

    Raises OSError, with nothing changed.
    """
    library = _load_library()
    rules = library.seccomp_init(_ALLOW)
    if not rules:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    try:
        library.seccomp_attr_set(rules, _NO_MITIGATION, 1)  # unknown before libseccomp 2.5
        for name in (*names, "unshare"):
            _add_rule(library, rules, name, _FAIL)
        for flag in _NAMESPACE_FLAGS:
            is_set = _Comparison(_CLONE_FLAGS, _MASKED_EQUAL, flag, flag)
            _add_rule(library, rules, "clone", _FAIL, is_set)
        _add_rule(library, rules, "clone3", _UNKNOWN)
        _check(library.seccomp_load(rules))
    finally:
        library.seccomp_release(rules)


def _add_rule(
    library: ctypes.CDLL, rules: int, name: str, action: int, *conditions: _Comparison
) -> None:
    """Add a rule for a call, if this machine has it. Raises OSError."""
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number >= 0:
        array = (_Comparison * len(conditions))(*conditions)
        _check(library.seccomp_rule_add_array(rules, action, number, len(conditions), array))


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

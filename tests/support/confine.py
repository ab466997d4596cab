"""Run a program under the seccomp filters that systemd makes of a unit's keys.

    confine.py SYSTEM-CALLS ADDRESS-FAMILIES PROGRAM [ARGUMENT]...

SYSTEM-CALLS and ADDRESS-FAMILIES (numbers) are separated by commas; all others fail, with EPERM and
EAFNOSUPPORT. Nor may the program map memory that is both writable and executable, or create or
enter a namespace (MemoryDenyWriteExecute=, RestrictNamespaces=, systemd.exec(5)). Needs libseccomp
and no_new_privs, and nothing else, so that it runs with the Python of any root.
"""

import ctypes
import errno
import os
import sys

ALLOW, REFUSE = 0x7FFF0000, 0x00050000
LESS, EQUAL, GREATER, MASKED = 2, 4, 6, 7
WRITE, EXECUTE = 2, 4
NEW_NAMESPACES = (
    0x80,
    0x20000,
    0x2000000,
    0x4000000,
    0x8000000,
    0x10000000,
    0x20000000,
    0x40000000,
)


class Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


seccomp = ctypes.CDLL("libseccomp.so.2")
seccomp.seccomp_init.restype = ctypes.c_void_p


class Filter:
    """A filter, with what happens to system calls that no rule names."""

    def __init__(self, default: int) -> None:
        self._context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(default)))

    def add(self, action: int, name: str, *comparisons: Comparison) -> None:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            return  # not a system call of this architecture
        array = (Comparison * len(comparisons))(*comparisons)
        done = seccomp.seccomp_rule_add_array(
            self._context, ctypes.c_uint32(action), number, len(comparisons), array
        )
        assert done == 0, (name, done)

    def load(self) -> None:
        done = seccomp.seccomp_load(self._context)
        assert done == 0, os.strerror(-done)


def restrict_families(families: list[int]) -> None:
    """Refuse sockets of other address families."""
    rules = Filter(ALLOW)
    refuse = REFUSE | errno.EAFNOSUPPORT
    rules.add(refuse, "socket", Comparison(0, LESS, min(families)))
    rules.add(refuse, "socket", Comparison(0, GREATER, max(families)))
    for family in set(range(min(families), max(families))) - set(families):
        rules.add(refuse, "socket", Comparison(0, EQUAL, family))
    rules.load()


def restrict_memory_and_namespaces() -> None:
    rules = Filter(ALLOW)
    refuse = REFUSE | errno.EPERM
    both = WRITE | EXECUTE
    rules.add(refuse, "mmap", Comparison(2, MASKED, both, both))
    for name in ("mprotect", "pkey_mprotect"):
        rules.add(refuse, name, Comparison(2, MASKED, EXECUTE, EXECUTE))
    for flag in NEW_NAMESPACES:
        rules.add(refuse, "clone", Comparison(0, MASKED, flag, flag))
    for name in ("unshare", "setns"):
        rules.add(refuse, name)
    rules.add(REFUSE | errno.ENOSYS, "clone3")  # its flags are in memory; libc then calls clone
    rules.load()


def restrict_calls(names: list[str]) -> None:
    """Refuse all other system calls."""
    rules = Filter(REFUSE | errno.EPERM)
    for name in names:
        rules.add(ALLOW, name)
    rules.load()


if __name__ == "__main__":
    calls, families, *program = sys.argv[1:]
    restrict_families([int(family) for family in families.split(",")])
    restrict_memory_and_namespaces()
    restrict_calls(calls.split(","))
    os.execvp(program[0], program)

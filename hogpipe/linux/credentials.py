"""Giving up rights: the user, capabilities, new privileges, core dumps.

In: what is to be kept. Out: less rights than before; nothing here adds any that were not permitted.
All functions raise OSError where the kernel refuses.

Which threads
    The user and the groups change for all threads (libc sees to it), and so do dumps, which belong
    to the memory. Capabilities and `forbid_new_privileges` are those of the calling thread and of
    the threads that it starts later.

A process without dumps cannot be traced, nor its memory read, by others of its user, and its files
in /proc belong to root. Its own threads may open them all the same, except to list
/proc/self/fd and to read /proc/self/environ.

Sources: capabilities(7), capset(2), prctl(2), ptrace(2).
"""

import ctypes
import os
from collections.abc import Collection, Iterable

import msgspec

from hogpipe.linux.capabilities import Capability, read_permitted, write_permitted

# include/uapi/linux/prctl.h
_SET_DUMPABLE, _SET_KEEPCAPS, _CAPBSET_DROP, _SET_NO_NEW_PRIVS, _CAP_AMBIENT = 4, 8, 24, 38, 47
_AMBIENT_CLEAR_ALL = 4


class User(msgspec.Struct, frozen=True):
    """A user with the groups that a process of it has."""

    name: str
    """Its name, or its number if it has none."""
    uid: int
    gid: int
    groups: tuple[int, ...]


def switch_user(user: User) -> None:
    """Become `user` for good, and keep the permitted capabilities.

    The process may have no other threads, because those would lose their capabilities.
    """
    permitted = read_permitted()
    _prctl(_SET_KEEPCAPS, 1)
    os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    _prctl(_SET_KEEPCAPS, 0)
    write_permitted(permitted)


def limit_capabilities(kept: Collection[Capability]) -> None:
    """Drop all capabilities of this thread but those `kept` that it has, which become effective."""
    try:
        _prctl(_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
    finally:
        write_permitted(read_permitted() & {*kept})


def limit_bounding_set(kept: Collection[Capability], all_numbers: Iterable[int]) -> None:
    """Rule out that a program which this thread executes gets capabilities but those `kept`.

    `all_numbers` are those of all capabilities of this kernel. Needs CAP_SETPCAP.
    """
    for number in all_numbers:
        if number not in kept:
            _prctl(_CAPBSET_DROP, number)


def forbid_new_privileges() -> None:
    """Rule out that a program which this thread executes gets rights by its file (set-user-ID)."""
    _prctl(_SET_NO_NEW_PRIVS, 1)


def forbid_dumps() -> None:
    """Rule out core dumps of this process, and tracing by others of its user."""
    _prctl(_SET_DUMPABLE, 0)


def _prctl(option: int, argument: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    words = [ctypes.c_ulong(word) for word in (argument, 0, 0, 0)]
    if libc.prctl(option, *words) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))

"""Landlock: the folders that a thread may write below, and the ports that it may connect to.

In: paths and ports. Out: a thread, and those that it starts later, that can do no more, for good.
Reading and executing stay as they are. Raises OSError: ENOSYS and EOPNOTSUPP where the kernel has
no Landlock (before Linux 5.13) or does not use it.

Known limits
    - Before Linux 6.2 files may be truncated everywhere, and before 6.7 ports are not restricted.
    - Files that are open already, sockets of the file system, and UDP are not restricted.
    - A thread under Landlock may not read what takes the right to trace a process, whatever its
      capabilities: descriptors, namespaces and executables in /proc/PID.

Sources: landlock(7), include/uapi/linux/landlock.h.
"""

import errno
import os
import stat
import struct
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from hogpipe.linux.system_calls import call_kernel

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same on all machines
_VERSION_FLAG = 1
_PATH_RULE, _PORT_RULE = 1, 2
_WRITE_FILE, _TRUNCATE, _REFER, _CONNECT = 1 << 1, 1 << 14, 1 << 13, 1 << 1
# REMOVE_DIR, REMOVE_FILE, MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM
_CHANGE_FOLDER = sum(1 << bit for bit in (4, 5, 6, 7, 8, 9, 10, 11, 12))
_MOVING, _TRUNCATING, _CONNECTING = 2, 3, 4
"""The versions of the interface that added these."""


def read_version() -> int:
    """Return the version of the kernel's interface, 0 without Landlock."""
    try:
        return _call(_CREATE, None, 0, _VERSION_FLAG)
    except OSError:
        return 0


def restrict_thread(written: Iterable[Path], ports: Collection[int] | None = None) -> None:
    """Let this thread write to `written` and below only, and connect to TCP `ports` only.

    All ports if `ports` is None. Paths that do not exist have no effect. Needs no_new_privs.
    """
    version = _call(_CREATE, None, 0, _VERSION_FLAG)
    files = _WRITE_FILE | (_TRUNCATE if version >= _TRUNCATING else 0)
    folders = files | _CHANGE_FOLDER | (_REFER if version >= _MOVING else 0)
    connects = _CONNECT if ports is not None and version >= _CONNECTING else 0
    size = 16 if version >= _CONNECTING else 8
    rules = _call(_CREATE, struct.pack("=QQ", folders, connects), size, 0)
    try:
        for path in written:
            with suppress(FileNotFoundError):
                _allow_path(rules, path, files, folders)
        for port in (ports or ()) if connects else ():
            _call(_ADD, rules, _PORT_RULE, struct.pack("=QQ", _CONNECT, port), 0)
        _call(_RESTRICT, rules, 0)
    finally:
        os.close(rules)


def _allow_path(rules: int, path: Path, files: int, folders: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        rule = struct.pack("=Qi", folders if is_folder else files, descriptor)
        _call(_ADD, rules, _PATH_RULE, rule, 0)
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: int | bytes | None) -> int:
    try:
        return call_kernel(number, *arguments)
    except OSError as error:
        if error.errno in {errno.ENOSYS, errno.EOPNOTSUPP}:
            text = "the kernel has no Landlock, or does not use it"
            raise OSError(error.errno, text) from error
        raise

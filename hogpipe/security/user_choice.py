"""The user of a run: `[security] user`, the one who called sudo, or the present one.

In: the name in the configuration, the environment, the files that the run uses. Out: a `User`, or
why it cannot be.

A run as root by sudo, without `user`, continues as the caller, so that the caller owns the files
that sinks create, if the caller can use all files that the run needs (`find_obstacles_of`).
Otherwise it remains root's.
"""

import os
import pwd
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hogpipe.errors import ConfigurationError
from hogpipe.files import find_folder_problem, find_output_problem, may_access
from hogpipe.linux.credentials import User
from hogpipe.security.named_files import NamedFiles
from hogpipe.text import printable


def find_user(name: str) -> User:
    """Return the user of this name or number. Raises ConfigurationError."""
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except (KeyError, ValueError, OverflowError) as error:
        shown = printable(name)
        raise ConfigurationError(f'security.user: there is no user "{shown}"') from error
    return _describe_user(entry)


def find_sudo_caller(environ: Mapping[str, str]) -> User | None:
    """Return who called sudo to become root; None if nobody did, or root."""
    try:
        uid, gid = int(environ["SUDO_UID"]), int(environ["SUDO_GID"])
    except (KeyError, ValueError):
        return None
    if uid <= 0 or gid < 0 or os.getuid() != 0:
        return None
    try:
        return _describe_user(pwd.getpwuid(uid))
    except (KeyError, OverflowError):
        return User(str(uid), uid, gid, (gid,))


def describe_current() -> str:
    """Return the name of the present user, or its number if it has none."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def find_obstacles(files: NamedFiles, plugins: Sequence[Path]) -> dict[Path, str]:
    """Return what this thread, by its present rights, cannot use of what a run needs, and why.

    That is: the program itself, of which parts are loaded late, plugins, and the files of sinks.
    """
    program = [Path(entry) for entry in (sys.executable, *sys.path) if entry]
    obstacles = {
        path: "may not be read"
        for path in (*program, *plugins, *files.read)
        if not may_access(path, os.R_OK) and not _is_absent(path)
    }
    for path in files.written:
        if problem := _find_output_obstacle(path):
            obstacles[path] = problem
    return obstacles


def find_obstacles_of(user: User, files: NamedFiles, plugins: Sequence[Path]) -> dict[Path, str]:
    """Return the same for `user`. The process must be root's and have no other threads."""
    with _effective(user):
        return find_obstacles(files, plugins)


def _find_output_obstacle(path: Path) -> str | None:
    try:
        if path.is_dir():  # a spool
            return find_folder_problem(path)
        # Rotation, and SQLite, create files beside the one that is named.
        return find_output_problem(path) or find_folder_problem(path.parent)
    except OSError as error:
        return error.strerror


def _is_absent(path: Path) -> bool:
    """Return whether it can be seen that nothing is at `path`."""
    try:
        path.lstat()
    except PermissionError:
        return False
    except OSError:
        return True
    return False


def _describe_user(entry: pwd.struct_passwd) -> User:
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return User(printable(entry.pw_name), entry.pw_uid, entry.pw_gid, tuple(groups))


@contextmanager
def _effective(user: User) -> Iterator[None]:
    """Check permissions as `user` for now; the kernel drops the effective capabilities with it."""
    before = os.getgroups(), os.getegid(), os.geteuid()
    os.setgroups(user.groups)
    os.setegid(user.gid)
    os.seteuid(user.uid)
    try:
        yield
    finally:
        os.seteuid(before[2])
        os.setegid(before[1])
        os.setgroups(before[0])

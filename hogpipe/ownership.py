"""Who may change a file: outputs in folders of several users, and files that a program trusts.

In: paths. Out: descriptors of outputs, or why a file is not to be used. Errors are OSError.

Outputs
    In a folder that others may write to, such as /tmp, somebody may place a link, or a file, under
    the name of an output. The path of an output is opened folder by folder, and each link on it is
    followed here. In any folder that several users may write to, sticky or not, links are followed
    as fs.protected_symlinks of the kernel has it, and files used as fs.protected_regular has it:
    only if they belong to this user, to root, or to the owner of the folder. A file with several
    names (hard links) is not used there.

Trusted files
    A configuration, or a plugin, gives the rights of a program to whoever may change it. So the
    file, the folders above it and all links on its path must belong to root or a trusted user, and
    nobody else may write to them. In a sticky folder others may, as they cannot replace what is
    there. A file system that is mounted read-only has no writers. The private group of a user
    counts as that user.

Sources: proc(5) (fs.protected_*), path_resolution(7), openat(2).
"""

import errno
import grp
import os
import pwd
import stat
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

_MOST_LINKS = 40  # as in the kernel
_ENTRY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder"}
_SHARED = stat.S_IWGRP | stat.S_IWOTH


class _Step(NamedTuple):
    """An entry of a folder on the way to a file."""

    folder: int
    """A descriptor of the folder."""
    path: Path
    """The way to it, without the links before it."""
    status: os.stat_result | None
    """None if there is nothing; such a step is the last one."""


def open_output(path: Path, flags: int, mode: int = 0o600) -> int:
    """Return a descriptor of the file at `path`, opened by `flags` (open(2)) and not inherited.

    Raises PermissionError for what another user has placed there.
    """
    with ExitStack() as stack:
        place = _find_output(path, stack)
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(place.path.name, flags, mode, dir_fd=place.folder)
        try:
            _check_placed(os.fstat(descriptor), os.fstat(place.folder), path)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def resolve_output(path: Path) -> Path:
    """Return `path` without links, for a library that opens it by its name. Raises PermissionError.

    In a folder that others may write to, and that is not sticky, they may replace what was checked.
    """
    with ExitStack() as stack:
        try:
            return _find_output(path, stack).path
        except FileNotFoundError:  # a folder, which its user makes or misses
            return path


def find_other_writer(path: Path, trusted: Collection[int]) -> str | None:
    """Return who, besides root and the users `trusted`, may change `path`; None if nobody.

    The text is a sentence without its end. Raises OSError if the path leads nowhere.
    """
    owners = {0, *trusted}
    with ExitStack() as stack:
        for step in _walk(path, stack):
            if step.status is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            if step.status.st_uid not in owners:
                return f"{step.path} belongs to {_name_user(step.status.st_uid)}"
            if stat.S_ISLNK(step.status.st_mode):
                continue
            is_last_say = stat.S_ISDIR(step.status.st_mode) and step.status.st_mode & stat.S_ISVTX
            if not is_last_say and (writers := _find_writers(step)):
                return f"{writers} may write to {step.path}"
    return None


def _find_writers(step: _Step) -> str | None:
    """Return who may write to an entry besides its owner."""
    assert step.status is not None
    status = step.status
    if not status.st_mode & _SHARED or _is_read_only(step):
        return None
    if status.st_mode & stat.S_IWOTH:
        return "all users"
    if status.st_gid == 0 or _is_private(status.st_gid, status.st_uid):
        return None
    return f"the group {_name_group(status.st_gid)}"


def _is_read_only(step: _Step) -> bool:
    entry = os.open(step.path.name or "/", _ENTRY, dir_fd=step.folder)
    try:
        return bool(os.fstatvfs(entry).f_flag & os.ST_RDONLY)
    finally:
        os.close(entry)


def _is_private(gid: int, uid: int) -> bool:
    """Return whether a group is that of one user alone: it has the name of the user."""
    try:
        user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    is_own = user.pw_gid == gid and user.pw_name == group.gr_name
    return is_own and {*group.gr_mem} <= {user.pw_name}


def _name_user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"the user {uid}"


def _name_group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _find_output(path: Path, stack: ExitStack) -> _Step:
    """Return the last step to an output; raises PermissionError for what is not to be used."""
    last: _Step | None = None
    for last in _walk(path, stack):
        if last.status is not None and stat.S_ISLNK(last.status.st_mode):
            _check_placed(last.status, os.fstat(last.folder), path)
    assert last is not None
    if last.status is not None:
        _check_placed(last.status, os.fstat(last.folder), path)
    return last


def _check_placed(entry: os.stat_result, folder: os.stat_result, path: Path) -> None:
    """Raise PermissionError if another user may have placed `entry` in `folder`."""
    if not folder.st_mode & _SHARED:
        return
    what = _KINDS.get(stat.S_IFMT(entry.st_mode), "a file")
    problem = ""
    if entry.st_uid not in {0, os.geteuid(), folder.st_uid}:
        problem = f"{what} of {_name_user(entry.st_uid)}"
    elif stat.S_ISREG(entry.st_mode) and entry.st_nlink > 1:
        problem = "a file with several names"
    if problem:
        text = f"{problem}, in a folder that others may write to"
        raise PermissionError(errno.EACCES, text, str(path))


def _walk(path: Path, stack: ExitStack) -> Iterator[_Step]:
    """Yield each entry on the way from the root to `path`, which need not exist itself.

    A link is followed after the caller has seen it. `stack` closes the folders. Raises OSError.
    """
    folder = _open(stack, "/", None)
    before = Path("/")
    yield _Step(folder, before, os.fstat(folder))
    names, links = [*reversed(path.absolute().parts[1:])], 0
    while names:
        name = names.pop()
        try:
            entry = _open(stack, name, folder)
        except FileNotFoundError:
            if names:
                raise
            yield _Step(folder, before / name, None)
            return
        status = os.fstat(entry)
        if not stat.S_ISLNK(status.st_mode):
            before = before.parent if name == ".." else before / name
            yield _Step(folder, before, status)
            folder = entry
            continue
        yield _Step(folder, before / name, status)
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = Path(os.readlink("", dir_fd=entry))
        names += reversed([part for part in target.parts if part != target.anchor])
        if target.is_absolute():
            folder, before = _open(stack, "/", None), Path("/")


def _open(stack: ExitStack, name: str, folder: int | None) -> int:
    descriptor = os.open(name, _ENTRY, dir_fd=folder)
    stack.callback(os.close, descriptor)
    return descriptor

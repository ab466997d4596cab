"""Files and folders that a configuration names: what they are, and whether they can be used.

In: a path. Out: its content, or why it cannot be used. Only regular files are read, without a wait:
opening a FIFO would wait for a writer, and the end of a device may never come. Symbolic links are
followed, but on the way to an output only those that no other user placed there (ownership.py).
"""

import errno
import os
import stat
import tempfile
from pathlib import Path

from hogpipe.ownership import resolve_output

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}
NOT_REGULAR = "not a regular file"


def describe_kind(mode: int) -> str | None:
    """Return what a file with this `st_mode` is instead of a regular one, None if it is one."""
    if stat.S_ISREG(mode):
        return None
    return f"{NOT_REGULAR} but {_KINDS.get(stat.S_IFMT(mode), 'something else')}"


def require_regular(path: Path) -> None:
    """Raise OSError if there is no regular file at `path`."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if kind := describe_kind(mode):
        raise OSError(errno.EINVAL, kind, str(path))


def may_access(path: Path, mode: int) -> bool:
    """Return whether this process may use `path` in this mode (`os.W_OK` and its siblings).

    The effective user counts, as for opening: for the real one, which access(2) takes, the kernel
    drops ambient capabilities.
    """
    return os.access(path, mode, effective_ids=True)


def find_folder_problem(folder: Path) -> str | None:
    """Return why no file can be created in `folder`, itself created if absent; None if it can."""
    there = _find_existing(folder)
    if not there.is_dir():
        return f"{there} is not a folder"
    problem = find_write_problem(there, os.W_OK | os.X_OK)
    return None if problem is None else f"{there} {problem}"


def find_write_problem(path: Path, mode: int) -> str | None:
    """Return why this process may not use `path` in this mode, and the remedy; None if it may."""
    if may_access(path, mode):
        return None
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return "is on a read-only file system; name a path on another one"
    return "may not be written to; change its rights, or name another path"


def find_output_problem(path: Path) -> str | None:
    """Return why `path` cannot be read and written, or created if absent; None if it can."""
    try:
        resolve_output(path)
        mode = path.stat().st_mode
    except FileNotFoundError:
        return find_folder_problem(path.parent)
    except OSError as error:
        return error.strerror
    return describe_kind(mode) or find_write_problem(path, os.R_OK | os.W_OK)


def probe_folder(folder: Path) -> None:
    """Create a file without a name in `folder`, or in the one in which `folder` would be created.

    Raises the OSError of that; nothing stays behind.
    """
    there = _find_existing(folder)
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(there)) from error


def _find_existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def read_regular(path: Path, limit: int) -> bytes:
    """Return the first `limit` bytes of the file at `path`; raises OSError."""
    require_regular(path)
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags), "rb", buffering=0) as file:
        content = b""
        # A file of /proc, which counts as regular, may have nothing for now: BlockingIOError.
        while len(content) < limit and (chunk := os.read(file.fileno(), limit - len(content))):
            content += chunk
        return content

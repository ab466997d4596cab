"""Reads files below a root, as the processes see them for whom it is the root.

In: a root, and a path of a file or a folder below it. Out: the content of a regular file, or the
names in a folder. Raises OSError: ENOENT where there is nothing, EFBIG for a file beyond the limit,
EINVAL for what is no regular file, such as a link, ENOSYS before Linux 5.6.

Links on the way are followed within the root: an absolute one starts there, and none leads out
(openat2(2), RESOLVE_IN_ROOT). So state files of another host that is mounted below a folder are its
own, whatever their folders are links to.
"""

import errno
import os
import struct
from itertools import islice
from pathlib import Path

from hogpipe.files import describe_kind
from hogpipe.linux.system_calls import call_kernel

_OPENAT2 = 437  # the same on all machines
_IN_ROOT = 0x10 | 0x02  # RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK | os.O_NOFOLLOW


def read_rooted_file(root: Path, path: str, limit: int) -> bytes:
    """Return the content of the file at `path`, of at most `limit` bytes."""
    probe = _open(root, path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:  # opening a device may act on it
        mode = os.fstat(probe).st_mode
        if kind := describe_kind(mode):
            raise OSError(errno.EINVAL, kind, path)
    finally:
        os.close(probe)
    descriptor = _open(root, path, _FLAGS)
    with os.fdopen(descriptor, "rb") as file:
        if kind := describe_kind(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, kind, path)
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return content


def list_rooted_folder(root: Path, path: str, limit: int) -> list[bytes]:
    """Return at most `limit` names in the folder at `path`, in any order."""
    descriptor = _open(root, path, _FLAGS & ~os.O_NOFOLLOW | os.O_DIRECTORY)
    try:
        with os.scandir(descriptor) as entries:
            return [os.fsencode(entry.name) for entry in islice(entries, limit)]
    finally:
        os.close(descriptor)


def _open(root: Path, path: str, flags: int) -> int:
    how = struct.pack("=QQQ", flags, 0, _IN_ROOT)
    above = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return call_kernel(_OPENAT2, above, os.fsencode(path) + b"\0", how, len(how))
    finally:
        os.close(above)

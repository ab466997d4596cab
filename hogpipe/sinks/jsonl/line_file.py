"""A file of whole lines that only one writer uses. Everything here may block.

What is appended counts once it is settled; until then it can be cut off again. What a crash has
left behind is seen to when the file is opened: a record without its line end gets one, half a
record of ours is cut off, and a file that ends in anything else is not taken for ours and is left
alone. That nobody else writes to it, a lock holds (flock).
"""

import errno
import fcntl
import logging
import os
import stat
from pathlib import Path

import orjson

from hogpipe.sinks.encoding import RECORD_STARTS
from hogpipe.text import printable

log = logging.getLogger(__name__)

_MODE = 0o640  # records tell who talks to whom: not for everybody
_USUAL_TAIL = 64 << 10
_LONGEST_TAIL = 16 << 20


class LineFile:
    """The file at `path`, made with its folders where absent; raises OSError."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = _open_regular(path)
        self._settled = 0
        """Where that ends which counts, while `_torn`."""
        self._torn = False
        """Whether something that does not count may follow."""
        try:
            self.last_line = self._mend(path)
            """The last whole line that was in the file, empty if there was none."""
        except BaseException:
            os.close(self._descriptor)
            raise

    @property
    def size(self) -> int:
        """How many bytes the file has."""
        return os.fstat(self._descriptor).st_size

    def is_at(self, path: Path) -> bool:
        """Return whether `path` still leads to this file."""
        try:
            found = path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(self._descriptor))

    def append(self, data: bytes) -> None:
        """Write `data` to the end, wherever that is now."""
        if not self._torn:
            self._settled, self._torn = self.size, True
        rest = memoryview(data)
        while rest:  # a second turn tells why the first one stopped short
            rest = rest[os.write(self._descriptor, rest) :]

    def settle(self) -> None:
        """Let all that was appended count."""
        self._torn = False

    def cut(self) -> None:
        """Take back what does not count."""
        if self._torn:
            # Someone may have emptied the file meanwhile: never make it longer.
            os.ftruncate(self._descriptor, min(self.size, self._settled))
            self._torn = False

    def sync(self) -> None:
        """Wait until the disk has it all."""
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Let go of the file, at the end of a line if that can be."""
        try:
            self.cut()
        finally:
            os.close(self._descriptor)

    def _mend(self, path: Path) -> bytes:
        """See to it that the file ends with a whole line, which is returned.

        Raises FileExistsError if what it ends with is not ours.
        """
        size = os.lseek(self._descriptor, 0, os.SEEK_END)  # no device and no part of /proc can
        tail = self._read_tail(size, _USUAL_TAIL)
        if tail.count(b"\n") < 2:  # it may begin in the middle of the line that we need
            tail = self._read_tail(size, _LONGEST_TAIL)
        whole, _, rest = tail.rpartition(b"\n")
        if not rest:
            return whole.rpartition(b"\n")[2]
        if _is_object(rest):
            self.append(b"\n")
            self.settle()
            return rest
        if not _is_torn_record(rest):
            raise FileExistsError(errno.EEXIST, "it ends in something that is not a record")
        os.ftruncate(self._descriptor, size - len(rest))
        log.warning(
            "%s: cut off %d bytes of a record that a crash had left unfinished",
            printable(str(path)),
            len(rest),
        )
        return whole.rpartition(b"\n")[2]

    def _read_tail(self, size: int, most: int) -> bytes:
        return os.pread(self._descriptor, most, max(0, size - most))


def sync_folder(path: Path) -> None:
    """Wait until the disk knows the names in the folder of `path`."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_regular(path: Path) -> int:
    # Without O_NONBLOCK a named pipe that nobody reads would keep the thread for ever.
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, _MODE)
    try:
        _take(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _take(descriptor: int) -> None:
    """Make sure that it is a file, and that nobody else writes to it."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OSError(errno.EBUSY, "another run or sink writes to it") from error


def _is_object(tail: bytes) -> bool:
    try:
        return isinstance(orjson.loads(tail), dict)
    except orjson.JSONDecodeError:
        return False


def _is_torn_record(tail: bytes) -> bool:
    # After a power cut a file system may have filled the end with zeros.
    written = tail.rstrip(b"\0")
    return any(written.startswith(start) or start.startswith(written) for start in RECORD_STARTS)

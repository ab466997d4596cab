"""A file of whole lines with a single writer, ensured by a lock (flock).

In: bytes to append. Out: the file; `last_line`. Methods block, and raise OSError.

Transaction: `append`, any number of times, then `commit` or `roll_back`.

Repair after a crash, on opening: a record without its line end gets one; half a record is cut off;
a file that ends in anything else is not a file of records, and is refused unchanged.
"""

import errno
import fcntl
import logging
import os
import stat
from pathlib import Path

import orjson

from hogpipe.files import probe_folder
from hogpipe.ownership import open_output, resolve_output
from hogpipe.sinks.encoding import RECORD_STARTS
from hogpipe.text import printable

log = logging.getLogger(__name__)

_MODE = 0o640  # records show who communicates with whom
_SHORT_TAIL = 64 << 10
_LONGEST_TAIL = 16 << 20


class LineFile:
    """The file at `path`, made with its folders where absent; raises OSError."""

    def __init__(self, path: Path) -> None:
        resolve_output(path)  # before folders are made where a link of another user leads
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = open_locked(path, _MODE)
        self._committed = 0
        """The end of the committed bytes, while `_torn`."""
        self._torn = False
        """Whether uncommitted bytes may follow."""
        try:
            self.last_line = self._repair(path)
            """The last whole line of the file when it was opened, empty if there was none."""
        except BaseException:
            os.close(self._descriptor)
            raise

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        return os.fstat(self._descriptor).st_size

    def is_at(self, path: Path) -> bool:
        """Return whether `path` is still this file."""
        try:
            found = path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(self._descriptor))

    def append(self, data: bytes) -> None:
        """Write `data` to the present end of the file."""
        if not self._torn:
            self._committed, self._torn = self.size, True
        rest = memoryview(data)
        while rest:  # a second write raises the reason why the first stopped short
            rest = rest[os.write(self._descriptor, rest) :]

    def commit(self) -> None:
        """Commit what was appended."""
        self._torn = False

    def roll_back(self) -> None:
        """Cut off what is not committed."""
        if self._torn:
            # Another process may have truncated the file meanwhile: never extend it.
            os.ftruncate(self._descriptor, min(self.size, self._committed))
            self._torn = False

    def sync(self) -> None:
        """Wait until the disk has all of the file."""
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Roll back and release the file."""
        try:
            self.roll_back()
        finally:
            os.close(self._descriptor)

    def _repair(self, path: Path) -> bytes:
        """Make the file end with a whole line, and return that line.

        Raises FileExistsError if the file ends in something that is no record.
        """
        size = os.lseek(self._descriptor, 0, os.SEEK_END)  # fails for devices and /proc
        tail = self._read_tail(size, _SHORT_TAIL)
        if tail.count(b"\n") < 2:  # the last line may begin before the tail
            tail = self._read_tail(size, _LONGEST_TAIL)
        whole, _, rest = tail.rpartition(b"\n")
        if not rest:
            return whole.rpartition(b"\n")[2]
        if _is_object(rest):
            self.append(b"\n")
            self.commit()
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


def probe_file(path: Path) -> int | None:
    """Return the size of the file at `path`, None if there is none; nothing is changed.

    Raises the OSError with which `LineFile` could not be opened.
    """
    if not path.exists():
        probe_folder(path.parent)
        return None
    descriptor = open_locked(path, _MODE, create=False)
    try:
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Wait until the disk has the names in the folder of `path`."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_locked(path: Path, mode: int, *, create: bool = True) -> int:
    """Return a descriptor of the regular file at `path`, to append to it; nobody else may.

    Raises OSError.
    """
    # Without O_NONBLOCK a named pipe without a reader would block the thread forever.
    flags = os.O_RDWR | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    descriptor = open_output(path, flags, mode)
    try:
        _lock(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int) -> None:
    """Lock the file against other writers; raises OSError if it is no regular file."""
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
    # A file system may fill the end with zeros after a power cut.
    written = tail.rstrip(b"\0")
    return any(written.startswith(start) or start.startswith(written) for start in RECORD_STARTS)

"""One segment of a spool: a file to which windows are appended, and from which they are read.

In: entries (framing.py). Out: windows, with the number of records lost to damage before each.
An unfinished entry at the end is the rest of a write that a kill or a full disk cut short: it is
truncated. Any other bytes that are no entry are damage, and reading continues at the next entry.
All methods raise OSError, also for what is at the path and is no regular file; none waits for a
reader or a writer of a FIFO.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from hogpipe.delivery.spool.framing import HEAD_SIZE, NEXT_HEAD, Head, decode_payload, parse_head
from hogpipe.records.schema import Record

MODE = 0o600  # records show who communicates with whom
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """The place of a window in its segment, in bytes."""

    offset: int
    head: Head

    @property
    def end(self) -> int:
        """The offset of the next entry."""
        return self.offset + HEAD_SIZE + self.head.size

    def read_payload(self, file: FileIO) -> bytes:
        """Return the bytes after the head; fewer at the end of the file."""
        return os.pread(file.fileno(), self.head.size, self.offset + HEAD_SIZE)


@dataclass(slots=True, eq=False)
class Segment:
    """A segment; it holds the windows with the numbers `first` to `last` of the order."""

    path: Path
    first: int
    last: int
    size: int = 0
    """In bytes, up to the end of the last entry."""
    delivered: int = 0
    """The end of what is delivered, in bytes."""
    records: int = 0
    """Records that are not delivered."""
    damaged: bool = False
    """Whether bytes in it are no entry, or an entry fails its checksum."""
    reported: bool = False
    """Whether the damage was reported."""
    exists: bool = True
    """Whether there is a file, as for a segment that was found."""
    _torn: bool = False
    """Whether a torn write may follow the last entry that could not be truncated."""

    @property
    def appendable(self) -> bool:
        """Whether more windows may be appended."""
        return not (self.damaged or self._torn)

    def scan(self, delivered: int) -> None:
        """Find the end, count the records from `delivered` on, truncate a torn write."""
        with open_regular(self.path) as file:
            self.size = os.fstat(file.fileno()).st_size
            end = 0
            for entry in self._walk(file, 0):
                end = entry.end
                self.records += entry.head.records if entry.offset >= delivered else 0
        if not self.damaged and end < self.size:
            with open_regular(self.path, os.O_WRONLY) as file:
                file.truncate(end)
            self.size = end
        self.delivered = min(delivered, self.size)

    def append(self, entry: bytes, records: int) -> None:
        """Append an entry with so many records; after an OSError the segment is as before.

        FileExistsError: the segment is new, and there is something else at its path.
        """
        with self._open_to_append() as file:
            try:
                write_whole(file, entry)
            except BaseException:
                self._torn = True
                file.truncate(self.size)
                self._torn = False
                raise
        self.size += len(entry)
        self.records += records

    def _open_to_append(self) -> FileIO:
        if self.exists:
            return open_regular(self.path, os.O_WRONLY | os.O_APPEND)
        file = create_private(self.path)
        self.exists = True
        return file

    def sync(self) -> None:
        """Wait until the disk has the segment."""
        with open_regular(self.path) as file:
            os.fsync(file.fileno())

    def read(self) -> "StoredWindow | None":
        """Return the first undelivered window, None at the end; damaged windows are skipped."""
        return next(self._read_from(self.delivered), None)

    def windows(self) -> Iterator[Sequence[Record]]:
        """Yield every undelivered window that is not damaged."""
        return (window.records for window in self._read_from(self.delivered))

    def _read_from(self, offset: int) -> Iterator["StoredWindow"]:
        lost = 0
        with open_regular(self.path) as file:
            for entry in self._walk(file, offset):
                records = decode_payload(entry.head, entry.read_payload(file))
                if records is None:
                    self.damaged = True
                    lost += entry.head.records
                else:
                    yield StoredWindow(records, self, entry.end, lost)
                    lost = 0

    def _walk(self, file: FileIO, offset: int) -> Iterator[Entry]:
        """Yield the entries from `offset` on; their payloads may be damaged."""
        while self.size - offset >= HEAD_SIZE:
            entry = _read_entry(file, offset)
            if entry is not None and self._is_plausible(file, entry):
                yield entry
                offset = entry.end
                continue
            # No entry, or one that does not end where its head says.
            found = _find_head(file, offset)
            is_unfinished = entry is not None and entry.end > self.size and found is None
            self.damaged |= not is_unfinished
            if found is None:
                return
            offset = found

    def _is_plausible(self, file: FileIO, entry: Entry) -> bool:
        """Return whether an entry ends before a head or the end of the file, or is intact."""
        rest = self.size - entry.end
        if 0 <= rest < HEAD_SIZE or (rest > 0 and _read_entry(file, entry.end) is not None):
            return True
        return rest > 0 and decode_payload(entry.head, entry.read_payload(file)) is not None


class StoredWindow(NamedTuple):
    """A window, where it ends, and how many records damage has cost right before it."""

    records: Sequence[Record]
    segment: Segment
    end: int
    lost: int = 0


def _read_entry(file: FileIO, offset: int) -> Entry | None:
    head = parse_head(os.pread(file.fileno(), HEAD_SIZE, offset))
    return None if head is None else Entry(offset, head)


def _find_head(file: FileIO, offset: int) -> int | None:
    """Return where the next head after `offset` begins, None if there is none."""
    position = offset
    while len(chunk := os.pread(file.fileno(), _CHUNK, position)) > len(NEXT_HEAD):
        start = -1
        while (start := chunk.find(NEXT_HEAD, start + 1)) >= 0:
            data = chunk[start + 1 : start + 1 + HEAD_SIZE]
            if len(data) < HEAD_SIZE:
                data = os.pread(file.fileno(), HEAD_SIZE, position + start + 1)
            if parse_head(data) is not None:
                return position + start + 1
        position += len(chunk) - 1  # the mark may lie across the edge of a chunk
    return None


def open_regular(path: Path, flags: int = os.O_RDONLY) -> FileIO:
    """Open a file; OSError for anything else at the path, a symbolic link included."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return FileIO(os.open(path, flags), "rb" if flags & os.O_ACCMODE == os.O_RDONLY else "wb")


def create_private(path: Path) -> FileIO:
    """Create a file that only its owner can read; FileExistsError for anything at the path."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return FileIO(os.open(path, flags, MODE), "wb")


def write_whole(file: FileIO, data: bytes) -> None:
    """Write all of `data`; after an OSError some of it may be in the file."""
    rest = memoryview(data)
    while rest:  # a second write raises the reason why the first stopped short
        rest = rest[file.write(rest) :]

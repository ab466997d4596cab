"""One segment of a spool: a file to which windows are appended, and from which they are read.

In: entries (framing.py). Out: windows, with the number of records lost to damage before each.
Whatever follows the last whole entry is the rest of a write that a kill or a full disk cut short:
it is truncated. Any other bytes that are no entry are damage, and reading continues at the next
entry. All methods raise OSError.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

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
    _torn: bool = False
    """Whether a torn write may follow the last entry that could not be truncated."""

    @property
    def appendable(self) -> bool:
        """Whether more windows may be appended."""
        return not (self.damaged or self._torn)

    def scan(self, delivered: int) -> None:
        """Find the end, count the records from `delivered` on, truncate a torn write."""
        with self.path.open("rb") as file:
            self.size = os.fstat(file.fileno()).st_size
            end = 0
            for entry in self._walk(file, 0):
                end = entry.end
                self.records += entry.head.records if entry.offset >= delivered else 0
        if not self.damaged and end < self.size:
            os.truncate(self.path, end)
            self.size = end
        self.delivered = min(delivered, self.size)

    def append(self, entry: bytes, records: int) -> None:
        """Append an entry with so many records; after an OSError the segment is as before."""
        with open_private(self.path, "ab") as file:
            try:
                write_whole(file, entry)
            except BaseException:
                self._torn = True
                file.truncate(self.size)
                self._torn = False
                raise
        self.size += len(entry)
        self.records += records

    def sync(self) -> None:
        """Wait until the disk has the segment."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())

    def read(self) -> "StoredWindow | None":
        """Return the first undelivered window, None at the end; damaged windows are skipped."""
        return next(self._read_from(self.delivered), None)

    def windows(self) -> Iterator[Sequence[Record]]:
        """Yield every undelivered window that is not damaged."""
        return (window.records for window in self._read_from(self.delivered))

    def _read_from(self, offset: int) -> Iterator["StoredWindow"]:
        lost = 0
        with self.path.open("rb") as file:
            for entry in self._walk(file, offset):
                payload = os.pread(file.fileno(), entry.head.size, entry.offset + HEAD_SIZE)
                records = decode_payload(entry.head, payload)
                if records is None:
                    self.damaged = True
                    lost += entry.head.records
                else:
                    yield StoredWindow(records, self, entry.end, lost)
                    lost = 0

    def _walk(self, file: BinaryIO, offset: int) -> Iterator[Entry]:
        while self.size - offset >= HEAD_SIZE:
            head = parse_head(os.pread(file.fileno(), HEAD_SIZE, offset))
            if head is None:
                self.damaged = True
                found = _find_head(file, offset)
                if found is None:
                    return
                offset = found
                continue
            entry = Entry(offset, head)
            if entry.end > self.size:
                return
            yield entry
            offset = entry.end


class StoredWindow(NamedTuple):
    """A window, where it ends, and how many records damage has cost right before it."""

    records: Sequence[Record]
    segment: Segment
    end: int
    lost: int = 0


def _find_head(file: BinaryIO, offset: int) -> int | None:
    """Return where the next entry after `offset` may begin."""
    file.seek(offset)
    while chunk := file.read(_CHUNK):
        if (found := chunk.find(NEXT_HEAD)) >= 0:
            return offset + found + 1
        if len(chunk) < _CHUNK:
            break
        offset += _CHUNK - 1  # the mark may lie across the edge of a chunk
        file.seek(offset)
    return None


def open_private(path: Path, mode: str) -> FileIO:
    """Open a file; a new one is readable by its owner only."""
    return FileIO(path, mode, opener=partial(os.open, mode=MODE))


def write_whole(file: FileIO, data: bytes) -> None:
    """Write all of `data`; after an OSError some of it may be in the file."""
    rest = memoryview(data)
    while rest:  # a second write raises the reason why the first stopped short
        rest = rest[file.write(rest) :]

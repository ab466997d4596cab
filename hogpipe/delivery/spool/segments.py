"""One file of a spool: windows are appended to it, and read from it in order.

The end of a segment is that of its last whole frame. What follows, if a kill or a full disk cut a
write short, is ordinary; all else that is no frame is damage, and is skipped up to the next frame.
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

MODE = 0o600  # records tell who talks to whom
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a window is in its segment, in bytes."""

    offset: int
    head: Head

    @property
    def end(self) -> int:
        """Where the next frame begins."""
        return self.offset + HEAD_SIZE + self.head.size


@dataclass(slots=True, eq=False)
class Segment:
    """A segment; it stands for the windows with the numbers `first` to `last` of the order."""

    path: Path
    first: int
    last: int
    size: int = 0
    """In bytes, up to its end."""
    delivered: int = 0
    """Up to where all is delivered, in bytes."""
    records: int = 0
    """Those behind that."""
    damaged: bool = False
    """Whether anything in it was no frame, or a frame that is not what it was."""
    reported: bool = False
    """Whether that was told."""
    _torn: bool = False
    """Whether something may follow its end that cannot be cut off."""

    @property
    def appendable(self) -> bool:
        """Whether more windows may go into it."""
        return not (self.damaged or self._torn)

    def scan(self, delivered: int) -> None:
        """Find the end, count the records from `delivered` on, cut off what a kill has left."""
        with self.path.open("rb") as file:
            self.size = os.fstat(file.fileno()).st_size
            end = 0
            for frame in self._walk(file, 0):
                end = frame.end
                self.records += frame.head.records if frame.offset >= delivered else 0
        if not self.damaged and end < self.size:
            os.truncate(self.path, end)
            self.size = end
        self.delivered = min(delivered, self.size)

    def append(self, frame: bytes, records: int) -> None:
        """Write a frame of so many records at the end; OSError, and then it is as before."""
        with open_private(self.path, "ab") as file:
            try:
                write_whole(file, frame)
            except BaseException:
                self._torn = True
                file.truncate(self.size)
                self._torn = False
                raise
        self.size += len(frame)
        self.records += records

    def sync(self) -> None:
        """Have the disk keep what was written."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())

    def read(self) -> "StoredWindow | None":
        """Return the first window that is not delivered, None at the end.

        Windows that are damaged are skipped.
        """
        return next(self._read_from(self.delivered), None)

    def windows(self) -> Iterator[Sequence[Record]]:
        """Yield all windows that can be read and are not delivered."""
        return (window.records for window in self._read_from(self.delivered))

    def _read_from(self, offset: int) -> Iterator["StoredWindow"]:
        lost = 0
        with self.path.open("rb") as file:
            for frame in self._walk(file, offset):
                payload = os.pread(file.fileno(), frame.head.size, frame.offset + HEAD_SIZE)
                records = decode_payload(frame.head, payload)
                if records is None:
                    self.damaged = True
                    lost += frame.head.records
                else:
                    yield StoredWindow(records, self, frame.end, lost)
                    lost = 0

    def _walk(self, file: BinaryIO, offset: int) -> Iterator[Frame]:
        while self.size - offset >= HEAD_SIZE:
            head = parse_head(os.pread(file.fileno(), HEAD_SIZE, offset))
            if head is None:
                self.damaged = True
                found = _find_head(file, offset)
                if found is None:
                    return
                offset = found
                continue
            frame = Frame(offset, head)
            if frame.end > self.size:
                return
            yield frame
            offset = frame.end


class StoredWindow(NamedTuple):
    """A window, the place where it ends, and how many records were lost right before it."""

    records: Sequence[Record]
    segment: Segment
    end: int
    lost: int = 0


def _find_head(file: BinaryIO, offset: int) -> int | None:
    """Return where the next frame after `offset` may begin."""
    file.seek(offset)
    while chunk := file.read(_CHUNK):
        if (found := chunk.find(NEXT_HEAD)) >= 0:
            return offset + found + 1
        if len(chunk) < _CHUNK:
            break
        offset += _CHUNK - 1  # the mark may lie across the edge
        file.seek(offset)
    return None


def open_private(path: Path, mode: str) -> FileIO:
    """Open a file that is for nobody else, should it be made."""
    return FileIO(path, mode, opener=partial(os.open, mode=MODE))


def write_whole(file: FileIO, data: bytes) -> None:
    """Write all of `data`; raises OSError, and then some of it may be in the file."""
    rest = memoryview(data)
    while rest:  # a second turn tells why the first one stopped short
        rest = rest[file.write(rest) :]

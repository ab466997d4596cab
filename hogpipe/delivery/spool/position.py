"""Up to where a spool is delivered, in a file whose lock says that the spool is in use.

The file holds one line of fixed length that is overwritten in place: that needs no room on a full
disk. A line that is damaged says nothing, and then all there is comes again.
"""

import fcntl
import os
import re
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from hogpipe.delivery.spool.segments import MODE

_LINE = re.compile(rb"(\d{12}) (\d{12}) ([0-9a-f]{8})\n")
_SIZE = 35


class Position(NamedTuple):
    """All before `offset` of the segment that begins with number `segment` is delivered."""

    segment: int = 0
    offset: int = 0


class PositionFile:
    """The file `position` of a spool, open and locked.

    Making one raises OSError, BlockingIOError where someone else holds the lock.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder / "position", os.O_RDWR | os.O_CREAT, MODE)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(self._descriptor)
            raise

    def read(self) -> Position | None:
        """Return what it says; None if it is damaged, the very beginning if it is new."""
        line = os.pread(self._descriptor, _SIZE + 1, 0)
        if not line:
            return Position()
        match = _LINE.fullmatch(line)
        if match is None or int(match[3], 16) != crc32(line[: match.start(3)]):
            return None
        return Position(int(match[1]), int(match[2]))

    def write(self, position: Position) -> None:
        """Replace what it says; raises OSError."""
        text = b"%012d %012d " % position
        os.pwrite(self._descriptor, b"%b%08x\n" % (text, crc32(text)), 0)

    def close(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)

"""The end of what a spool has delivered, in a file whose lock marks the spool as in use.

The file holds one line of fixed length that is overwritten in place, which needs no room on a full
disk. After damage the position is unknown, and all windows of the spool come out again. Anything
else than a regular file at its path is set aside.
"""

import fcntl
import os
import re
import stat
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from hogpipe.delivery.spool.folder import make_way
from hogpipe.delivery.spool.segments import MODE

_LINE = re.compile(rb"(\d{12}) (\d{12}) ([0-9a-f]{8})\n")
_SIZE = 35


class Position(NamedTuple):
    """All before byte `offset` of the segment that begins with number `segment` is delivered."""

    segment: int = 0
    offset: int = 0


class PositionFile:
    """The file `position` of a spool, open and locked.

    The constructor raises OSError, BlockingIOError if another process holds the lock.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "position"
        self.replaced = os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode)
        """Whether something else was at the path, and was set aside."""
        if self.replaced:
            make_way(path)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, MODE)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(self._descriptor)
            raise

    def read(self) -> Position | None:
        """Return the position; None if it is damaged, the very beginning if the file is new."""
        if self.replaced:
            return None
        line = os.pread(self._descriptor, _SIZE + 1, 0)
        if not line:
            return Position()
        match = _LINE.fullmatch(line)
        if match is None or int(match[3], 16) != crc32(line[: match.start(3)]):
            return None
        return Position(int(match[1]), int(match[2]))

    def write(self, position: Position) -> None:
        """Replace the position; raises OSError."""
        text = b"%012d %012d " % position
        os.pwrite(self._descriptor, b"%b%08x\n" % (text, crc32(text)), 0)

    def close(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)

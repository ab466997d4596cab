"""A file of JSON lines as the source of the screen: plain, growing, rotated, gzip.

In: a path. Out: windows of the table of connections. The file is read and parsed in a thread.

What may fail: `prepare` and `read` raise CaptureError if there is no file. Lines that are no
records, and the rest of a damaged compressed file, are left out and counted.
"""

import asyncio
import gzip
import logging
import os
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from hogpipe.errors import CaptureError
from hogpipe.files import require_regular
from hogpipe.text import printable
from hogpipe.top.record_windows import ParsedWindow, WindowParser, build_window
from hogpipe.top.traffic_table import TrafficTable, WindowTraffic

log = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 18
_LONGEST_LINE = 1 << 20
_POLL_SECONDS = 0.25
_SETTLE_POLLS = 4  # after which the last window of a file is complete, even without stats
_GZIP = b"\x1f\x8b"


class RecordFile:
    """A file of JSON lines, plain or gzip. A plain one is read on while it grows.

    Windows that end before `since`, seconds since the epoch, are left out. If another file has the
    name, as after a rotation, that one follows; a file that got shorter is read from its beginning.
    """

    is_live = False

    def __init__(self, path: Path, since: float = 0.0) -> None:
        self._path = path
        self._since = since
        self.is_at_end = False
        self.parser = WindowParser()
        self._has_warned = False
        self.damage = ""
        """Why the rest of a compressed file cannot be read; empty if it can."""

    @property
    def title(self) -> str:
        """Return the name of the file."""
        return printable(self._path.name)

    async def prepare(self) -> None:
        """Check that there is a file; raises CaptureError."""
        await asyncio.to_thread(lambda: self._open().close())

    async def read(self, table: TrafficTable) -> AsyncIterator[WindowTraffic]:
        """Read to the end, and on as the file grows. Raises CaptureError."""
        self.is_at_end, self.parser, self.damage = False, WindowParser(), ""
        lines = _LineReader(await asyncio.to_thread(self._open), self._path)
        quiet_polls = 0
        try:
            while True:
                windows = await asyncio.to_thread(self._parse_next, lines)
                for window in windows:
                    yield build_window(table, window)
                self._warn_once(lines.damage)
                if lines.has_more:
                    quiet_polls = 0
                    continue
                quiet_polls += 1
                if lines.is_final or quiet_polls >= _SETTLE_POLLS:
                    for window in self.parser.finish():
                        if window.end > self._since:
                            yield build_window(table, window)
                self.is_at_end = True
                if lines.is_final:
                    return
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            lines.close()

    def _warn_once(self, damage: str) -> None:
        """Log the first line that is no record, and what is wrong with a compressed file."""
        first = self.parser.first_foreign
        if first and not self._has_warned:
            self._has_warned = True
            log.warning("%s: line %d is no record; such lines are counted", self._path, first)
        if damage and not self.damage:
            self.damage = damage
            log.warning("%s: the rest cannot be read: %s", self._path, damage)

    def _open(self) -> BinaryIO:
        try:
            require_regular(self._path)
            return self._path.open("rb", buffering=0)
        except OSError as error:
            reason = error.strerror or str(error)
            raise CaptureError(printable(f"--from {self._path}: {reason}")) from error

    def _parse_next(self, lines: "_LineReader") -> list[ParsedWindow]:
        """Return the windows that the next part of the file completes (in a thread)."""
        windows = self.parser.parse(lines.read())
        return [window for window in windows if window.end > self._since]


class _LineReader:
    """Reads whole lines of a file that may grow, be replaced or be compressed."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._path = path
        self._file = file
        self._rest = b""
        self.is_final = file.read(len(_GZIP)) == _GZIP
        """Whether the file does not grow."""
        file.seek(0)
        self._reader: BinaryIO = gzip.GzipFile(fileobj=file) if self.is_final else file  # type: ignore[assignment]
        self.has_more = False
        """Whether the last `read` was not at the end."""
        self.damage = ""

    def read(self) -> list[bytes]:
        """Return the next whole lines; at the end of a compressed file the last part, too."""
        try:
            chunk = self._reader.read(_CHUNK_BYTES)
        except (EOFError, OSError, zlib.error) as error:
            chunk, self.damage = b"", printable(str(error))
        if not chunk and not self.damage and not self.is_final and self._was_replaced():
            self.has_more = True
            return self._take_rest()
        self.has_more = bool(chunk)
        if not chunk and self.is_final:
            return self._take_rest()
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            # Not a record: its parts are counted as lines that are none.
            lines, self._rest = [*lines, self._rest], b""
        return lines

    def _take_rest(self) -> list[bytes]:
        rest, self._rest = self._rest, b""
        return [rest] if rest else []

    def _was_replaced(self) -> bool:
        """Open the file that has the name now, if it is another one or has become shorter."""
        try:
            there, here = self._path.stat(), os.fstat(self._file.fileno())
            is_same = (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
            if is_same and here.st_size >= self._file.tell():
                return False
            require_regular(self._path)
            file = self._path.open("rb", buffering=0)
        except OSError:  # between two files, as during a rotation: the next poll finds it
            return False
        self._file.close()
        self._file = self._reader = file
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()

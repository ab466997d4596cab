"""The `jsonl` sink: one JSON object a line, appended to a file.

The file holds whole lines only, whatever happens. A write that failed half-way, or that was given
up, is cut off before the next one. What a crash has left behind is seen to at open: a record
without its line end gets one, half a record of ours is cut off, and a file that ends in anything
else is not taken for ours and is left alone. Only one writer may use a file, which a lock holds
(flock). Nothing is synced to the disk: that is the kernel's pace.
"""

import errno
import fcntl
import logging
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiofiles
import aiofiles.os
import orjson
from aiofiles.threadpool.binary import AsyncFileIO

from hogpipe.errors import ConfigurationError
from hogpipe.record import Record
from hogpipe.sinks.encoding import encode_lines
from hogpipe.sinks.protocol import SinkSettings
from hogpipe.text import printable

log = logging.getLogger(__name__)

_MODE = 0o640  # records tell who talks to whom: not for everybody
_LONGEST_TAIL = 16 << 20
_RECORD_START = b'{"type":"'


class JsonlSettings(SinkSettings, frozen=True, kw_only=True):
    """`type = "jsonl"`."""

    path: Path
    """The file; made with its folders where absent, appended to where not."""


class JsonlSink:
    """Writes whole lines to a file; see the module for what that takes."""

    def __init__(self, settings: JsonlSettings) -> None:
        self._path = settings.path
        # One thread: a step that was given up still ends before the next one begins.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="jsonl")
        self._file: AsyncFileIO | None = None
        self._whole = 0
        """Where the last whole line ends, while `_torn`."""
        self._torn = False
        """Whether something that is not a whole line may follow."""

    async def open(self) -> None:
        """Open the file and mend its end.

        Raises ConfigurationError where the path cannot be written to, OSError where the disk is
        full.
        """
        try:
            await self._open()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ConfigurationError(
                f"path {printable(str(self._path))}: {error.strerror or error}; "
                "name a file that hogpipe may write to"
            ) from error

    async def write(self, records: Sequence[Record]) -> None:
        """Append a window; raises OSError, and then the file is as before or soon will be."""
        if self._file is None:
            await self._open()
        file = self._file
        assert file is not None
        await self._cut()
        self._whole = await file.seek(0, os.SEEK_END)
        self._torn = True
        rest = memoryview(encode_lines(records))
        while rest:  # a second turn tells why the first one stopped short
            rest = rest[await file.write(rest) :]
        self._torn = False

    async def reopen(self) -> None:
        """Let go of the file, which may have been renamed, and open the path anew."""
        await self._let_go()
        await self._open()

    async def close(self) -> None:
        """Close the file, at the end of a line."""
        try:
            await self._let_go()
        finally:
            self._thread.shutdown(wait=False)

    async def _open(self) -> None:
        path = self._path
        await aiofiles.os.makedirs(path.parent, exist_ok=True, executor=self._thread)
        file = await aiofiles.open(
            path, "a+b", buffering=0, opener=_open_regular, executor=self._thread
        )
        try:
            await _mend(file, path)
        except BaseException:
            await file.close()
            raise
        self._file = file

    async def _cut(self) -> None:
        if self._torn and self._file is not None:
            size = await self._file.seek(0, os.SEEK_END)
            # Someone may have emptied the file meanwhile: never make it longer.
            await self._file.truncate(min(size, self._whole))
            self._torn = False

    async def _let_go(self) -> None:
        if self._file is not None:
            try:
                await self._cut()
            finally:
                file, self._file, self._torn = self._file, None, False
                await file.close()


def _open_regular(path: str, flags: int) -> int:
    # Without O_NONBLOCK a named pipe that nobody reads would keep the thread for ever.
    descriptor = os.open(path, flags | os.O_NONBLOCK, _MODE)
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


async def _mend(file: AsyncFileIO, path: Path) -> None:
    """See to it that `file` ends with a whole line; FileExistsError if it is not one of ours."""
    size = await file.seek(0, os.SEEK_END)
    if not size:
        return
    await file.seek(size - 1)
    if await file.read(1) == b"\n":
        return
    await file.seek(max(0, size - _LONGEST_TAIL))
    tail = (await file.readall()).rpartition(b"\n")[2]
    if _is_object(tail):
        await file.write(b"\n")
    elif _is_torn_record(tail):
        await file.truncate(size - len(tail))
        log.warning(
            "%s: cut off %d bytes of a record that a crash had left unfinished",
            printable(str(path)),
            len(tail),
        )
    else:
        raise FileExistsError(errno.EEXIST, "it ends in something that is not a record")


def _is_object(tail: bytes) -> bool:
    try:
        return isinstance(orjson.loads(tail), dict)
    except orjson.JSONDecodeError:
        return False


def _is_torn_record(tail: bytes) -> bool:
    # After a power cut a file system may have filled the end with zeros.
    written = tail.rstrip(b"\0")
    return written.startswith(_RECORD_START) or _RECORD_START.startswith(written)

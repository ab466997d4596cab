"""The `jsonl` sink: one JSON object a line, appended to a file.

In: windows. Out: whole lines of whole windows: a window that failed or was cancelled half-way is
cut off. A thread of the sink's own does all work on files and encodes the records; another one
processes closed files.
"""

import asyncio
import errno
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from aiofiles.os import wrap
from msgspec import Meta

from hogpipe.errors import ConfigurationError, InUseError
from hogpipe.files import find_output_problem, may_access
from hogpipe.records.schema import Record
from hogpipe.sinks.contract import Seconds, SettingProblem
from hogpipe.sinks.encoding import JsonEncoder, JsonSettings
from hogpipe.sinks.jsonl.closed_files import ClosedFilePolicy
from hogpipe.sinks.jsonl.line_file import probe_file
from hogpipe.sinks.jsonl.rotating_file import FileOptions, RotatingFile
from hogpipe.sinks.jsonl.rotation import LONGEST_SUFFIX, RotationRule
from hogpipe.text import printable
from hogpipe.threads import SerialExecutor

_MIB = 1 << 20
_CLOSING_SECONDS = 0.2
"""How long a close waits for a file that is being compressed: half the time limit of a close."""


class JsonlSettings(JsonSettings, frozen=True, kw_only=True):
    """`type = "jsonl"`."""

    path: Path
    """The file; created with its folders if absent, appended to if present."""
    rotate_mib: Annotated[int, Meta(ge=1)] | None = None
    """The size from which a file is rotated."""
    rotate_every: Annotated[Seconds, Meta(ge=1)] | None = None
    """The seconds after which a file is rotated, at multiples since midnight UTC."""
    keep: Annotated[int, Meta(ge=1)] | None = None
    """How many closed files are kept; all if absent."""
    compress: Literal["none", "gzip"] = "none"
    """What is done with closed files."""
    fsync: Literal["never", "close", "window"] = "never"
    """When to wait for the disk: never, before a file is closed, or after each window."""

    @property
    def rotates(self) -> bool:
        """Whether files are rotated."""
        return self.rotate_mib is not None or self.rotate_every is not None


class JsonlSink:
    """Appends windows to a file."""

    def __init__(self, settings: JsonlSettings) -> None:
        self._path = settings.path
        self._file = RotatingFile(settings.path, JsonEncoder(settings), _file_options(settings))
        # One thread: a cancelled step ends before the next one begins.
        self._thread = SerialExecutor("jsonl")

    async def open(self) -> None:
        """Open the file and repair its end.

        Raises ConfigurationError if the path cannot be written to, InUseError among these if
        another sink writes to it, OSError if the disk is full.
        """
        try:
            await wrap(self._file.open)(executor=self._thread)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise self._describe_refusal(error) from error

    async def probe(self) -> str:
        """Return what is at the path, and create no file; raises ConfigurationError."""
        try:
            size = await wrap(probe_file)(self._path, executor=self._thread)
        except OSError as error:
            raise self._describe_refusal(error) from error
        state = "created when a run starts" if size is None else f"appended to, {size} bytes so far"
        return f"{self._path}: {state}"

    async def write(self, records: Sequence[Record]) -> None:
        """Append a window; after an OSError the file is rolled back, at the latest by the next."""
        stop = threading.Event()
        try:
            await wrap(self._file.append)(records, stop, executor=self._thread)
        except asyncio.CancelledError:
            stop.set()
            raise
        self._file.commit()

    async def reopen(self) -> None:
        """Release the file, which may have been renamed, and open the file at the path."""
        await wrap(self._file.reopen)(executor=self._thread)

    def _describe_refusal(self, error: OSError) -> ConfigurationError:
        remedy = "name a file that hogpipe may write to"
        path = printable(str(self._path))
        kind = InUseError if error.errno == errno.EBUSY else ConfigurationError
        return kind(f"path {path}: {error.strerror or error}; {remedy}")

    async def close(self) -> None:
        """Close the file at the end of a line; that continues if the caller is cancelled."""
        closing = self._thread.submit(self._file.close, _CLOSING_SECONDS)
        self._thread.shutdown(wait=False)
        # Unshielded, a cancellation would cancel the future before the thread reaches it.
        await asyncio.shield(asyncio.wrap_future(closing))


def find_jsonl_problems(settings: JsonlSettings) -> Iterable[SettingProblem]:
    """Find settings that cannot work; looks at files."""
    given = {"keep": settings.keep is not None, "compress": settings.compress != "none"}
    for key, is_given in given.items():
        if is_given and not settings.rotates:
            text = "only with rotate_mib or rotate_every"
            yield SettingProblem((key,), text)
    problem = find_output_problem(settings.path)
    if problem is None and settings.rotates:
        problem = _find_name_problem(settings.path)
    if problem is not None:
        yield SettingProblem(("path",), f'"{printable(str(settings.path))}": {problem}', problem)


def _file_options(settings: JsonlSettings) -> FileOptions:
    most_bytes = None if settings.rotate_mib is None else settings.rotate_mib * _MIB
    return FileOptions(
        RotationRule(most_bytes, settings.rotate_every),
        ClosedFilePolicy(settings.keep, settings.compress == "gzip"),
        settings.fsync,
    )


def _find_name_problem(path: Path) -> str | None:
    """Return why `path` cannot be renamed to the name of a closed file, None if it can."""
    if path.is_symlink():
        return "a symbolic link, which rotation would rename; name the file itself"
    if len(os.fsencode(path.name)) + LONGEST_SUFFIX > 255:
        return f"its name must leave {LONGEST_SUFFIX} bytes for the time that rotation adds"
    if path.exists() and not may_access(path.parent, os.W_OK | os.X_OK):
        return f"{path.parent} may not be written to, so rotation cannot rename the file"
    return None

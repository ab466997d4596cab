"""The `jsonl` sink: one JSON object a line, appended to a file.

The file holds whole lines only, whatever happens: what of a window failed half-way, or was given
up, is cut off. All work on files is done in a thread of the sink's own, where records are encoded,
too; closed files are compressed in another.
"""

import asyncio
import errno
import os
import stat
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Literal

from aiofiles.os import wrap
from msgspec import Meta

from hogpipe.errors import ConfigurationError
from hogpipe.records.schema import Record
from hogpipe.sinks.contract import SettingProblem
from hogpipe.sinks.encoding import JsonEncoder, JsonSettings
from hogpipe.sinks.jsonl.closed_files import Upkeep
from hogpipe.sinks.jsonl.journal import Habits, Journal
from hogpipe.sinks.jsonl.rotation import LONGEST_SUFFIX, RotationRule
from hogpipe.text import printable

_MIB = 1 << 20
_CLOSING_SECONDS = 0.2
"""How long a close waits for a file that is being compressed: half of what a close may take."""


class JsonlSettings(JsonSettings, frozen=True, kw_only=True):
    """`type = "jsonl"`."""

    path: Path
    """The file; made with its folders where absent, appended to where not."""
    rotate_mib: Annotated[int, Meta(ge=1)] | None = None
    """From which size on a file is closed and the next one begun."""
    rotate_every: Annotated[float, Meta(ge=1)] | None = None
    """After how many seconds, counted from midnight UTC for whole parts of a day."""
    keep: Annotated[int, Meta(ge=1)] | None = None
    """How many closed files stay; all where absent."""
    compress: Literal["none", "gzip"] = "none"
    """What is done with closed files."""
    fsync: Literal["never", "close", "window"] = "never"
    """When to wait for the disk: never, before a file is closed, or after each window."""

    @property
    def rotates(self) -> bool:
        """Whether files are closed at all."""
        return self.rotate_mib is not None or self.rotate_every is not None


class JsonlSink:
    """Writes whole lines to a file; see the module for what that takes."""

    def __init__(self, settings: JsonlSettings) -> None:
        self._path = settings.path
        self._journal = Journal(settings.path, JsonEncoder(settings), _form_habits(settings))
        # One thread: a step that was given up still ends before the next one begins.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="jsonl")

    async def open(self) -> None:
        """Open the file and mend its end.

        Raises ConfigurationError where the path cannot be written to, OSError where the disk is
        full.
        """
        try:
            await wrap(self._journal.open)(executor=self._thread)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ConfigurationError(
                f"path {printable(str(self._path))}: {error.strerror or error}; "
                "name a file that hogpipe may write to"
            ) from error

    async def write(self, records: Sequence[Record]) -> None:
        """Append a window; raises OSError, and then the file is as before or soon will be."""
        stop = threading.Event()
        try:
            await wrap(self._journal.append)(records, stop, executor=self._thread)
        except asyncio.CancelledError:
            stop.set()
            raise
        self._journal.settle()

    async def reopen(self) -> None:
        """Let go of the file, which may have been renamed, and open the path anew."""
        await wrap(self._journal.reopen)(executor=self._thread)

    async def close(self) -> None:
        """Close the file, at the end of a line; that is done also where nobody waits for it."""
        closing = self._thread.submit(self._journal.close, _CLOSING_SECONDS)
        self._thread.shutdown(wait=False)
        # Cancelled before the thread has come to it, it would never be done.
        await asyncio.shield(asyncio.wrap_future(closing))


def find_jsonl_problems(settings: JsonlSettings) -> Iterable[SettingProblem]:
    """Yield what is wrong with settings beyond their types."""
    given = {"keep": settings.keep is not None, "compress": settings.compress != "none"}
    for key, is_given in given.items():
        if is_given and not settings.rotates:
            text = "only with rotate_mib or rotate_every"
            yield SettingProblem((key,), text, text)
    problem = _find_path_problem(settings.path)
    if problem is None and settings.rotates:
        problem = _find_name_problem(settings.path)
    if problem is not None:
        yield SettingProblem(("path",), f'"{printable(str(settings.path))}": {problem}', problem)


def _form_habits(settings: JsonlSettings) -> Habits:
    most_bytes = None if settings.rotate_mib is None else settings.rotate_mib * _MIB
    return Habits(
        RotationRule(most_bytes, settings.rotate_every),
        Upkeep(settings.keep, settings.compress == "gzip"),
        settings.fsync,
    )


def _find_path_problem(path: Path) -> str | None:
    """Return why `path` cannot be a file of ours, if so."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return _find_folder_problem(path.parent)
    except OSError as error:
        return error.strerror
    if not stat.S_ISREG(mode):
        return "not a regular file"
    return None if os.access(path, os.R_OK | os.W_OK) else "may not be read and written to"


def _find_folder_problem(folder: Path) -> str | None:
    """Return why no file can be made in `folder`, which itself can be made, if so."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        return f"{there} is not a folder"
    return None if os.access(there, os.W_OK | os.X_OK) else f"{there} may not be written to"


def _find_name_problem(path: Path) -> str | None:
    """Return why `path` cannot be renamed to what a closed file is called, if so."""
    if path.is_symlink():
        return "a symbolic link, which rotation would rename; name the file itself"
    if len(os.fsencode(path.name)) + LONGEST_SUFFIX > 255:
        return f"its name must leave {LONGEST_SUFFIX} bytes for the time that rotation adds"
    if path.exists() and not os.access(path.parent, os.W_OK | os.X_OK):
        return f"{path.parent} may not be written to, so rotation cannot rename the file"
    return None

"""The `sqlite` sink: windows in a history, an SQLite database (docs/history.md).

In: windows. Out: rows, all of a window or nothing, each record once; hogpipe/history has the schema
and the work. A thread of the sink's own does all of it. A locked database and a full disk are
errors that may pass: delivery tries again.
"""

import asyncio
import errno
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from hogpipe.errors import ConfigurationError, InUseError
from hogpipe.records.schema import Record
from hogpipe.sinks.contract import Seconds, SettingProblem, SinkSettings
from hogpipe.text import printable
from hogpipe.threads import SerialExecutor

if TYPE_CHECKING:
    from hogpipe.history.writer import HistoryWriter

_MIB = 1 << 20


class SqliteSettings(SinkSettings, frozen=True, kw_only=True):
    """`type = "sqlite"`."""

    path: Path
    """The database; created with its folders if absent, continued if present."""
    keep_windows: Annotated[Seconds, Meta(ge=60)] = 3600.0
    """How long windows are kept as they came, in seconds."""
    keep_minutes: Annotated[Seconds, Meta(ge=3600)] = 604_800.0
    """How long the sums of minutes are kept: a week."""
    keep_hours: Annotated[Seconds, Meta(ge=86_400)] = 7_776_000.0
    """How long the sums of hours are kept: 90 days."""
    keep_days: Annotated[Seconds, Meta(ge=86_400)] = 31_536_000.0
    """How long the sums of days are kept: a year."""
    max_mib: Annotated[int, Meta(ge=8)] = 512
    """The bound of the file; beyond it the oldest of the finest level is deleted."""


class SqliteSink:
    """Writes windows to a history."""

    def __init__(self, settings: SqliteSettings) -> None:
        self._settings = settings
        self._writer: HistoryWriter | None = None
        self._stop = threading.Event()
        """Set for the write under way if it is cancelled."""
        # One thread: a cancelled step ends before the next one begins.
        self._thread = SerialExecutor("sqlite")

    async def open(self) -> None:
        """Open the history.

        Raises ConfigurationError if the path cannot be written to, or is no history of this
        version, InUseError among these if another sink writes to it; OSError and DeliveryError if
        the disk is full or the database locked.
        """
        await self._run(self._open)

    async def probe(self) -> str:
        """Return what is at the path, and create no file; raises ConfigurationError."""
        loop = asyncio.get_running_loop()
        size = await loop.run_in_executor(self._thread, self._probe)
        state = "created when a run starts" if size is None else f"continued, {size} bytes so far"
        return f"{self._settings.path}: {state}"

    async def write(self, records: Sequence[Record]) -> None:
        """Write a window; what was written before changes nothing."""
        stop = self._stop = threading.Event()
        try:
            await self._run(partial(self._write, records, stop))
        except asyncio.CancelledError:
            self._interrupt()
            raise

    async def reopen(self) -> None:
        """Close the file, which may have been renamed, and open the one at the path."""
        await self._run(self._open)

    async def close(self) -> None:
        """Close the history; that continues if the caller is cancelled."""
        self._interrupt()
        closing = self._thread.submit(self._close)
        self._thread.shutdown(wait=False)
        # Unshielded, a cancellation would cancel the future before the thread reaches it.
        await asyncio.shield(asyncio.wrap_future(closing))

    async def _run(self, work: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _interrupt(self) -> None:
        """Have the write under way end soon, without effect."""
        self._stop.set()
        if self._writer is not None:
            self._writer.interrupt()

    def _open(self) -> None:
        if self._writer is None:
            self._writer = _make_writer(self._settings)
        try:
            self._writer.open()
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise
            raise self._describe_refusal(error) from error

    def _probe(self) -> int | None:
        from hogpipe.history.history_file import (  # noqa: PLC0415 - only this sink needs SQLite
            probe_file,
        )

        try:
            return probe_file(self._settings.path)
        except OSError as error:
            raise self._describe_refusal(error) from error

    def _describe_refusal(self, error: OSError) -> ConfigurationError:
        remedy = "name a file that hogpipe may write to"
        path = printable(str(self._settings.path))
        kind = InUseError if error.errno == errno.EBUSY else ConfigurationError
        return kind(f"path {path}: {error.strerror or error}; {remedy}")

    def _write(self, records: Sequence[Record], stop: threading.Event) -> None:
        assert self._writer is not None
        self._writer.write(records, stop)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def find_sqlite_problems(settings: SqliteSettings) -> Iterable[SettingProblem]:
    """Find settings that cannot work; looks at the file, unless a run has it open."""
    from hogpipe.history.history_file import (  # noqa: PLC0415 - only this sink needs SQLite
        find_file_problem,
    )

    if settings.stats is not True:
        yield SettingProblem(("stats",), "must be true: a history keeps the stats of each window")
    keys = ("keep_windows", "keep_minutes", "keep_hours", "keep_days")
    for shorter, longer in pairwise(keys):
        if getattr(settings, longer) < getattr(settings, shorter):
            yield SettingProblem((longer,), f"must be at least {shorter}")
    try:
        problem = find_file_problem(settings.path)
    except OSError as error:
        problem = error.strerror or str(error)
    if problem is not None:
        text = f'"{printable(str(settings.path))}": {problem}'
        yield SettingProblem(("path",), text, problem)


def _make_writer(settings: SqliteSettings) -> "HistoryWriter":
    from hogpipe.history.levels import (  # noqa: PLC0415 - only this sink needs SQLite
        DAYS,
        HOURS,
        MINUTES,
        WINDOWS,
    )
    from hogpipe.history.writer import HistoryWriter, Retention  # noqa: PLC0415 - likewise

    seconds = {
        WINDOWS: settings.keep_windows,
        MINUTES: settings.keep_minutes,
        HOURS: settings.keep_hours,
        DAYS: settings.keep_days,
    }
    keep_ms = {level: round(kept * 1000) for level, kept in seconds.items()}
    return HistoryWriter(settings.path, Retention(keep_ms, settings.max_mib * _MIB))

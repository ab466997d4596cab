"""The file that a sink writes to now, and its change for the next one. Everything here may block.

A window is in one file as a whole. Before each, the file is changed if it is no longer at its path
(logrotate has moved it) or if it is full: then it gets the name of a closed one. The next file is
locked before this one is let go.
"""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from hogpipe.records.schema import Record
from hogpipe.sinks.encoding import JsonEncoder
from hogpipe.sinks.jsonl.closed_files import Caretaker, Upkeep, list_closed
from hogpipe.sinks.jsonl.line_file import LineFile, sync_folder
from hogpipe.sinks.jsonl.rotation import (
    MILLISECOND,
    RotationRule,
    choose_closing,
    decode_start,
    find_start,
    format_closed,
)


@dataclass(frozen=True, slots=True)
class Habits:
    """How a journal is kept."""

    rule: RotationRule
    upkeep: Upkeep
    sync: Literal["never", "close", "window"]
    """When to wait for the disk: never, before a file is let go, or after each window."""


class Journal:
    """Windows of records at `path`; all but `settle` is for one thread at a time."""

    def __init__(self, path: Path, encoder: JsonEncoder, habits: Habits) -> None:
        self._path = path
        self._encoder = encoder
        self._habits = habits
        self._caretaker = Caretaker(path, habits.upkeep)
        self._file: LineFile | None = None
        self._period: int | None = None
        """The period that the file is for, once it has a window."""

    def open(self) -> None:
        """Open the file, and finish what was left undone with closed ones; raises OSError."""
        self._renew()

    def append(self, records: Sequence[Record], stop: threading.Event) -> None:
        """Append a window, which counts once it is settled; raises OSError.

        If `stop` is set meanwhile, or it fails, what was written of it is cut off again, at the
        latest before the next window.
        """
        file = self._ready(find_start(records[0]))
        try:
            for portion in self._encoder.portions(records):
                if stop.is_set():
                    file.cut()
                    return
                file.append(portion)
            if self._habits.sync == "window":
                file.sync()
        except BaseException:
            file.cut()
            raise

    def settle(self) -> None:
        """Let the window that was appended count; only while nothing else is being done."""
        if self._file is not None:
            self._file.settle()

    def reopen(self) -> None:
        """Let go of the file, which may have been renamed, and open the path anew."""
        if self._file is not None:
            self._file.cut()
        self._renew()

    def close(self, seconds: float) -> None:
        """Let go of the file; the work on closed ones has that long to come to its end."""
        try:
            self._let_go()
        finally:
            self._caretaker.close(seconds)

    def _ready(self, start: datetime) -> LineFile:
        """Return the file for a window that begins at `start`."""
        if self._file is not None:
            self._file.cut()
        if self._file is None or not self._file.is_at(self._path):
            file = self._renew()
        else:
            file = self._file
        if self._habits.rule.is_over(file.size, self._period, start):
            file = self._rotate(start)
        if self._period is None or not file.size:  # someone may have emptied it
            self._period = self._habits.rule.find_period(start)
        return file

    def _rotate(self, start: datetime) -> LineFile:
        name = self._path.name
        closed = choose_closing(start, list_closed(self._path))
        while os.path.lexists(target := self._path.with_name(format_closed(name, closed))):
            closed += MILLISECOND  # not a file: never overwrite it
        self._path.rename(target)
        return self._renew()

    def _renew(self) -> LineFile:
        """Open the file at the path, then let go of the one before."""
        if self._file is not None and self._file.is_at(self._path):
            return self._file
        file = LineFile(self._path)
        try:
            self._let_go()
        finally:
            self._file = file
            self._period = self._habits.rule.find_period(decode_start(file.last_line))
        if self._habits.sync != "never":
            sync_folder(self._path)
        self._caretaker.ask()
        return file

    def _let_go(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.cut()
                if self._habits.sync != "never":
                    file.sync()
            finally:
                file.close()

"""The current file of a sink, and its rotation.

In: windows. Out: lines in the file at `path`; closed files beside it. Methods raise OSError and
block; one thread at a time may call them, but for `commit`.

A window is never split. Before each window, the file is reopened if it is no longer at its path
(logrotate moved it), and rotated if it is full: it gets the name of a closed file. The next file is
locked before the present one is released.
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
from hogpipe.sinks.jsonl.closed_files import ClosedFilePolicy, ClosedFileWorker, list_closed
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
class FileOptions:
    """When the file is rotated and synced, and what is done with closed files."""

    rotation: RotationRule
    closed_files: ClosedFilePolicy
    sync: Literal["never", "close", "window"]
    """When to wait for the disk: never, before a file is released, or after each window."""


class RotatingFile:
    """Windows of records at `path`."""

    def __init__(self, path: Path, encoder: JsonEncoder, options: FileOptions) -> None:
        self._path = path
        self._encoder = encoder
        self._options = options
        self._closed_files = ClosedFileWorker(path, options.closed_files)
        self._file: LineFile | None = None
        self._period: int | None = None
        """The period of the windows in the file; None if it is empty."""

    def open(self) -> None:
        """Open the file, and have the closed files processed."""
        self._reopen()

    def append(self, records: Sequence[Record], stop: threading.Event) -> None:
        """Append a window, to be followed by `commit`.

        If `stop` is set meanwhile, or on an error, the file is rolled back: now, or if that fails
        before the next window.
        """
        file = self._prepare(find_start(records[0]))
        try:
            for batch in self._encoder.batches(records):
                if stop.is_set():
                    file.roll_back()
                    return
                file.append(batch)
            if self._options.sync == "window":
                file.sync()
        except BaseException:
            file.roll_back()
            raise

    def commit(self) -> None:
        """Commit the window that was appended; not while another method runs."""
        if self._file is not None:
            self._file.commit()

    def reopen(self) -> None:
        """Release the file, which may have been renamed, and open the file at the path."""
        if self._file is not None:
            self._file.roll_back()
        self._reopen()

    def close(self, seconds: float) -> None:
        """Release the file; the processing of closed files has so long to finish."""
        try:
            self._release()
        finally:
            self._closed_files.close(seconds)

    def _prepare(self, start: datetime) -> LineFile:
        """Return the file for a window that begins at `start`, rotated or reopened if needed."""
        if self._file is not None:
            self._file.roll_back()
        if self._file is None or not self._file.is_at(self._path):
            file = self._reopen()
        else:
            file = self._file
        if self._options.rotation.is_full(file.size, self._period, start):
            file = self._rotate(start)
        if self._period is None or not file.size:  # another process may have truncated it
            self._period = self._options.rotation.find_period(start)
        return file

    def _rotate(self, start: datetime) -> LineFile:
        name = self._path.name
        closed = choose_closing(start, list_closed(self._path))
        while os.path.lexists(target := self._path.with_name(format_closed(name, closed))):
            closed += MILLISECOND  # of any kind: never overwrite it
        self._path.rename(target)
        return self._reopen()

    def _reopen(self) -> LineFile:
        """Open the file at the path, then release the one before."""
        if self._file is not None and self._file.is_at(self._path):
            return self._file
        file = LineFile(self._path)
        try:
            self._release()
        finally:
            self._file = file
            self._period = self._options.rotation.find_period(decode_start(file.last_line))
        if self._options.sync != "never":
            sync_folder(self._path)
        self._closed_files.request()
        return file

    def _release(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.roll_back()
                if self._options.sync != "never":
                    file.sync()
            finally:
                file.close()

"""The one writer of a history.

In: windows of records, each in one transaction: all of it, or nothing. Out: rows. All methods
block; one thread at a time calls them, except `interrupt`. They raise OSError and DeliveryError for
what may pass, and `open` ConfigurationError for a file that is refused.

Exactly once: the last sequence of each run is stored in the transaction of its records, and records
up to it are skipped. So a window that is delivered again, after a crash or a cancelled write,
changes nothing.

Errors: a locked database or a full disk leaves the history as it was; the write can be repeated. A
damaged history is set aside (history_file.py), and the next write begins a new one.

Known limits: a record that was written and then coalesced with later ones, since a kill came before
the spool knew and the spool was full at the next start, counts again. A reader that keeps a
transaction open lets `PATH-wal` grow.

Durability: a kill loses nothing that was written; a power failure may lose the last seconds, and
nothing else (WAL with `synchronous = NORMAL`).
"""

import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import numpy as np

from hogpipe.errors import ConfigurationError, DeliveryError
from hogpipe.history.expiry import SizeBound, expire_by_age, make_room_for
from hogpipe.history.history_file import (
    close_moved,
    find_content_problem,
    get_code,
    is_damage,
    lock_for_writing,
    open_for_writing,
    set_aside,
    transaction,
)
from hogpipe.history.interning import Interning
from hogpipe.history.level_states import LevelStates
from hogpipe.history.levels import MINUTES, WINDOWS, Level
from hogpipe.history.packing import (
    DamagedContentError,
    StampedWindow,
    UnpackedWindow,
    make_rows,
    pack_window,
    split_by_stamp,
)
from hogpipe.history.rollup import add_late, roll_up
from hogpipe.records.schema import Record
from hogpipe.text import printable

_ERRORS = (sqlite3.Error, DamagedContentError)


class _StoppedError(Exception):
    """The write was cancelled."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long each level keeps its rows, and the bound of all of them."""

    keep_ms: Mapping[Level, int]
    max_bytes: int


class HistoryWriter:
    """Writes the history at `path`."""

    def __init__(self, path: Path, retention: Retention) -> None:
        self._path = path
        self._keep_ms = retention.keep_ms
        self._size_bound = SizeBound(path, retention.max_bytes)
        self._lock: int | None = None
        self._open: _OpenHistory | None = None

    def open(self) -> None:
        """Open the history; a damaged one is set aside."""
        if self._lock is None:
            self._lock = lock_for_writing(self._path)
        self._close_database()
        if self._path.exists() and (problem := find_content_problem(self._path)):
            raise ConfigurationError(f"path {printable(str(self._path))}: {problem}")
        try:
            try:
                self._open = _OpenHistory(self._path)
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
                set_aside(self._path)
                self._open = _OpenHistory(self._path)
        except sqlite3.Error as error:
            raise _describe(error) from error

    def write(self, records: Sequence[Record], stop: Event) -> None:
        """Write the records of one delivery; nothing is written if `stop` is set before the end."""
        history = self._require_open()
        try:
            with transaction(history.database):
                now_ms = history.write(records)
                if stop.is_set():
                    raise _StoppedError  # noqa: TRY301 - the context rolls back
            if now_ms is not None:
                history.expire(self._keep_ms, now_ms)
                self._size_bound.enforce(history.database, history.states)
        except BaseException as error:
            self._close_database()  # what is known of the rows may be wrong now
            if is_damage(error):
                set_aside(self._path)
            if isinstance(error, _ERRORS):
                raise _describe(error) from error
            if not isinstance(error, _StoppedError):
                raise

    def interrupt(self) -> None:
        """End the statement that runs, if any; from any thread."""
        if self._open is not None:
            with suppress(sqlite3.ProgrammingError):  # closed meanwhile
                self._open.database.interrupt()

    def close(self) -> None:
        """Close the history, and release its lock."""
        try:
            self._close_database()
        finally:
            lock, self._lock = self._lock, None
            if lock is not None:
                os.close(lock)

    def _require_open(self) -> "_OpenHistory":
        """Return the open history; opened again if it is no longer at its path."""
        if self._open is None or not self._open.is_at(self._path):
            try:
                self.open()
            except ConfigurationError as error:  # another file is there since the run began
                raise DeliveryError(str(error)) from error
        assert self._open is not None
        return self._open

    def _close_database(self) -> None:
        history, self._open = self._open, None
        if history is not None:
            with suppress(sqlite3.Error):
                # An interrupt without a statement to end would end the checkpoint of the close.
                history.database.execute("SELECT 1").fetchall()
        if history is not None and history.is_at(self._path):
            history.database.close()
        elif history is not None:
            close_moved(history.database, self._path)


class _OpenHistory:
    """A connection, and what is known of the database; of no use once something is rolled back."""

    def __init__(self, path: Path) -> None:
        self.database = open_for_writing(path)
        try:
            self._interning = Interning(self.database)
            self.states = LevelStates(self.database)  # damage of the schema shows here
            self._expired_ms = -1
            """The minute of the last deletion by age."""
            status = path.stat()
        except BaseException:
            self.database.close()
            raise
        self._inode = status.st_dev, status.st_ino

    def is_at(self, path: Path) -> bool:
        """Return whether `path` is still this file."""
        try:
            status = path.stat()
        except OSError:
            return False
        return self._inode == (status.st_dev, status.st_ino)

    def write(self, records: Sequence[Record]) -> int | None:
        """Write the records that are not there yet; return the end of the newest window."""
        run = records[0]["run"]
        run_id, last_sequence = self._interning.find_run(run, records[0]["host"]["name"])
        new = [record for record in records if record["sequence"] > last_sequence]
        if not new:
            return None
        windows = sorted(split_by_stamp(new), key=lambda window: window.start_ms)
        for window in windows:
            if make_room_for(self.database, self.states, window.start_ms):
                self._interning.forget_members()
            self._write_window(run_id, window)
        newest_ms = max(window.end_ms for window in windows)
        sequence = max(record["sequence"] for record in new)
        self._interning.advance_run(run, run_id, sequence, newest_ms)
        return newest_ms

    def expire(self, keep_ms: Mapping[Level, int], now_ms: int) -> None:
        """Delete what is too old, once a minute."""
        if MINUTES.floor(now_ms) != self._expired_ms:
            with transaction(self.database):
                expire_by_age(self.database, self.states, keep_ms, now_ms)
            self._expired_ms = MINUTES.floor(now_ms)

    def _write_window(self, run_id: int, window: StampedWindow) -> None:
        start_ms, end_ms = window.start_ms, window.end_ms
        ids = [self._interning.find_member(record, start_ms) for record in window.traffic]
        members, groups = np.array(ids, np.int64).reshape(-1, 2).T
        unpacked = UnpackedWindow(members, groups, make_rows(window.traffic), window.stats)
        if start_ms >= self.states[MINUTES].complete_ms:
            roll_up(self.database, self.states, start_ms)
        else:
            add_late(self.database, self.states, start_ms, end_ms, unpacked)
        if start_ms >= self.states[WINDOWS].kept_ms:
            content, size = pack_window(window, unpacked)
            self.database.execute(
                "INSERT INTO windows (start_ms, end_ms, run_id, size, content) "
                "VALUES (?, ?, ?, ?, ?)",
                (start_ms, end_ms, run_id, size, content),
            )


def _describe(error: Exception) -> DeliveryError:
    """Return an error of the database as one that may pass."""
    texts = {
        sqlite3.SQLITE_BUSY: "locked by another program",
        sqlite3.SQLITE_FULL: "the disk is full",
    }
    return DeliveryError(texts.get(get_code(error)) or printable(str(error)))

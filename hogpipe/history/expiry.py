"""What a history deletes: by age, level by level, and the oldest of the finest level by size.

In: a connection, and the states of the levels. Out: fewer rows. Raises sqlite3.Error; then the
states have to be read again. All but `SizeBound` works in the transaction that is open. Ages count
from the end of the newest window of the write, not from a clock.

Nothing is deleted from a level before the next one has it. A long overdue deletion takes several
writes: each deletes a bounded number of buckets.

Known limit: a clock that is set years ahead expires what is there.
"""

import logging
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from hogpipe.history.history_file import transaction
from hogpipe.history.level_states import LevelStates
from hogpipe.history.level_tables import tables_of
from hogpipe.history.levels import DAYS, LEVELS, SECOND_MS, WINDOWS, Level
from hogpipe.text import printable

log = logging.getLogger(__name__)

_MOST_BUCKETS = 240
_MOST_WINDOWS_MS = 600 * SECOND_MS
_PARTS = 16
"""A level loses this part of its time at once if the file is too large."""
_MOST_STEPS = 8  # of deletion by size after a write
_VACUUM_PAGES = 4096  # likewise, of pages that are given back


def expire_by_age(
    database: sqlite3.Connection, states: LevelStates, keep_ms: Mapping[Level, int], now_ms: int
) -> None:
    """Delete what is older than its level keeps, counted from `now_ms`."""
    for level in LEVELS:
        until_ms = level.floor(now_ms - keep_ms[level])
        oldest_ms = find_oldest(database, level)
        if oldest_ms is not None:
            most = _MOST_WINDOWS_MS if level == WINDOWS else _MOST_BUCKETS * level.length_ms
            until_ms = min(until_ms, oldest_ms + most)
        _delete(database, states, level, until_ms)
    _delete_unused(database, states)


class SizeBound:
    """Keeps a history within `max_bytes`, the file beside it for transactions (WAL) aside.

    If the file is larger, the oldest rows of the finest level that can spare some are deleted until
    a tenth of the bound is free, and what exceeds the bound is given back to the file system.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._reported: set[Level] = set()

    def enforce(self, database: sqlite3.Connection, states: LevelStates) -> None:
        """Delete what is too much, in transactions of its own; a bounded part of it."""
        most = self._max_bytes // _read_pragma(database, "page_size")
        pages = _read_pragma(database, "page_count")
        if pages <= most:
            return
        for _step in range(_MOST_STEPS):
            if pages - _read_pragma(database, "freelist_count") <= most * 9 // 10:
                break
            with transaction(database):
                level = _expire_oldest(database, states)
            if level is None:
                break
            self._report(level, states[level].kept_ms)
        surplus = min(pages - most, _VACUUM_PAGES)
        database.execute(f"PRAGMA incremental_vacuum({surplus})").fetchall()

    def _report(self, level: Level, kept_ms: int) -> None:
        """Log what was deleted; as a warning once for each level."""
        first = level not in self._reported
        self._reported.add(level)
        since = datetime.fromtimestamp(kept_ms / SECOND_MS, UTC).isoformat(timespec="seconds")
        text = "%s: it has reached max_mib, and keeps its %s since %s only"
        name = printable(str(self._path))
        log.log(logging.WARNING if first else logging.INFO, text, name, level.name, since)


def _expire_oldest(database: sqlite3.Connection, states: LevelStates) -> Level | None:
    """Delete the oldest part of the finest level that can spare some; return that level."""
    for level in LEVELS:
        oldest_ms, limit_ms = find_oldest(database, level), _find_limit(states, level)
        if oldest_ms is None or oldest_ms >= limit_ms:
            continue
        step = max((limit_ms - oldest_ms) // _PARTS, level.length_ms)
        _delete(database, states, level, level.ceil(oldest_ms + step))
        _delete_unused(database, states)
        return level
    return None


def _read_pragma(database: sqlite3.Connection, name: str) -> int:
    (value,) = database.execute(f"PRAGMA {name}").fetchone()
    return int(value)


def find_oldest(database: sqlite3.Connection, level: Level) -> int | None:
    """Return the start of the oldest row of a level, None if it is empty."""
    column = "start_ms" if level == WINDOWS else "start"
    statement = f"SELECT MIN({column}) FROM {level.name}"  # noqa: S608 - own names
    oldest: int | None = database.execute(statement).fetchone()[0]
    return oldest if oldest is None or level == WINDOWS else oldest * SECOND_MS


def make_room_for(database: sqlite3.Connection, states: LevelStates, start_ms: int) -> bool:
    """Let levels hold a window that starts before what they keep, if no other did since then.

    Returns whether a level now holds more. So a history goes on after a clock that was years ahead
    has been set right. A level that has deleted windows of this time cannot hold some of them: it
    would be incomplete.
    """
    changed = False
    for index, level in reversed(list(enumerate(LEVELS))):
        bucket, kept_ms = level.floor(start_ms), states[level].kept_ms
        if bucket >= kept_ms:
            continue
        if any(_has_rows(database, one, bucket, kept_ms) for one in LEVELS[index + 1 :]):
            break
        states.set_kept(level, bucket)
        changed = True
    return changed


def _has_rows(database: sqlite3.Connection, level: Level, since_ms: int, until_ms: int) -> bool:
    found = database.execute(
        f"SELECT 1 FROM {level.name} WHERE start >= ? AND start < ? LIMIT 1",  # noqa: S608
        (level.floor(since_ms) // SECOND_MS, until_ms // SECOND_MS),
    )
    return found.fetchone() is not None


def _find_limit(states: LevelStates, level: Level) -> int:
    """Return until when the next level has everything that this one has."""
    for finer, coarser in pairwise(LEVELS):
        if finer == level:
            return states[coarser].complete_ms
    return states[DAYS].complete_ms


def _delete(database: sqlite3.Connection, states: LevelStates, level: Level, until_ms: int) -> None:
    until_ms = min(until_ms, _find_limit(states, level))
    if until_ms <= states[level].kept_ms:
        return
    if level == WINDOWS:
        database.execute("DELETE FROM windows WHERE start_ms < ?", (until_ms,))
    else:
        until = until_ms // SECOND_MS
        for table in tables_of(level):
            database.execute(f"DELETE FROM {table.name} WHERE start < ?", (until,))  # noqa: S608
        database.execute("DELETE FROM spans WHERE level = ? AND start < ?", (level.name, until))
    states.set_kept(level, until_ms)


def _delete_unused(database: sqlite3.Connection, states: LevelStates) -> None:
    """Delete descriptions that no row uses any more."""
    windows_ms, days_ms = states[WINDOWS].kept_ms, states[DAYS].kept_ms
    database.execute("DELETE FROM members WHERE used_until <= ?", (windows_ms,))
    for table in ("groups", "runs"):
        database.execute(f"DELETE FROM {table} WHERE used_until <= ?", (days_ms,))  # noqa: S608

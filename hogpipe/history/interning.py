"""The ids of runs, groups and members, inside the transaction of a write.

In: records. Out: ids; rows of `runs`, `groups` and `members`. Raises sqlite3.Error. After a
transaction was rolled back, what is cached here is wrong: make a new `Interning`.

A group is stored once. A member is stored again if it is no longer cached: finding it would take an
index as large as the table, and members live as long as windows only.

`used_until` is written when the hour (of members) or the day (of groups) of use changes, so that a
member in constant use costs one update an hour.
"""

import sqlite3
from collections.abc import Mapping

import msgspec
import orjson

from hogpipe.bounded_cache import BoundedCache
from hogpipe.history.levels import DAYS, HOURS, Level
from hogpipe.history.members import split_description
from hogpipe.records.groups import describe_group
from hogpipe.records.schema import TrafficRecord

_MOST_MEMBERS = 32_768  # some 600 bytes each
_MOST_GROUPS = 16_384  # some 500 bytes each


class _Interned(msgspec.Struct, gc=False):
    """A row of `members` or `groups`."""

    number: int
    used_until: int
    """The end of the hour or day in which it was used last, in milliseconds."""


class Interning:
    """Finds the ids of what records describe, and stores what is new."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._run: tuple[str, int, int] | None = None
        """The last run: its id, and its last sequence."""
        self.forget_members()

    def forget_members(self) -> None:
        """Evict members and groups, whose rows may have been deleted."""
        self._members = BoundedCache[tuple[_Interned, _Interned]](_MOST_MEMBERS)
        """Each member with its group, by its description."""
        self._groups = BoundedCache[_Interned](_MOST_GROUPS)

    def find_run(self, run: str, host: str) -> tuple[int, int]:
        """Return the id of a run, and the last sequence that was written of it."""
        if self._run is not None and self._run[0] == run:
            return self._run[1:]
        row = self._database.execute(
            "SELECT id, last_sequence FROM runs WHERE run = ?", (run,)
        ).fetchone()
        if row is None:
            row = self._insert("runs (run, host, last_sequence, used_until)", run, host, 0, 0), 0
        self._run = run, *row
        return self._run[1:]

    def advance_run(self, run: str, run_id: int, sequence: int, end_ms: int) -> None:
        """Record that a run is written up to `sequence`, of a window that ends at `end_ms`."""
        self._database.execute(
            "UPDATE runs SET last_sequence = ?, used_until = MAX(used_until, ?) WHERE id = ?",
            (sequence, DAYS.ceil(end_ms + 1), run_id),
        )
        self._run = run, run_id, sequence

    def find_member(self, record: TrafficRecord, start_ms: int) -> tuple[int, int]:
        """Return the ids of the member and the group of a record, used at `start_ms`."""
        description = describe_group(record)
        key = orjson.dumps(description)
        known = self._members.get(key)
        if (
            known is None
            or not self._use("members", HOURS, known[0], start_ms)
            or not self._use("groups", DAYS, known[1], start_ms)
        ):
            known = self._make_member(description, start_ms)
            self._members.keep(key, known)
        return known[0].number, known[1].number

    def _make_member(
        self, description: Mapping[str, object], start_ms: int
    ) -> tuple[_Interned, _Interned]:
        group, own = split_description(description)
        found = self._find_group(orjson.dumps(group, option=orjson.OPT_SORT_KEYS), start_ms)
        used_until = HOURS.ceil(start_ms + 1)
        text = orjson.dumps(own).decode()
        number = self._insert("members (description, used_until)", text, used_until)
        return _Interned(number, used_until), found

    def _find_group(self, text: bytes, start_ms: int) -> _Interned:
        known = self._groups.get(text)
        if known is None:
            row = self._database.execute(
                "SELECT id, used_until FROM groups WHERE description = ?", (text.decode(),)
            ).fetchone()
            known = None if row is None else _Interned(*row)
        if known is None or not self._use("groups", DAYS, known, start_ms):
            used_until = DAYS.ceil(start_ms + 1)
            columns = "groups (description, used_until)"
            known = _Interned(self._insert(columns, text.decode(), used_until), used_until)
        self._groups.keep(text, known)
        return known

    def _use(self, table: str, unit: Level, interned: _Interned, start_ms: int) -> bool:
        """Record a use; return False if the row has been deleted meanwhile."""
        if start_ms < interned.used_until:
            return True
        interned.used_until = unit.ceil(start_ms + 1)
        changed = self._database.execute(
            f"UPDATE {table} SET used_until = MAX(used_until, ?) WHERE id = ?",  # noqa: S608
            (interned.used_until, interned.number),
        )
        return changed.rowcount > 0

    def _insert(self, columns: str, *values: object) -> int:
        """Insert a row; return its id."""
        places = ", ".join("?" * len(values))
        made = self._database.execute(f"INSERT INTO {columns} VALUES ({places})", values)  # noqa: S608
        assert made.lastrowid is not None
        return made.lastrowid

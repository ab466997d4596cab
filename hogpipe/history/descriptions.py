"""The descriptions of groups and members, as a reader needs them.

In: a read-only connection; ids. Out: descriptions. Raises sqlite3.Error. Rows never change and ids
are never used again, so that what was read stays valid; the number of cached rows is bounded.
"""

import sqlite3
from collections.abc import Mapping

import orjson

from hogpipe.history.members import Description, join_descriptions

_MOST_CACHED = 100_000


class Descriptions:
    """Finds descriptions by id."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._groups = _CachedTable(database, "groups")
        self._members = _CachedTable(database, "members")

    def of_group(self, group: int) -> Description:
        """Return the description of a group; empty if its row has expired."""
        return self._groups.find(group)

    def of_member(self, member: int, group: int) -> Description:
        """Return the description of a member with that of its group, as a record has it."""
        own = self._members.find(member)
        return join_descriptions(self._groups.find(group), own) if own else self.of_group(group)


class _CachedTable:
    def __init__(self, database: sqlite3.Connection, table: str) -> None:
        self._database = database
        self._statement = f"SELECT description FROM {table} WHERE id = ?"  # noqa: S608 - own names
        self._cached: dict[int, Description] = {}

    def find(self, number: int) -> Description:
        known = self._cached.get(number)
        if known is not None:
            return known
        row = self._database.execute(self._statement, (number,)).fetchone()
        if row is None:
            return _EMPTY
        if len(self._cached) >= _MOST_CACHED:
            self._cached.clear()
        found: Description = orjson.loads(row[0])
        self._cached[number] = found
        return found


_EMPTY: Mapping[str, object] = {}

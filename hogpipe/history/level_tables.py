"""PURE: the tables of a level, and the SQL of their columns.

A level has a table of traffic and one of the health of TCP connections, whose rows are those of
groups with health. Rows add up by column; of the least round-trip time the least stays, and 0 is
unknown.
"""

from dataclasses import dataclass

from hogpipe.history.counters import ALL_COUNTERS, COUNTERS, HEALTH_COUNTERS, LEAST
from hogpipe.history.levels import Level


@dataclass(frozen=True, slots=True)
class LevelTable:
    """A table with a row for each bucket and group: `start`, `group_id`, counters."""

    name: str
    counters: tuple[str, ...]

    @property
    def columns(self) -> str:
        """The counters, as a list of SQL."""
        return ", ".join(self.counters)

    @property
    def sums(self) -> str:
        """The sums of all counters over rows, as a list of SQL."""
        return ", ".join(
            f"COALESCE(MIN(NULLIF({name}, 0)), 0)" if name == LEAST else f"SUM({name})"
            for name in self.counters
        )

    @property
    def insertion(self) -> str:
        """The beginning of a statement that inserts rows; `addition` ends it."""
        return f"INSERT INTO {self.name} (start, group_id, {self.columns})"

    @property
    def addition(self) -> str:
        """The clause that adds an inserted row to the one that is there."""
        changes = ", ".join(map(_make_addition, self.counters))
        return f"ON CONFLICT (start, group_id) DO UPDATE SET {changes}"

    @property
    def creation(self) -> str:
        """The statement that makes the table."""
        counters = ", ".join(f"{name} INTEGER NOT NULL" for name in self.counters)
        return (
            f"CREATE TABLE {self.name} (start INTEGER NOT NULL, group_id INTEGER NOT NULL, "
            f"{counters}, PRIMARY KEY (start, group_id)) WITHOUT ROWID;\n"
        )

    @property
    def slice(self) -> slice:
        """The columns of a row of `ALL_COUNTERS` that are of this table."""
        start = ALL_COUNTERS.index(self.counters[0])
        return slice(start, start + len(self.counters))


def traffic_table(level: Level) -> LevelTable:
    """Return the table of traffic."""
    return LevelTable(level.name, COUNTERS)


def health_table(level: Level) -> LevelTable:
    """Return the table of health."""
    return LevelTable(f"{level.name}_health", HEALTH_COUNTERS)


def tables_of(level: Level) -> tuple[LevelTable, LevelTable]:
    """Return both tables."""
    return traffic_table(level), health_table(level)


def _make_addition(name: str) -> str:
    if name != LEAST:
        return f"{name} = {name} + excluded.{name}"
    # The scalar MIN is NULL if one of both is; then the sum is the other one.
    lesser = f"MIN(NULLIF({name}, 0), NULLIF(excluded.{name}, 0))"
    return f"{name} = COALESCE({lesser}, {name} + excluded.{name})"

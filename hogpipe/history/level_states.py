"""What each level of a history holds, as its table `levels` says.

In: a connection. Out: a `LevelState` for each level, and changes of them, which are part of the
open transaction. After a transaction was rolled back, the states have to be read again.
"""

import sqlite3

from hogpipe.history.levels import EVER_MS, LEVELS, WINDOWS, Level, LevelState


class LevelStates:
    """The states of all levels; nothing is kept or complete in a new history."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        rows = database.execute("SELECT level, kept_ms, complete_ms FROM levels")
        known = {name: (kept, complete) for name, kept, complete in rows}
        self._states = {
            level: LevelState(
                level, *known.get(level.name, (0, EVER_MS if level == WINDOWS else 0))
            )
            for level in LEVELS
        }

    def __getitem__(self, level: Level) -> LevelState:
        return self._states[level]

    def list(self) -> list[LevelState]:
        """Return all states, that of the windows first."""
        return list(self._states.values())

    def set_kept(self, level: Level, kept_ms: int) -> None:
        """Record that windows before `kept_ms` are not in this level, and those after it are."""
        self._set(LevelState(level, kept_ms, self[level].complete_ms))

    def set_complete(self, level: Level, complete_ms: int) -> None:
        """Record that this level has all windows before `complete_ms`."""
        self._set(LevelState(level, self[level].kept_ms, complete_ms))

    def _set(self, state: LevelState) -> None:
        self._database.execute(
            "INSERT OR REPLACE INTO levels (level, kept_ms, complete_ms) VALUES (?, ?, ?)",
            (state.level.name, state.kept_ms, state.complete_ms),
        )
        self._states[state.level] = state

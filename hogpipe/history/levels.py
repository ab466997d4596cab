"""PURE: the levels of a history, and which of them answer for a span of time.

In: times in milliseconds since the epoch, and what each level holds. Out: the pieces of a span,
each read from one level, so that nothing counts twice and nothing is left out.

A window belongs to the bucket in which it starts. A level holds all buckets from `kept_ms`, where
retention ended, to `complete_ms`, up to which the finer level was rolled up.

Algorithm: from the start of the span on, take the coarsest bucket that begins here, fits into the
span and is complete; where none does, the finest one that is kept. So a span begins and ends with
windows where these are kept, and a day of history is read as some hundred rows a group. Where only
a coarser level is kept, the span grows to whole buckets of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

SECOND_MS = 1000
EVER_MS = 1 << 62
"""A time after all others."""


@dataclass(frozen=True, slots=True)
class Level:
    """A table of the history, and the length of its buckets."""

    name: str
    length_ms: int

    def floor(self, time_ms: int) -> int:
        """Return the start of the bucket that `time_ms` is in."""
        return time_ms - time_ms % self.length_ms

    def ceil(self, time_ms: int) -> int:
        """Return the start of the first bucket that does not begin before `time_ms`."""
        return self.floor(time_ms + self.length_ms - 1)


WINDOWS = Level("windows", 1)
"""The windows themselves, which begin at any millisecond."""
MINUTES = Level("minutes", 60 * SECOND_MS)
HOURS = Level("hours", 3600 * SECOND_MS)
DAYS = Level("days", 86_400 * SECOND_MS)
BUCKETED = (MINUTES, HOURS, DAYS)
"""The levels that windows are rolled up to, the finest first."""
LEVELS = (WINDOWS, *BUCKETED)


@dataclass(frozen=True, slots=True)
class LevelState:
    """What a level holds: all windows that start from `kept_ms` on and before `complete_ms`."""

    level: Level
    kept_ms: int
    complete_ms: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a span, read from one level; `until_ms` is exclusive."""

    level: Level
    since_ms: int
    until_ms: int


def plan_span(
    since_ms: int, until_ms: int, states: Sequence[LevelState], most_ms: int = EVER_MS
) -> list[Piece]:
    """Return the pieces that cover a span, in order; `states` are in the order of `LEVELS`.

    The first piece may begin before `since_ms`, and the last one end after `until_ms`. Time of
    which nothing is kept is in no piece. Buckets longer than `most_ms` are read only where no
    shorter ones are kept.
    """
    pieces: list[Piece] = []
    position = since_ms
    while position < until_ms:
        kept = [one for one in states if one.kept_ms <= position < one.complete_ms]
        if not kept:
            later = [one.kept_ms for one in states if one.kept_ms > position]
            position = min(later, default=until_ms)
            continue
        position = kept[0].level.floor(position)  # no change but for the first piece
        piece = _choose_piece(position, until_ms, kept, most_ms)
        if pieces and pieces[-1].level == piece.level and pieces[-1].until_ms == piece.since_ms:
            piece = Piece(piece.level, pieces.pop().since_ms, piece.until_ms)
        pieces.append(piece)
        position = piece.until_ms
    return pieces


def _choose_piece(position: int, until_ms: int, kept: Sequence[LevelState], most_ms: int) -> Piece:
    """Return the piece that begins at `position`; `kept` levels hold that time."""
    for one in reversed(kept):
        level, end = one.level, position + one.level.length_ms
        fits = level.floor(position) == position and end <= min(until_ms, one.complete_ms)
        if fits and level != WINDOWS and level.length_ms <= most_ms:
            return Piece(level, position, end)
    finest = kept[0].level
    if finest != WINDOWS:
        return Piece(finest, position, position + finest.length_ms)
    if any(one.level != WINDOWS and one.level.length_ms <= most_ms for one in kept):
        until_ms = min(until_ms, MINUTES.floor(position) + MINUTES.length_ms)
    return Piece(WINDOWS, position, until_ms)

"""A span is read from the coarsest levels that fit, and nothing in it twice."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from support.histories import DAY, HOUR, MINUTE

from hogpipe.history.levels import (
    DAYS,
    EVER_MS,
    HOURS,
    LEVELS,
    MINUTES,
    WINDOWS,
    LevelState,
    Piece,
    plan_span,
)

NOW = 400 * DAY + 7 * HOUR + 31 * MINUTE + 12_345


def states(
    windows: int = NOW - HOUR, minutes: int = 395 * DAY, hours: int = 320 * DAY, days: int = 0
) -> list[LevelState]:
    """Return levels that are kept from these times on, rolled up as far as NOW allows."""
    kept = {WINDOWS: windows, MINUTES: minutes, HOURS: hours, DAYS: days}
    complete = {level: EVER_MS if level == WINDOWS else level.floor(NOW) for level in LEVELS}
    return [LevelState(level, level.floor(kept[level]), complete[level]) for level in LEVELS]


def test_a_span_begins_and_ends_with_windows_where_these_are_kept() -> None:
    hour, second = 400 * DAY + 6 * HOUR, 1000
    found = plan_span(hour - second, hour + HOUR + MINUTE + second, states(windows=399 * DAY))
    assert found == [
        Piece(WINDOWS, hour - second, hour),
        Piece(HOURS, hour, hour + HOUR),
        Piece(MINUTES, hour + HOUR, hour + HOUR + MINUTE),
        Piece(WINDOWS, hour + HOUR + MINUTE, hour + HOUR + MINUTE + second),
    ]


def test_what_is_not_rolled_up_yet_is_read_from_the_finer_level() -> None:
    found = plan_span(400 * DAY, NOW, states())
    assert found == [
        Piece(HOURS, 400 * DAY, HOURS.floor(NOW)),
        Piece(MINUTES, HOURS.floor(NOW), MINUTES.floor(NOW)),
        Piece(WINDOWS, MINUTES.floor(NOW), NOW),
    ]


def test_where_only_days_are_kept_the_span_grows_to_whole_days() -> None:
    assert plan_span(3 * DAY + 1, 3 * DAY + 2, states()) == [Piece(DAYS, 3 * DAY, 4 * DAY)]


def test_time_of_which_nothing_is_kept_is_in_no_piece() -> None:
    found = plan_span(0, 12 * DAY, states(days=10 * DAY))
    assert found == [Piece(DAYS, 10 * DAY, 12 * DAY)]
    assert plan_span(0, 9 * DAY, states(days=10 * DAY)) == []


def test_long_buckets_are_read_only_where_no_shorter_ones_are_kept() -> None:
    found = plan_span(319 * DAY, 321 * DAY, states(), HOUR)
    assert found == [Piece(DAYS, 319 * DAY, 320 * DAY), Piece(HOURS, 320 * DAY, 321 * DAY)]


@given(
    st.integers(0, NOW + DAY),
    st.integers(0, 30 * DAY),
    st.sampled_from([1, MINUTE, HOUR, EVER_MS]),
    st.lists(st.integers(0, NOW), min_size=3, max_size=3).map(sorted),
)
def test_pieces_are_disjoint_and_whole_and_cover_what_is_kept(
    since: int, length: int, most_ms: int, kept: list[int]
) -> None:
    until = since + length
    levels = states(windows=kept[2], minutes=kept[1], hours=kept[0])
    pieces = plan_span(since, until, levels, most_ms)
    for before, after in pairwise(pieces):
        assert before.until_ms == after.since_ms
    for piece in pieces:
        state = levels[LEVELS.index(piece.level)]
        assert piece.level.floor(piece.since_ms) == piece.since_ms
        assert piece.level.floor(piece.until_ms) == piece.until_ms
        assert state.kept_ms <= piece.since_ms < piece.until_ms <= state.complete_ms
    if length:
        assert pieces[0].since_ms <= since < pieces[0].until_ms
        assert pieces[-1].since_ms < until <= pieces[-1].until_ms
    else:
        assert pieces == []

"""What waits for a sink is bounded, and what gives way is counted."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sinks import total_bytes, traffic

from hogpipe.delivery import coalescing as module
from hogpipe.delivery.coalescing import CoalescingQueue, WaitingWindow
from hogpipe.records.schema import Record


def _fill(backlog: CoalescingQueue, windows: int, groups: int = 2) -> int:
    """Push windows of `groups` records each; return their bytes."""
    total = 0
    for second in range(windows):
        window: list[Record] = [
            traffic(second * groups + pid, pid=pid, second=second % 59) for pid in range(groups)
        ]
        backlog.push(WaitingWindow(window))
        _do_chores(backlog)
        total += total_bytes(window)
    return total


def _do_chores(backlog: CoalescingQueue) -> None:
    while chore := backlog.find_chore():
        chore.run()
        backlog.finish(chore)


def _pop(backlog: CoalescingQueue) -> Sequence[Record]:
    oldest = backlog.oldest
    if oldest is None:
        return ()
    assert backlog.take(oldest)
    return oldest.records()


def _drain(backlog: CoalescingQueue) -> list[list[Record]]:
    taken = []
    while window := _pop(backlog):
        taken.append(list(window))
    return taken


def test_coalescing_keeps_every_byte_and_the_newest_windows_apart() -> None:
    backlog = CoalescingQueue(4, "coalesce")
    total = _fill(backlog, 9)
    assert backlog.queued + backlog.coalesced == 18
    taken = _drain(backlog)
    assert len(taken) <= 4
    assert sum(map(total_bytes, taken)) == total
    assert [record["sequence"] for record in taken[-1]] == [16, 17]
    assert (backlog.dropped, backlog.queued) == (0, 0)


def test_coalescing_into_a_queue_of_one_leaves_one_window() -> None:
    backlog = CoalescingQueue(1, "coalesce")
    total = _fill(backlog, 5)
    (window,) = _drain(backlog)
    assert len(window) == 2
    assert total_bytes(window) == total


def test_dropping_the_oldest_keeps_the_newest() -> None:
    backlog = CoalescingQueue(3, "drop_oldest")
    _fill(backlog, 5)
    assert (backlog.dropped, backlog.queued) == (4, 6)
    assert [window[0]["sequence"] for window in _drain(backlog)] == [4, 6, 8]


def test_blocking_says_when_it_is_full_and_drops_nothing() -> None:
    backlog = CoalescingQueue(2, "block")
    _fill(backlog, 1)
    assert not backlog.full
    _fill(backlog, 2)
    assert backlog.full
    assert len(_drain(backlog)) == 3
    assert backlog.dropped == 0


def test_a_window_without_records_does_not_wait() -> None:
    backlog = CoalescingQueue(1, "drop_oldest")
    backlog.push(WaitingWindow([]))
    assert not backlog.full


def _window(second: int, groups: int) -> list[Record]:
    return [traffic(second * groups + pid, pid=pid, second=second % 59) for pid in range(groups)]


def test_few_windows_of_many_records_are_too_much_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RECORDS", 25)
    backlog = CoalescingQueue(64, "coalesce")
    total = _fill(backlog, 9, groups=10)
    assert backlog.queued <= 25
    assert sum(map(total_bytes, _drain(backlog))) == total


def test_one_window_may_wait_whatever_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RECORDS", 5)
    backlog = CoalescingQueue(64, "drop_oldest")
    _fill(backlog, 2, groups=10)
    assert (backlog.queued, backlog.dropped, len(_drain(backlog))) == (10, 10, 1)


def test_what_is_put_back_comes_first_again() -> None:
    backlog = CoalescingQueue(4, "coalesce")
    _fill(backlog, 9)
    oldest = _pop(backlog)
    backlog.put_back(oldest)
    assert backlog.queued == 8
    assert _drain(backlog)[0] == oldest


def test_a_merged_window_has_a_bound_and_loses_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_GROUPS", 7)
    backlog = CoalescingQueue(1, "coalesce")
    total = 0
    for second in range(5):
        window: list[Record] = [traffic(pid, pid=pid) for pid in range(second * 4, second * 4 + 4)]
        total += total_bytes(window)
        backlog.push(WaitingWindow(window))
        _do_chores(backlog)
    (merged,) = _drain(backlog)
    assert len(merged) <= 7
    assert total_bytes(merged) == total


def test_what_waits_waits_as_sums_and_comes_out_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PLAIN_RECORDS", 25)
    backlog = CoalescingQueue(64, "coalesce")
    windows = [_window(second, 10) for second in range(9)]
    for window in windows:
        backlog.push(WaitingWindow(window))
        _do_chores(backlog)
    assert sum(waiting.plain for waiting in backlog._windows) == 2
    assert _drain(backlog) == windows
    assert (backlog.coalesced, backlog.queued) == (0, 0)


def test_whoever_blocks_waits_for_little_that_waits_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PLAIN_RECORDS", 25)
    backlog = CoalescingQueue(64, "block")
    _fill(backlog, 2, groups=10)
    assert not backlog.full
    _fill(backlog, 1, groups=10)
    assert backlog.full
    assert all(waiting.plain for waiting in backlog._windows)


def test_merging_that_is_far_behind_gives_up_names_and_no_byte(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_RECORDS", 25)
    monkeypatch.setattr(module, "PLAIN_RECORDS", 25)
    backlog = CoalescingQueue(64, "coalesce")
    windows = [_window(second, 10) for second in range(9)]
    for window in windows:
        backlog.push(WaitingWindow(window))
    _do_chores(backlog)
    assert backlog.queued <= 25
    taken = _drain(backlog)
    assert "remainder" in taken[0][0]
    assert taken[-1] == windows[-1]
    assert sum(map(total_bytes, taken)) == sum(map(total_bytes, windows))


@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=30),
    st.integers(1, 3),
    st.sampled_from(["coalesce", "drop_oldest"]),
)
@settings(deadline=None)
def test_windows_may_be_taken_while_a_chore_is_done(
    moves: list[tuple[bool, bool, bool]], limit: int, when_full: module.WhenFull
) -> None:
    plain, module.PLAIN_RECORDS = module.PLAIN_RECORDS, 7
    try:
        backlog = CoalescingQueue(limit, when_full)
        pushed, taken = 0, []
        chore: module.Chore | None = None
        reading: WaitingWindow | None = None
        for second, (finish, take, put_back) in enumerate(moves):
            window = _window(second, 5)
            pushed += total_bytes(window)
            backlog.push(WaitingWindow(window))
            chore = chore or backlog.find_chore()
            if reading and backlog.take(reading):
                records = reading.records()
                if put_back:
                    backlog.put_back(records)
                else:
                    taken.append(records)
            reading = backlog.oldest if take else None
            if chore and finish:
                chore.run()
                backlog.finish(chore)
                chore = None
        waiting = [one for one in backlog._windows if one.plain]
        assert backlog._plain == sum(map(len, waiting))
        in_all = backlog.queued + backlog.coalesced + backlog.dropped + sum(map(len, taken))
        assert in_all == 5 * len(moves)
        taken += _drain(backlog)
        if when_full == "coalesce":
            assert sum(map(total_bytes, taken)) == pushed
        assert (backlog.queued, backlog._plain) == (0, 0)
    finally:
        module.PLAIN_RECORDS = plain

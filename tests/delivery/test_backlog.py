"""What waits for a sink is bounded, and what gives way is counted."""

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sinks import total_bytes, traffic

from hogpipe.delivery import backlog as module
from hogpipe.delivery.backlog import Backlog
from hogpipe.record import Record


def _fill(backlog: Backlog, windows: int, groups: int = 2) -> int:
    """Push windows of `groups` records each; return their bytes."""
    total = 0
    for second in range(windows):
        window: list[Record] = [
            traffic(second * groups + pid, pid=pid, second=second % 59) for pid in range(groups)
        ]
        backlog.push(window)
        for _ in backlog.fold():
            pass
        total += total_bytes(window)
    return total


def _drain(backlog: Backlog) -> list[list[Record]]:
    taken = []
    while window := backlog.pop():
        taken.append(list(window))
    return taken


def test_coalescing_keeps_every_byte_and_the_newest_windows_apart() -> None:
    backlog = Backlog(4, "coalesce")
    total = _fill(backlog, 9)
    assert backlog.queued + backlog.coalesced == 18
    taken = _drain(backlog)
    assert len(taken) <= 4
    assert sum(map(total_bytes, taken)) == total
    assert [record["sequence"] for record in taken[-1]] == [16, 17]
    assert (backlog.dropped, backlog.queued) == (0, 0)


def test_coalescing_into_a_queue_of_one_leaves_one_window() -> None:
    backlog = Backlog(1, "coalesce")
    total = _fill(backlog, 5)
    (window,) = _drain(backlog)
    assert len(window) == 2
    assert total_bytes(window) == total


def test_dropping_the_oldest_keeps_the_newest() -> None:
    backlog = Backlog(3, "drop_oldest")
    _fill(backlog, 5)
    assert (backlog.dropped, backlog.queued) == (4, 6)
    assert [window[0]["sequence"] for window in _drain(backlog)] == [4, 6, 8]


def test_blocking_says_when_it_is_full_and_drops_nothing() -> None:
    backlog = Backlog(2, "block")
    _fill(backlog, 1)
    assert not backlog.full
    _fill(backlog, 2)
    assert backlog.full
    assert len(_drain(backlog)) == 3
    assert backlog.dropped == 0


def test_a_window_without_records_does_not_wait() -> None:
    backlog = Backlog(1, "drop_oldest")
    backlog.push([])
    assert not backlog.full


def _window(second: int, groups: int) -> list[Record]:
    return [traffic(second * groups + pid, pid=pid, second=second % 59) for pid in range(groups)]


def test_few_windows_of_many_records_are_too_much_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RECORDS", 25)
    backlog = Backlog(64, "coalesce")
    total = _fill(backlog, 9, groups=10)
    assert backlog.queued <= 25
    assert sum(map(total_bytes, _drain(backlog))) == total


def test_one_window_may_wait_whatever_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RECORDS", 5)
    backlog = Backlog(64, "drop_oldest")
    _fill(backlog, 2, groups=10)
    assert (backlog.queued, backlog.dropped, len(_drain(backlog))) == (10, 10, 1)


def test_what_is_put_back_comes_first_again() -> None:
    backlog = Backlog(4, "coalesce")
    _fill(backlog, 9)
    oldest = backlog.pop()
    backlog.put_back(oldest)
    assert backlog.queued == 8
    assert _drain(backlog)[0] == oldest


def test_a_merged_window_has_a_bound_and_loses_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_GROUPS", 7)
    backlog = Backlog(1, "coalesce")
    total = 0
    for second in range(5):
        window: list[Record] = [traffic(pid, pid=pid) for pid in range(second * 4, second * 4 + 4)]
        total += total_bytes(window)
        backlog.push(window)
        for _ in backlog.fold():
            pass
    (merged,) = _drain(backlog)
    assert len(merged) <= 7
    assert total_bytes(merged) == total


@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.booleans()), max_size=30),
    st.integers(1, 3),
)
@settings(deadline=None)
def test_a_fold_may_be_left_at_any_step_and_windows_taken_meanwhile(
    moves: list[tuple[int, bool, bool]], limit: int
) -> None:
    step, module._STEP = module._STEP, 2
    try:
        backlog = Backlog(limit, "coalesce")
        pushed, taken = 0, []
        for second, (steps, take, put_back) in enumerate(moves):
            window = _window(second, 5)
            pushed += total_bytes(window)
            backlog.push(window)
            fold = backlog.fold()
            list(islice(fold, steps))
            if take and (records := backlog.pop()):
                if put_back:
                    backlog.put_back(records)
                else:
                    taken.append(records)
            list(islice(fold, steps))
        given_records = 5 * len(moves)
        assert backlog.queued + backlog.coalesced + sum(map(len, taken)) == given_records
        taken += _drain(backlog)
        assert sum(map(total_bytes, taken)) == pushed
        assert backlog.queued == 0
    finally:
        module._STEP = step

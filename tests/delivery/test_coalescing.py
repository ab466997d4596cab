"""The queue in memory is bounded, and the overflow policy counts what it merges or drops."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.sinks import total_bytes, traffic

from hogpipe.delivery import coalescing as module
from hogpipe.delivery.coalescing import CoalescingQueue, QueuedWindow
from hogpipe.records.schema import Record


def _fill(queue: CoalescingQueue, windows: int, groups: int = 2) -> int:
    """Push windows of `groups` records each; return their bytes."""
    total = 0
    for second in range(windows):
        window: list[Record] = [
            traffic(second * groups + pid, pid=pid, second=second % 59) for pid in range(groups)
        ]
        queue.push(QueuedWindow(window))
        _run_jobs(queue)
        total += total_bytes(window)
    return total


def _run_jobs(queue: CoalescingQueue) -> None:
    while job := queue.next_job():
        job.run()
        queue.finish(job)


def _pop(queue: CoalescingQueue) -> Sequence[Record]:
    oldest = queue.oldest
    if oldest is None:
        return ()
    assert queue.remove(oldest)
    return oldest.records()


def _drain(queue: CoalescingQueue) -> list[list[Record]]:
    taken = []
    while window := _pop(queue):
        taken.append(list(window))
    return taken


def test_coalescing_keeps_every_byte_and_the_newest_windows_apart() -> None:
    queue = CoalescingQueue(4, "coalesce")
    total = _fill(queue, 9)
    assert queue.queued + queue.coalesced == 18
    taken = _drain(queue)
    assert len(taken) <= 4
    assert sum(map(total_bytes, taken)) == total
    assert [record["sequence"] for record in taken[-1]] == [16, 17]
    assert (queue.dropped, queue.queued) == (0, 0)


def test_coalescing_into_a_queue_of_one_leaves_one_window() -> None:
    queue = CoalescingQueue(1, "coalesce")
    total = _fill(queue, 5)
    (window,) = _drain(queue)
    assert len(window) == 2
    assert total_bytes(window) == total


def test_dropping_the_oldest_keeps_the_newest() -> None:
    queue = CoalescingQueue(3, "drop_oldest")
    _fill(queue, 5)
    assert (queue.dropped, queue.queued) == (4, 6)
    assert [window[0]["sequence"] for window in _drain(queue)] == [4, 6, 8]


def test_block_reports_a_full_queue_and_drops_nothing() -> None:
    queue = CoalescingQueue(2, "block")
    _fill(queue, 1)
    assert not queue.full
    _fill(queue, 2)
    assert queue.full
    assert len(_drain(queue)) == 3
    assert queue.dropped == 0


def test_a_window_without_records_is_not_queued() -> None:
    queue = CoalescingQueue(1, "drop_oldest")
    queue.push(QueuedWindow([]))
    assert not queue.full


def _window(second: int, groups: int) -> list[Record]:
    return [traffic(second * groups + pid, pid=pid, second=second % 59) for pid in range(groups)]


def test_the_bound_on_records_applies_to_few_large_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RECORDS", 25)
    queue = CoalescingQueue(64, "coalesce")
    total = _fill(queue, 9, groups=10)
    assert queue.queued <= 25
    assert sum(map(total_bytes, _drain(queue))) == total


def test_a_single_window_is_queued_whatever_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RECORDS", 5)
    queue = CoalescingQueue(64, "drop_oldest")
    _fill(queue, 2, groups=10)
    assert (queue.queued, queue.dropped, len(_drain(queue))) == (10, 10, 1)


def test_a_window_pushed_to_the_front_is_the_oldest_again() -> None:
    queue = CoalescingQueue(4, "coalesce")
    _fill(queue, 9)
    oldest = _pop(queue)
    queue.push_front(oldest)
    assert queue.queued == 8
    assert _drain(queue)[0] == oldest


def test_merged_windows_are_bounded_and_lose_no_byte(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_GROUPS", 7)
    queue = CoalescingQueue(1, "coalesce")
    total = 0
    for second in range(5):
        window: list[Record] = [traffic(pid, pid=pid) for pid in range(second * 4, second * 4 + 4)]
        total += total_bytes(window)
        queue.push(QueuedWindow(window))
        _run_jobs(queue)
    (merged,) = _drain(queue)
    assert len(merged) <= 7
    assert total_bytes(merged) == total


def test_windows_queued_as_sums_come_out_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UNMERGED_RECORDS", 25)
    queue = CoalescingQueue(64, "coalesce")
    windows = [_window(second, 10) for second in range(9)]
    for window in windows:
        queue.push(QueuedWindow(window))
        _run_jobs(queue)
    assert sum(not one.merged for one in queue._windows) == 2
    assert _drain(queue) == windows
    assert (queue.coalesced, queue.queued) == (0, 0)


def test_a_blocking_queue_is_full_with_few_unmerged_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_UNMERGED_RECORDS", 25)
    queue = CoalescingQueue(64, "block")
    _fill(queue, 2, groups=10)
    assert not queue.full
    _fill(queue, 1, groups=10)
    assert queue.full
    assert not any(one.merged for one in queue._windows)


def test_merging_that_is_far_behind_loses_groups_but_no_byte(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_RECORDS", 25)
    monkeypatch.setattr(module, "MAX_UNMERGED_RECORDS", 25)
    queue = CoalescingQueue(64, "coalesce")
    windows = [_window(second, 10) for second in range(9)]
    for window in windows:
        queue.push(QueuedWindow(window))
    _run_jobs(queue)
    assert queue.queued <= 25
    taken = _drain(queue)
    assert "remainder" in taken[0][0]
    assert taken[-1] == windows[-1]
    assert sum(map(total_bytes, taken)) == sum(map(total_bytes, windows))


@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=30),
    st.integers(1, 3),
    st.sampled_from(["coalesce", "drop_oldest"]),
)
def test_windows_may_be_removed_while_a_job_runs(
    moves: list[tuple[bool, bool, bool]], limit: int, when_full: module.OverflowPolicy
) -> None:
    bound, module.MAX_UNMERGED_RECORDS = module.MAX_UNMERGED_RECORDS, 7
    try:
        queue = CoalescingQueue(limit, when_full)
        pushed, taken = 0, []
        job: module.MergeJob | None = None
        reading: QueuedWindow | None = None
        for second, (finish, take, put_back) in enumerate(moves):
            window = _window(second, 5)
            pushed += total_bytes(window)
            queue.push(QueuedWindow(window))
            job = job or queue.next_job()
            if reading and queue.remove(reading):
                records = reading.records()
                if put_back:
                    queue.push_front(records)
                else:
                    taken.append(records)
            reading = queue.oldest if take else None
            if job and finish:
                job.run()
                queue.finish(job)
                job = None
        unmerged = [one for one in queue._windows if not one.merged]
        assert queue._unmerged == sum(map(len, unmerged))
        in_all = queue.queued + queue.coalesced + queue.dropped + sum(map(len, taken))
        assert in_all == 5 * len(moves)
        taken += _drain(queue)
        if when_full == "coalesce":
            assert sum(map(total_bytes, taken)) == pushed
        assert (queue.queued, queue._unmerged) == (0, 0)
    finally:
        module.MAX_UNMERGED_RECORDS = bound

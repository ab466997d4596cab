"""What waits for a sink is bounded, and what gives way is counted."""

from support.sinks import total_bytes, traffic

from hogpipe.record import Record
from hogpipe.sinks.backlog import Backlog


def _fill(backlog: Backlog, windows: int, groups: int = 2) -> int:
    """Push windows of `groups` records each; return their bytes."""
    total = 0
    for second in range(windows):
        window: list[Record] = [
            traffic(second * groups + pid, pid=pid, second=second % 59) for pid in range(groups)
        ]
        backlog.push(window)
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

from hogpipe_otlp.points import Point
from hogpipe_otlp.totals import RunningTotals
from hypothesis import given
from hypothesis import strategies as st


def point(name: str, size: int, time: int) -> Point:
    return Point(name.encode(), b"", size, time, time + 1)


def test_points_continue_from_committed_totals() -> None:
    totals = RunningTotals(max_series=2)
    totals.commit(totals.total([point("a", 5, 0), point("b", 7, 0)]))
    assert totals.total([point("a", 3, 1)]) == [Point(b"a", b"", 8, start_ns=0, end_ns=2)]


def test_uncommitted_points_are_the_same_when_repeated() -> None:
    totals = RunningTotals(max_series=2)
    first = totals.total([point("a", 5, 0)])
    assert totals.total([point("a", 5, 0)]) == first


def test_series_with_the_oldest_traffic_are_evicted() -> None:
    totals = RunningTotals(max_series=2)
    for time, name in enumerate("abac"):
        totals.commit(totals.total([point(name, 1, time)]))
    (a, b, c) = totals.total([point("a", 1, 9), point("b", 1, 9), point("c", 1, 9)])
    assert (a.value, a.start_ns) == (3, 0)
    assert (b.value, b.start_ns) == (1, 9)
    assert (c.value, c.start_ns) == (2, 3)


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 9), st.booleans())),
    st.integers(1, 4),
)
def test_totals_decrease_only_with_a_new_start_time(
    moves: list[tuple[str, int, bool]], most: int
) -> None:
    totals = RunningTotals(most)
    taken: dict[str, Point] = {}
    for time, (name, size, arrives) in enumerate(moves):
        (now,) = totals.total([point(name, size, time)])
        before = taken.get(name)
        if before is not None and now.start_ns == before.start_ns:
            assert now.value == before.value + size
        else:
            assert (now.value, now.start_ns) == (size, time)
        if arrives:
            totals.commit([now])
            taken[name] = now

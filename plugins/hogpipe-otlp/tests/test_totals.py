from hogpipe_otlp.points import Point
from hogpipe_otlp.totals import RunningTotals
from hypothesis import given
from hypothesis import strategies as st


def point(name: str, size: int, time: int) -> Point:
    return Point("io", name.encode(), b"", size, time, time + 1)


def test_points_continue_from_committed_totals() -> None:
    totals = RunningTotals(max_series=2)
    totals.commit(totals.total([point("a", 5, 0), point("b", 7, 0)]))
    assert totals.total([point("a", 3, 1)]) == [Point("io", b"a", b"", 8, start_ns=0, end_ns=2)]


def test_metrics_of_one_process_are_different_series() -> None:
    totals = RunningTotals(max_series=2)
    io = point("a", 5, 0)
    payload = io._replace(metric="payload", value=3)
    totals.commit(totals.total([io, payload]))
    assert [one.value for one in totals.total([io, payload])] == [10, 6]


def test_a_histogram_continues_with_its_count_and_its_least_value() -> None:
    totals = RunningTotals(max_series=2)
    first = Point("rtt", b"a", b"", 50, 0, 1, observed=2, least=20)
    totals.commit(totals.total([first]))
    (total,) = totals.total([Point("rtt", b"a", b"", 30, 1, 2, observed=1, least=30)])
    assert total == Point("rtt", b"a", b"", 80, 0, 2, observed=3, least=20)


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

from hogpipe_prometheus.series import SeriesTable, Traffic
from hypothesis import given
from hypothesis import strategies as st

OTHER = ("other",)


def moved(size: int, records: int = 1) -> Traffic:
    return Traffic(
        transmit_bytes=size,
        transmit_packets=records,
        receive_bytes=2 * size,
        receive_packets=2 * records,
        records=records,
    )


def transmitted(table: SeriesTable) -> dict[tuple[str, ...], int]:
    return {labels: totals.transmit_bytes for labels, totals in table.rows()}


def test_windows_add_up() -> None:
    table = SeriesTable(OTHER, max_series=2, stale_after=60)
    table.add({("nginx",): moved(10)}, end=1)
    table.add({("nginx",): moved(5), ("curl",): moved(7)}, end=2)
    assert table.rows() == [
        (("nginx",), moved(15, records=2)),
        (("curl",), moved(7)),
        (OTHER, moved(0, records=0)),
    ]


def test_label_sets_with_most_bytes_get_the_room_and_the_others_are_other() -> None:
    table = SeriesTable(OTHER, max_series=2, stale_after=60)
    table.add({("a",): moved(1), ("b",): moved(30), ("c",): moved(20)}, end=1)
    assert transmitted(table) == {("b",): 30, ("c",): 20, OTHER: 1}
    assert table.folded_records == 1


def test_a_label_set_with_room_later_takes_nothing_from_other() -> None:
    table = SeriesTable(OTHER, max_series=1, stale_after=60)
    table.add({("a",): moved(5)}, end=1)
    table.add({("b",): moved(7)}, end=2)
    table.add({("b",): moved(3)}, end=100)
    assert transmitted(table) == {("b",): 3, OTHER: 7}


def test_a_stale_label_set_is_removed_and_starts_at_zero() -> None:
    table = SeriesTable(OTHER, max_series=5, stale_after=60)
    table.add({("a",): moved(5), ("b",): moved(5)}, end=0)
    table.add({("b",): moved(1)}, end=60)
    assert transmitted(table) == {("a",): 5, ("b",): 6, OTHER: 0}
    table.add({("b",): moved(1)}, end=61)
    assert transmitted(table) == {("b",): 7, OTHER: 0}
    assert table.removed == 1
    table.add({("a",): moved(2)}, end=62)
    assert transmitted(table) == {("a",): 2, ("b",): 7, OTHER: 0}


def test_other_is_never_removed() -> None:
    table = SeriesTable(OTHER, max_series=1, stale_after=60)
    table.add({OTHER: moved(4), ("a",): moved(1)}, end=0)
    table.add({}, end=1000)
    assert transmitted(table) == {OTHER: 4}


windows = st.lists(
    st.tuples(
        st.dictionaries(
            st.sampled_from([(name,) for name in [*"abcdef", "other"]]), st.integers(1, 1000)
        ),
        st.integers(0, 50),
    ),
    max_size=30,
)


@given(windows, st.integers(1, 4))
def test_a_rate_never_exceeds_the_traffic(
    steps: list[tuple[dict[tuple[str], int], int]], max_series: int
) -> None:
    table = SeriesTable(OTHER, max_series, stale_after=60)
    moved_last = {}
    end = 0
    for sizes, pause in steps:
        end += pause
        before = transmitted(table)
        table.add({labels: moved(size) for labels, size in sizes.items()}, end)
        after = transmitted(table)
        stale = {labels for labels in before if moved_last.get(labels, end) < end - 60} - {OTHER}
        kept = {labels: 0 if labels in stale else value for labels, value in before.items()}
        growth = {labels: value - kept.get(labels, 0) for labels, value in after.items()}
        for labels in before.keys() - stale - {OTHER}:
            assert growth[labels] == sizes.get(labels, 0)
        assert all(
            0 <= growth[labels] <= sizes.get(labels, 0) for labels in growth.keys() - {OTHER}
        )
        assert sum(growth.values()) == sum(sizes.values())
        assert growth[OTHER] >= 0
        assert len(table) <= max_series
        moved_last.update(dict.fromkeys(sizes, end))

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.frames import batch_of

from hogpipe.capture.decode.columns import gather_rows, gather_values, row_type

PAIR = row_type(4, {"first": ("u1", 0), "last": (">u2", 2)})


def test_rows_may_overlap_and_begin_anywhere() -> None:
    rows = gather_rows(bytes(range(10)), np.array([0, 1, 6]), PAIR)
    assert rows["first"].tolist() == [0, 1, 6]
    assert rows["last"].tolist() == [0x0203, 0x0304, 0x0809]


def test_an_offset_beyond_the_end_is_clipped_to_the_last_row() -> None:
    assert gather_rows(bytes(range(10)), np.array([7, 1 << 40]), PAIR)["first"].tolist() == [6, 6]


def test_rows_are_copies_of_the_data() -> None:
    data = bytes(range(10))
    rows = gather_rows(data, np.array([0]), PAIR)
    rows["first"] = 99
    assert data[0] == 0


def test_values_are_read_in_the_byte_order_of_their_type() -> None:
    data, at = b"\0\1\2\3", np.array([1])
    assert gather_values(data, at, np.dtype(">u2")).tolist() == [0x0102]
    assert gather_values(data, at, np.dtype("<u2")).tolist() == [0x0201]


@given(st.lists(st.integers(0, (1 << 32) * 1_000_000_000 - 1), min_size=1, max_size=5))
def test_each_way_to_read_times_returns_the_same(times: list[int]) -> None:
    times_us = [one // 1000 for one in times]
    batch = batch_of([b"x"] * len(times), times_us, nanoseconds=[one % 1000 for one in times])
    assert batch.list_times_ns() == batch.times_ns().tolist() == times
    assert [batch.time_ns(row) for row in range(len(times))] == times
    assert batch.time_ns(-1) == times[-1]
    assert batch_of([b"x"] * len(times), times_us).times_ns().tolist() == [
        1000 * one for one in times_us
    ]

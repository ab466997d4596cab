"""Memory that somebody else writes to; here a file in memory takes the place of a table."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.shortage import no_descriptors

from hogpipe.linux.bpf.shared_memory import SharedTable

ROW = np.dtype([("number", "u8"), ("other", "u8")])
ROWS = 1 << 17


@pytest.fixture
def descriptor() -> Iterator[int]:
    made = os.memfd_create("rows", os.MFD_CLOEXEC)
    os.truncate(made, ROWS * ROW.itemsize)
    try:
        yield made
    finally:
        os.close(made)


def put(descriptor: int, number: int, value: int) -> None:
    os.pwrite(descriptor, value.to_bytes(8, "little"), number * ROW.itemsize)


def mapped() -> int:
    """Return how many bytes of such tables this process has mapped."""
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if "rows" in line]
    bounds = [line.split(maxsplit=1)[0].split("-") for line in lines]
    return sum(int(end, 16) - int(start, 16) for start, end in bounds)


def test_rows_are_those_of_the_moment_and_can_be_written(descriptor: int) -> None:
    table = SharedTable(descriptor, ROWS, ROW)
    rows = table.rows(2)
    put(descriptor, 1, 7)
    assert rows["number"].tolist() == [0, 7]
    rows["number"][0] = 5
    assert os.pread(descriptor, 1, 0) == b"\x05"


def test_as_much_is_mapped_as_was_read_and_no_more_than_there_is(descriptor: int) -> None:
    table = SharedTable(descriptor, ROWS, ROW)
    table.rows(1)
    assert mapped() == 1 << 18
    table.rows(1 << 15)
    assert 1 << 19 <= mapped() <= 1 << 20
    put(descriptor, ROWS - 1, 9)
    assert table.rows(ROWS)["number"][-1] == 9
    assert mapped() == ROWS * ROW.itemsize
    table.close()
    table.close()
    assert mapped() == 0


def test_more_is_read_though_no_descriptor_is_left(descriptor: int) -> None:
    table = SharedTable(descriptor, ROWS, ROW)
    with no_descriptors():
        assert len(table.rows(ROWS)) == ROWS


def test_rows_that_somebody_still_has_outlive_the_table(descriptor: int) -> None:
    """As an exception has them that is on its way while all is closed."""
    table = SharedTable(descriptor, ROWS, ROW)
    rows = table.rows(2)
    more = table.rows(ROWS)
    table.close()
    put(descriptor, 1, 7)
    assert rows["number"][1] == more["number"][1] == 7

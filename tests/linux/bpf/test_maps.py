"""A mapped array; a file in memory, which the test writes to, takes the place of the BPF map."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.shortage import no_descriptors

from hogpipe.linux.bpf.maps import MappedArray

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
    """Return how many bytes of the file this process has mapped."""
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if "rows" in line]
    bounds = [line.split(maxsplit=1)[0].split("-") for line in lines]
    return sum(int(end, 16) - int(start, 16) for start, end in bounds)


def test_rows_share_memory_with_the_map(descriptor: int) -> None:
    array = MappedArray(descriptor, ROWS, ROW)
    rows = array.rows(2)
    put(descriptor, 1, 7)
    assert rows["number"].tolist() == [0, 7]
    rows["number"][0] = 5
    assert os.pread(descriptor, 1, 0) == b"\x05"


def test_only_as_much_is_mapped_as_was_read_and_never_beyond_the_end(descriptor: int) -> None:
    array = MappedArray(descriptor, ROWS, ROW)
    array.rows(1)
    assert mapped() == 1 << 18
    array.rows(1 << 15)
    assert 1 << 19 <= mapped() <= 1 << 20
    put(descriptor, ROWS - 1, 9)
    assert array.rows(ROWS)["number"][-1] == 9
    assert mapped() == ROWS * ROW.itemsize
    array.close()
    array.close()
    assert mapped() == 0


def test_a_mapping_shrinks_when_far_fewer_rows_are_read(descriptor: int) -> None:
    array = MappedArray(descriptor, ROWS, ROW)
    array.rows(ROWS)
    array.rows(ROWS // 4)
    assert mapped() == ROWS * ROW.itemsize
    put(descriptor, 1, 7)
    assert array.rows(2)["number"][1] == 7
    assert mapped() == 1 << 18
    array.rows(ROWS)
    assert len(array.rows(0)) == 0
    assert mapped() == 1 << 18


def test_a_larger_mapping_needs_no_further_descriptor(descriptor: int) -> None:
    array = MappedArray(descriptor, ROWS, ROW)
    with no_descriptors():
        assert len(array.rows(ROWS)) == ROWS


def test_rows_in_use_outlive_the_array(descriptor: int) -> None:
    """An exception in flight may refer to rows while all maps are closed."""
    array = MappedArray(descriptor, ROWS, ROW)
    rows = array.rows(2)
    more = array.rows(ROWS)
    array.close()
    put(descriptor, 1, 7)
    assert rows["number"][1] == more["number"][1] == 7

"""A window is unpacked as it was packed."""

import numpy as np
import pytest
from hypothesis import given
from support.histories import START_MS, Run
from support.records import windows

from hogpipe.history.counters import HEALTH_COUNTERS
from hogpipe.history.members import Description
from hogpipe.history.packing import (
    DamagedContentError,
    UnpackedWindow,
    make_rows,
    pack_window,
    split_by_stamp,
    unpack_records,
    unpack_window,
)
from hogpipe.model import TcpHealth
from hogpipe.records.groups import describe_group
from hogpipe.records.schema import Record


@given(windows)
def test_records_come_back_to_the_letter(records: list[Record]) -> None:
    (stamped,) = split_by_stamp(records)
    numbers = np.arange(len(stamped.traffic), dtype=np.int64)
    descriptions = [describe_group(record) for record in stamped.traffic]

    def describe(member: int, group: int) -> Description:
        assert group == member + 10
        return descriptions[member]

    counted = UnpackedWindow(numbers, numbers + 10, make_rows(stamped.traffic), stamped.stats)
    content, size = pack_window(stamped, counted)
    assert size >= len(records)
    run, host = records[0]["run"], records[0]["host"]["name"]
    assert unpack_records(content, run, host, describe) == records
    unpacked = unpack_window(content)
    assert unpacked.rows.tolist() == counted.rows.tolist()
    assert unpacked.members.tolist() == numbers.tolist()
    assert [one["capture"] for one in unpacked.stats] == [one["capture"] for one in stamped.stats]


def test_coalesced_records_are_split_by_their_stamps() -> None:
    run = Run()
    first, second = (run.window(START_MS + at, 1000, [("nginx", 1, 5)]) for at in (0, 1000))
    split = split_by_stamp([first[0], *second])
    assert [window.start_ms for window in split] == [START_MS, START_MS + 1000]
    assert [len(window.traffic) for window in split] == [1, 1]
    assert [len(window.stats) for window in split] == [0, 1]


@pytest.mark.parametrize("content", [b"", b"text", b"x\x9c\x03\x00\x00\x00\x00\x01"])
def test_damaged_content_is_an_error(content: bytes) -> None:
    with pytest.raises(DamagedContentError):
        unpack_window(content)


def test_the_counters_of_health_are_those_of_the_model() -> None:
    assert ("health_records", *TcpHealth.__struct_fields__) == HEALTH_COUNTERS

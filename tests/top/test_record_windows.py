"""Lines of records become windows; lines that are none are counted, and nothing else is lost."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from support.records import FULL, windows
from support.sinks import stats, traffic

from hogpipe.records.schema import Record
from hogpipe.top.record_windows import ParsedWindow, WindowParser, build_window
from hogpipe.top.traffic_table import TrafficTable

LINE = json.dumps(FULL).encode()


def parse(*lines: bytes) -> tuple[list[ParsedWindow], WindowParser]:
    parser = WindowParser()
    found = list(parser.parse(lines))
    return [*found, *parser.finish()], parser


def changed(**changes: Any) -> bytes:
    record: Any = copy.deepcopy(FULL)
    for dotted, value in changes.items():
        *steps, last = dotted.split("__")
        target = record
        for step in steps:
            target = target[step]
        target[last] = value
    return json.dumps(record).encode()


def test_records_of_one_window_are_together() -> None:
    later = {"start": "2026-11-22T07:00:10.000Z", "end": "2026-11-22T07:00:11.000Z"}
    later = {**FULL["window"], **later, "start_unix": 1795330810.0, "end_unix": 1795330811.0}
    found, parser = parse(LINE, json.dumps(stats()).encode(), LINE, changed(window=later))
    assert parser.foreign_lines == 0
    assert sum(len(window.entries) for window in found) == 3
    assert found[-1].start - found[-2].start == 1


@given(windows)
def test_the_table_has_the_sums_of_the_records(records: list[Record]) -> None:
    found, parser = parse(*(json.dumps(record).encode() for record in records))
    assert parser.foreign_lines == 0
    table = TrafficTable()
    for window in found:
        table.append(build_window(table, window))
        table.advance()
    traffic = [record["network"]["io"] for record in records if record["type"] == "traffic"]
    directions = [(io["transmit"], io["receive"]) for io in traffic]
    expected = [
        sum(transmit["bytes"] for transmit, _ in directions),
        sum(receive["bytes"] for _, receive in directions),
        sum(transmit["packets"] for transmit, _ in directions),
        sum(receive["packets"] for _, receive in directions),
    ]
    assert table.traffic.sum(axis=1).tolist() == expected
    assert int(table.qualities.sum()) == sum(expected[:2])


@pytest.mark.parametrize(
    "line",
    [
        b"not JSON",
        LINE[: len(LINE) // 2],
        b"\xff\xfe",
        b'{"type":"traffic","x":' + b"[" * 5000,
        b"[]",
        b"17",
        b"{}",
        b'{"type": 1}',
        b'{"type": "metric"}',
        b'{"type": "traffic"}',
        b'{"type": "stats", "window": {}}',
        changed(process__name=5),
        changed(network__flows=-1),
        changed(network__flows=1 << 70),
        changed(network__io__transmit__bytes="1"),
        changed(attribution={"certain": 4}),
        changed(window__start_unix="yesterday"),
        changed(window__end_unix=0.0),
        changed(network__peer={"address": "nowhere"}),
    ],
)
def test_a_line_that_is_no_record_is_counted_and_left_out(line: bytes) -> None:
    found, parser = parse(LINE, line, LINE)
    assert (parser.lines, parser.foreign_lines, parser.first_foreign) == (3, 1, 2)
    assert [len(window.entries) for window in found] == [2]
    assert found[0].figures.foreign_lines == 1


def test_empty_lines_are_nothing() -> None:
    found, parser = parse(b"", b"  ", b"\r")
    assert (found, parser.foreign_lines) == ([], 0)


def test_a_remainder_has_no_owner() -> None:
    record: Any = copy.deepcopy(FULL)
    for key in ("process", "systemd", "container", "k8s"):
        del record[key]
    (window,), _ = parse(json.dumps({**record, "remainder": True}).encode())
    assert window.entries[0].owner.is_remainder


def spans(*records: Record) -> list[tuple[float, float, int, int]]:
    found, parser = parse(*(json.dumps(record).encode() for record in records))
    assert parser.foreign_lines == 0
    first = found[0].start
    return [
        (window.start - first, window.end - first, len(window.entries), window.figures.windows)
        for window in found
    ]


def covering(seconds: int, last: int) -> Record:
    """Return stats with the sums of several windows, of which the last one begins at `last`."""
    record = stats(second=last)
    first = stats(second=last - seconds + 1)["window"]
    start: Any = {"start": first["start"], "start_unix": first["start_unix"]}
    record["window"] = {**record["window"], **start}
    return record


def test_stats_of_several_windows_belong_to_the_last_one() -> None:
    found = spans(*(traffic(second=second) for second in range(3)), covering(3, 2))
    assert found == [(0, 1, 1, 0), (1, 2, 1, 0), (2, 3, 1, 1)]


def test_stats_after_windows_without_traffic_are_a_window_of_their_own() -> None:
    assert spans(traffic(second=0), covering(5, 4)) == [(0, 1, 1, 0), (1, 5, 0, 1)]
    assert spans(covering(5, 4), covering(5, 9)) == [(0, 5, 0, 1), (5, 10, 0, 1)]


def test_windows_of_several_hosts_with_the_same_times_are_one() -> None:
    other: Any = {**traffic(second=0), "run": "02", "host": {"name": "web2"}}
    assert spans(traffic(second=0), stats(), other, traffic(second=1)) == [
        (0, 1, 2, 1),
        (1, 2, 1, 0),
    ]

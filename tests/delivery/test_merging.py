"""Merging windows conserves every counter."""

import tracemalloc
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from functools import reduce
from typing import cast

import orjson
from hypothesis import given
from hypothesis import strategies as st
from support.health import SUMS, healths
from support.records import FULL
from support.sinks import stats, total_bytes, traffic

from hogpipe.delivery.merging import MergedWindow
from hogpipe.model import TcpHealth, join_health
from hogpipe.records.groups import describe_group
from hogpipe.records.schema import Record, TrafficRecord
from hogpipe.records.tcp_health import add_tcp, parse_tcp


def merge_windows(*windows: Sequence[Record]) -> list[Record]:
    merged_window = MergedWindow()
    for records in windows:
        merged_window.add(records)
    return merged_window.records()


def _merge(windows: list[list[Record]], max_groups: int | None = None) -> list[Record]:
    merged_window = MergedWindow()
    for window in windows:
        newer = MergedWindow()
        newer.add(window)
        merged_window.merge(newer)
        if max_groups is not None:
            merged_window.fold(max_groups)
    assert len(merged_window) == len(merged_window.records())
    return merged_window.records()


def test_records_of_one_group_add_up() -> None:
    older = traffic(sequence=1, pid=7, transmit=10, receive=1, second=0)
    newer = traffic(sequence=5, pid=7, transmit=20, receive=2, second=1)
    newer["attribution"] = {"exact": 20, "listener": 2}
    (merged,) = merge_windows([older], [newer])
    assert merged["type"] == "traffic"
    assert merged["network"] == {
        "flows": 2,
        "io": {"transmit": {"bytes": 30, "packets": 2}, "receive": {"bytes": 3, "packets": 4}},
    }
    assert merged["attribution"] == {"exact": 31, "listener": 2}
    assert merged["window"] == {
        "start": "2026-11-22T07:00:00.000Z",
        "end": "2026-11-22T07:00:02.000Z",
        "start_unix": 1_795_330_800.0,
        "end_unix": 1_795_330_802.0,
    }
    assert (merged["sequence"], merged["timestamp"]) == (5, newer["timestamp"])


def test_groups_that_differ_in_one_value_are_not_merged() -> None:
    tcp, udp = traffic(sequence=1), traffic(sequence=2)
    tcp["network"]["transport"], udp["network"]["transport"] = "tcp", "udp"
    assert merge_windows([tcp], [udp]) == [tcp, udp]


def test_merging_does_not_change_its_input() -> None:
    windows: list[list[Record]] = [[traffic(1), stats(2)], [traffic(3), stats(4)]]
    before = deepcopy(windows)
    merge_windows(*windows)
    assert windows == before


def test_beyond_the_limit_the_groups_with_the_fewest_bytes_are_summed_up() -> None:
    window = [traffic(pid, pid=pid, transmit=pid, receive=0) for pid in range(1, 11)]
    merged = _merge([window], max_groups=3)
    assert [record.get("process", {}).get("pid") for record in merged] == [None, 9, 10]
    assert merged[0]["type"] == "traffic"
    assert merged[0]["remainder"] is True
    assert merged[0]["network"]["io"]["transmit"]["bytes"] == sum(range(1, 9))


@st.composite
def windows(draw: st.DrawFn) -> list[Record]:
    made: list[Record] = []
    for _ in range(draw(st.integers(0, 6))):
        record = traffic(
            sequence=draw(st.integers(1, 1000)),
            pid=draw(st.none() | st.integers(1, 4)),
            transmit=draw(st.integers(0, 1 << 50)),
            receive=draw(st.integers(0, 1 << 50)),
            second=draw(st.integers(0, 58)),
        )
        record["attribution"] = draw(
            st.dictionaries(st.sampled_from(["exact", "listener", "none"]), st.integers(1, 1 << 50))
        )
        if (health := draw(st.none() | healths)) is not None:
            add_tcp(record["network"], health)
        if draw(st.booleans()):
            record["network"]["transport"] = draw(st.sampled_from(["tcp", "udp"]))
        made.append(record)
    if draw(st.booleans()):
        made.append(stats(draw(st.integers(1, 1000)), packets=draw(st.integers(0, 99))))
    return made


def totals(records: list[Record]) -> Counter[tuple[object, ...]]:
    """All numbers that must survive, by group."""
    found: Counter[tuple[object, ...]] = Counter()
    for record in records:
        if record["type"] == "stats":
            found["stats", "packets"] += record["capture"]["packets"]
            continue
        group = (record.get("process", {}).get("pid"), record["network"].get("transport"))
        found[group, "flows"] += record["network"]["flows"]
        for direction, tally in record["network"]["io"].items():
            found[group, direction, "bytes"] += tally["bytes"]
            found[group, direction, "packets"] += tally["packets"]
        if (health := parse_tcp(record["network"])) is not None:
            for name in SUMS:
                found[group, name] += getattr(health, name)
        for quality, size in record["attribution"].items():
            found[group, quality] += size
    return found


def least(records: list[Record]) -> dict[object, int]:
    """The least round-trip time of each group that has one."""
    found: dict[object, int] = {}
    for record in records:
        if record["type"] == "traffic":
            group = (record.get("process", {}).get("pid"), record["network"].get("transport"))
            if (rtt := record["network"].get("tcp", {}).get("rtt")) is not None:
                found[group] = min(rtt["min_us"], found.get(group, rtt["min_us"]))
    return found


def _join_all(records: list[Record]) -> TcpHealth | None:
    """The health of all groups together."""
    found = [parse_tcp(record["network"]) for record in records if record["type"] == "traffic"]
    return reduce(join_health, found, None)


def test_a_group_takes_less_than_half_a_kilobyte_beside_its_description() -> None:
    full = cast("TrafficRecord", FULL)
    window: list[Record] = [
        {**full, "sequence": pid, "process": {**full["process"], "pid": pid}} for pid in range(2000)
    ]
    described = sum(len(orjson.dumps(describe_group(cast("TrafficRecord", one)))) for one in window)
    tracemalloc.start()
    try:
        merged_window = MergedWindow()
        merged_window.add(window)
        assert tracemalloc.get_traced_memory()[0] < described + 500 * len(merged_window)
    finally:
        tracemalloc.stop()


def test_a_window_is_restored_from_its_sums_unchanged() -> None:
    full = cast("TrafficRecord", FULL)
    window: list[Record] = [{**full, "sequence": 1}, {**traffic(2), "remainder": True}, stats(3)]
    assert merge_windows(window) == window
    assert next(list(record) for record in merge_windows(window)) == list(full)


@given(windows(), windows())
def test_every_total_of_every_group_and_quality_is_conserved(
    older: list[Record], newer: list[Record]
) -> None:
    merged = merge_windows(older, newer)
    assert +totals(merged) == +totals(older + newer)
    assert least(merged) == least(older + newer)
    groups = [group for group in merged if group["type"] == "traffic"]
    assert len(groups) == len({str(_about(group)) for group in groups})


@given(windows(), windows(), windows())
def test_the_order_of_merging_does_not_matter(
    one: list[Record], two: list[Record], three: list[Record]
) -> None:
    left = merge_windows(merge_windows(one, two), three)
    right = merge_windows(one, merge_windows(two, three))
    at_once = _merge([one, two, three])
    assert +totals(left) == +totals(right) == +totals(at_once)
    assert least(left) == least(right) == least(at_once)


@given(st.lists(windows(), max_size=4), st.integers(1, 5))
def test_a_limit_on_groups_costs_no_byte_and_no_member_of_the_health(
    made: list[list[Record]], limit: int
) -> None:
    merged = _merge(made, max_groups=limit)
    assert sum(record["type"] == "traffic" for record in merged) <= limit
    assert total_bytes(merged) == sum(map(total_bytes, made))
    all_health = _join_all([record for window in made for record in window])
    assert _join_all(merged) == all_health
    total = MergedWindow()
    for window in made:
        total.add_total(window)
    assert _join_all(total.records()) == all_health


@given(st.none() | healths, st.none() | healths)
def test_a_group_has_the_health_of_both_windows(
    older: TcpHealth | None, newer: TcpHealth | None
) -> None:
    """Each sum is added up, and the least time stays, also where one window has no sample."""
    first, second = traffic(1, pid=7), traffic(2, pid=7, second=1)
    for record, health in ((first, older), (second, newer)):
        if health is not None:
            add_tcp(record["network"], health)
    (merged,) = merge_windows([first], [second])
    assert merged["type"] == "traffic"
    assert parse_tcp(merged["network"]) == join_health(older, newer)


def _about(record: TrafficRecord) -> tuple[object, ...]:
    return record.get("process"), record["network"].get("transport")

"""The records to test with are such as a run makes them."""

import json
from pathlib import Path

import jsonschema
import orjson
import pytest

from hogpipe.testing import RecordMaker, total_bytes

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "record.schema.json").read_text())


def test_they_are_valid_by_the_published_schema() -> None:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for record in RecordMaker().window(30):
        validator.validate(json.loads(orjson.dumps(record)))


def test_windows_follow_one_another_without_a_gap() -> None:
    maker = RecordMaker(host="db1", interval=10)
    windows = [maker.window(size) for size in (3, 1, 5)]
    records = [record for window in windows for record in window]
    assert [record["sequence"] for record in records] == list(range(1, 10))
    assert {record["run"] for record in records} == {maker.run}
    assert {record["host"]["name"] for record in records} == {"db1"}
    spans = [window[0]["window"] for window in windows]
    assert [span["start"][11:19] for span in spans] == ["07:00:00", "07:00:10", "07:00:20"]
    assert [span["end"][11:19] for span in spans] == ["07:00:10", "07:00:20", "07:00:30"]


@pytest.mark.parametrize("size", [1, 2, 50_000])
def test_a_window_has_as_many_records_as_asked_for_and_its_stats_are_the_last(size: int) -> None:
    window = RecordMaker().window(size)
    assert [record["type"] for record in window] == ["traffic"] * (size - 1) + ["stats"]


def test_a_window_without_its_stats_record_there_is_not() -> None:
    with pytest.raises(ValueError, match="at least"):
        RecordMaker().window(0)


def test_no_two_groups_of_a_window_are_alike_and_they_are_the_same_in_each() -> None:
    def groups(window: list[object]) -> list[str]:
        kept = ("process", "systemd", "container", "k8s", "remainder")
        return [
            json.dumps(
                [
                    {key: record[key] for key in kept if key in record},
                    {k: v for k, v in record["network"].items() if k not in ("io", "flows")},
                ]
            )
            for record in window
            if record["type"] == "traffic"
        ]

    maker = RecordMaker()
    first, second = groups(maker.window(2000)), groups(maker.window(2000))
    assert first == second
    assert len(set(first)) == 1999


def test_each_maker_is_a_run_of_its_own() -> None:
    assert RecordMaker().run != RecordMaker().run


def test_the_next_run_begins_where_the_last_one_ended_with_sequence_1() -> None:
    first = RecordMaker(host="db1", interval=10)
    before = first.window(5)
    after = (second := first.next_run()).window(3)
    assert second.run != first.run
    assert [record["sequence"] for record in after] == [1, 2, 3]
    assert {record["host"]["name"] for record in after} == {"db1"}
    assert after[0]["window"]["start"] == before[0]["window"]["end"]
    assert after[0]["window"]["end"][11:19] == "07:00:20"


def test_a_window_has_what_sinks_stumble_over() -> None:
    traffic = RecordMaker().window(8)[:-1]
    assert max(map(total_bytes, traffic)) > 1 << 32
    assert [one["type"] == "traffic" and "remainder" in one for one in traffic] == [False] * 6 + [
        True
    ]
    assert not any("remainder" in one for one in RecordMaker().window(7))


def test_the_stats_say_what_the_traffic_sums_up_to() -> None:
    *traffic, stats = RecordMaker().window(100)
    assert stats["type"] == "stats"
    moved = sum(map(total_bytes, traffic))
    assert stats["capture"]["bytes"] == moved > 0
    assert sum(stats["attribution"]["bytes"].values()) == moved
    assert stats["aggregation"]["records"] == 99
    assert total_bytes(stats) == 0

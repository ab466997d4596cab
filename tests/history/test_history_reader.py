"""What a history answers, while it is written and after rows have expired."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from support.histories import (
    DAY,
    HOUR,
    KEEP,
    MINUTE,
    START_MS,
    Run,
    read_total,
    total_of,
    write,
    writing,
)

from hogpipe.history.answers import Row
from hogpipe.history.levels import HOURS, MINUTES, WINDOWS
from hogpipe.history.members import Description, get_value
from hogpipe.history.reader import HistoryReader
from hogpipe.model import TcpHealth
from hogpipe.records.schema import Record
from hogpipe.records.tcp_health import parse_tcp

EVER = 1 << 62


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a history of two hours: a window of two processes every ten seconds."""
    path = tmp_path_factory.mktemp("reader") / "history.db"
    with writing(path) as writer:
        write(writer, *two_hours())
    return path


def two_hours() -> list[list[Record]]:
    run = Run()
    return [
        run.window(START_MS + at, 1000, [("nginx", 1, 10), ("nginx", 2, 1), ("sshd", 3, 2)])
        for at in range(0, 2 * HOUR, 10_000)
    ]


@pytest.fixture
def reader(path: Path) -> Iterator[HistoryReader]:
    with HistoryReader(path) as reader:
        yield reader


def values_of(rows: Sequence[Row]) -> list[tuple[object, ...]]:
    return [(*row.values, row.totals.transmit_bytes) for row in rows]


def test_traffic_is_grouped_by_any_key_the_most_bytes_first(reader: HistoryReader) -> None:
    answer = reader.query(START_MS, START_MS + HOUR, by=["process.name"])
    assert values_of(answer.rows) == [("nginx", 360 * 11), ("sshd", 360 * 2)]
    assert (answer.since_ms, answer.until_ms) == (START_MS, START_MS + HOUR)
    answer = reader.query(0, EVER, by=["systemd.unit", "no.such.key"])
    assert values_of(answer.rows) == [
        ("nginx.service", None, 720 * 11),
        ("sshd.service", None, 720 * 2),
    ]


def test_further_rows_are_summed_up(reader: HistoryReader) -> None:
    answer = reader.query(0, EVER, by=["process.name"], top=1)
    assert values_of(answer.rows) == [("nginx", 720 * 11)]
    assert answer.others.transmit_bytes == 720 * 2
    assert answer.total.transmit_bytes == 720 * 13
    assert answer.total.attribution == {"exact": 720 * 13 * 3}


def test_traffic_is_selected_by_its_description(reader: HistoryReader) -> None:
    def is_sshd(description: Description) -> bool:
        return get_value(description, "process.name") == "sshd"

    answer = reader.query(0, EVER, where=is_sshd)
    assert values_of(answer.rows) == [(720 * 2,)]


def test_processes_are_told_apart_where_windows_are_kept(reader: HistoryReader) -> None:
    end = START_MS + 2 * HOUR
    answer = reader.query(end - MINUTE, end, by=["process.pid"])
    assert values_of(answer.rows) == [(1, 60), (3, 12), (2, 6)]
    answer = reader.query(START_MS, end, by=["process.name", "process.pid"])
    assert dict.fromkeys(row.values[0] for row in answer.rows).keys() == {"nginx", "sshd"}
    assert {row.values[1] for row in answer.rows} == {1, 2, 3, None}
    assert answer.total.transmit_bytes == 720 * 13


def test_a_series_has_a_point_for_each_step(reader: HistoryReader) -> None:
    series = reader.series(START_MS, START_MS + HOUR, step_ms=15 * MINUTE, by=["process.name"])
    assert [point.start_ms for point in series.points] == [
        START_MS + step * 15 * MINUTE for step in range(4)
    ]
    for point in series.points:
        assert values_of(point.rows) == [("nginx", 90 * 11), ("sshd", 90 * 2)]


def test_a_series_of_seconds_has_whole_minutes_where_only_these_are_kept(
    reader: HistoryReader,
) -> None:
    early = reader.series(START_MS, START_MS + 2 * MINUTE, step_ms=1000)
    assert [point.start_ms for point in early.points] == [START_MS, START_MS + MINUTE]
    end = START_MS + 2 * HOUR
    late = reader.series(end - MINUTE, end, step_ms=1000)
    assert [point.start_ms for point in late.points] == list(range(end - MINUTE, end, 10_000))


def test_the_resolution_of_a_span_is_its_longest_bucket(reader: HistoryReader) -> None:
    end = START_MS + 2 * HOUR
    assert reader.find_resolution(end - MINUTE, end) == 1
    assert reader.find_resolution(START_MS, end) == MINUTE
    assert reader.find_resolution(0, START_MS - DAY) == 1


def test_coverage_has_what_a_span_was_measured_with(reader: HistoryReader) -> None:
    coverage = reader.coverage(START_MS, START_MS + 2 * HOUR)
    assert (coverage.windows, coverage.covered_ms) == (720, 720_000)
    assert coverage.stats is not None
    assert coverage.stats["capture"]["packets"] == 720 * 3
    assert coverage.stats["capture"]["dropped"] == {"kernel": 720, "interface": 0}


def test_windows_are_played_as_they_were_recorded_and_backwards(reader: HistoryReader) -> None:
    recorded = two_hours()[-300:]
    since_ms = START_MS + 2 * HOUR - 3000_000
    played = [list(one.records) for one in reader.windows(since_ms, EVER)]
    assert played == recorded
    assert [list(one.records) for one in reader.windows(since_ms, EVER, backwards=True)] == [
        *reversed(recorded)
    ]


def test_minutes_are_played_as_windows_where_no_others_are_kept(reader: HistoryReader) -> None:
    first, second = list(reader.windows(START_MS, START_MS + 2 * MINUTE))
    assert (first.start_ms, first.end_ms, first.level) == (START_MS, START_MS + MINUTE, "minutes")
    assert second.start_ms == first.end_ms
    assert total_of([first.records])["transmit_bytes"] == 6 * 13
    assert [record["type"] for record in first.records] == ["traffic", "traffic", "stats"]
    assert first.records[0]["window"]["start"] == "2026-11-22T07:00:00.000Z"
    backwards = reader.windows(START_MS, START_MS + 2 * MINUTE, backwards=True)
    assert list(backwards) == [second, first]
    assert list(reader.windows(first.start_ms + 1, START_MS + 2 * MINUTE)) == [second]


def test_the_extent_is_that_of_all_levels(reader: HistoryReader) -> None:
    assert reader.find_extent() == (START_MS, START_MS + 2 * HOUR - 9000)


def test_an_empty_history_answers_nothing(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with writing(path), HistoryReader(path) as reader:
        assert reader.find_extent() is None
        assert list(reader.query(0, EVER, by=["process.name"]).rows) == []
        assert list(reader.series(0, EVER, step_ms=1000).points) == []
        assert list(reader.windows(0, EVER)) == []
        assert reader.coverage(0, EVER).stats is None


def test_a_reader_sees_each_window_once_it_is_written(tmp_path: Path) -> None:
    path, written = tmp_path / "history.db", []
    run = Run()
    with writing(path) as writer, HistoryReader(path) as reader:
        for number in range(200):
            # New groups appear, and minutes are rolled up while the reader has the file open.
            window = run.window(START_MS + number * 1000, 1000, [(f"p{number}", number, 5)])
            write(writer, window)
            written.append(window)
            if number % 20 == 0:
                assert read_total(reader, 0, EVER) == total_of(written)
                names = reader.query(0, EVER, by=["process.name"]).rows
                assert len(names) == number + 1


def test_a_write_does_not_wait_for_a_reader_in_the_middle_of_its_windows(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    run = Run()
    with writing(path) as writer:
        write(writer, *(run.window(START_MS + n * 1000, 1000, [("a", 1, 1)]) for n in range(100)))
        with HistoryReader(path) as reader:
            windows = reader.windows(0, EVER)
            next(windows)
            write(writer, run.window(START_MS + 100_000, 1000, [("a", 1, 1)]))
            assert len(list(windows)) == 100


def test_hostile_names_are_stored_as_they_are(tmp_path: Path) -> None:
    path, name = tmp_path / "history.db", 'a"b\\c\n\t\x1b[31m\u202e\x00\U0001f600; DROP TABLE runs'
    with writing(path) as writer:
        write(writer, Run().window(START_MS, 1000, [(name, 1, 5)]))
    with HistoryReader(path) as reader:
        assert values_of(reader.query(0, EVER, by=["process.name"]).rows) == [(name, 5)]


def test_days_are_left_of_a_year_ago_and_nothing_before(tmp_path: Path) -> None:
    path, run = tmp_path / "history.db", Run()
    keep = KEEP | {WINDOWS: MINUTE, MINUTES: HOUR, HOURS: DAY}
    ages = [500, 300, 2, 0]
    with writing(path, keep) as writer:
        for age in ages:
            start_ms = START_MS + (500 - age) * DAY
            for at in range(0, 4 * HOUR, 15 * MINUTE):
                write(writer, run.window(start_ms + at, 1000, [("a", 1, 1)]))
    with HistoryReader(path) as reader:
        found = {
            age: read_total(
                reader,
                START_MS + (500 - age) * DAY - 7 * HOUR,
                START_MS + (500 - age) * DAY + 17 * HOUR,
            )["flows"]
            for age in ages
        }
        assert found == {500: 0, 300: 16, 2: 16, 0: 16}
        asked = START_MS + 200 * DAY
        answer = reader.query(asked, asked + 1)
        assert answer.until_ms - answer.since_ms == DAY


def health_of(number: int) -> TcpHealth:
    return TcpHealth(
        transmit_payload_bytes=10, retransmits=1, opened=2, refused=1, rtt_samples=2,
        rtt_sum_us=1000 + number, rtt_min_us=900 - number,
    )  # fmt: skip


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a history of two hours, in which only one of two programs has health."""
    path = tmp_path_factory.mktemp("healthy") / "history.db"
    run = Run()
    with writing(path) as writer:
        for number in range(121):
            moved = [("nginx", 1, 10, health_of(number)), ("bird", 2, 9, None)]
            write(writer, run.window(START_MS + number * MINUTE, 1000, moved))
    return path


def test_health_is_summed_over_all_levels_and_the_least_time_is_the_least(healthy: Path) -> None:
    with HistoryReader(healthy) as reader:
        nginx, bird = reader.query(0, EVER, by=["process.name"], health=True).rows
        assert bird.totals.health is None
        assert nginx.totals.health == TcpHealth(
            transmit_payload_bytes=1210, retransmits=121, opened=242, refused=121, rtt_samples=242,
            rtt_sum_us=121_000 + sum(range(121)), rtt_min_us=900 - 120,
        )  # fmt: skip
        (first,) = reader.query(START_MS, START_MS + 1, health=True).rows
        assert first.totals.health == health_of(0)
        points = reader.series(START_MS, EVER, step_ms=HOUR, health=True).points
        assert [point.rows[0].totals.rtt_min_us for point in points] == [841, 781, 780]


def test_health_is_left_out_unless_it_is_asked_for(healthy: Path) -> None:
    with HistoryReader(healthy) as reader:
        (row,) = reader.query(0, EVER).rows
        assert row.totals.health is None
        assert row.totals.bytes == 121 * (30 + 27)


def test_minutes_are_played_with_their_health(healthy: Path) -> None:
    with HistoryReader(healthy) as reader:
        first = next(iter(reader.windows(START_MS, START_MS + MINUTE)))
    assert first.level == "minutes"
    found = {
        record["process"]["name"]: parse_tcp(record["network"])
        for record in first.records
        if record["type"] == "traffic"
    }
    assert found == {"nginx": health_of(0), "bird": None}

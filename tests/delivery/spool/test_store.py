"""Windows are read from a spool in order, whatever happens to the run and to its files."""

import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sinks import total_bytes, traffic

from hogpipe.delivery.coalescing import OverflowPolicy
from hogpipe.delivery.spool import Spool, store
from hogpipe.errors import ConfigurationError
from hogpipe.records.schema import Record

BOUND = 1 << 20


def window(number: int, records: int = 3, pids: int = 3, run: str = "01JD") -> list[Record]:
    made: list[Record] = []
    for index in range(records):
        record = traffic(number * records + index, pid=index % pids, second=number % 59)
        record["run"] = run
        made.append(record)
    return made


def opened(folder: Path, bound: int = BOUND, policy: OverflowPolicy = "coalesce") -> Spool:
    spool = Spool(folder / "spool", bound, policy)
    spool.open()
    return spool


def killed(spool: Spool) -> None:
    """Release the lock as the kernel does for a killed process."""
    assert spool._position is not None
    spool._position.close()


def drained(spool: Spool) -> Iterator[Sequence[Record]]:
    """Read and acknowledge everything."""
    while records := spool.read():
        yield records
        spool.acknowledge()


def sequences(windows: Iterator[Sequence[Record]]) -> list[int]:
    return [record["sequence"] for records in windows for record in records]


def segments(folder: Path) -> list[Path]:
    return sorted((folder / "spool").glob("*.spool"))


def test_windows_are_read_in_order_while_others_are_appended(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    rng = random.Random(1)
    put, got = 0, []
    for _ in range(400):
        if rng.random() < 0.6:
            spool.append(window(put))
            put += 1
        elif records := spool.read():
            got.append(records)
            spool.acknowledge()
    got += drained(spool)
    assert got == [window(number) for number in range(put)]
    assert spool.counts.records == 0


def test_a_window_is_read_again_until_it_is_acknowledged(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append(window(1))
    spool.append(window(2))
    assert spool.read() == spool.read() == window(1)
    spool.acknowledge()
    assert spool.read() == window(2)


def test_the_cache_is_bounded_while_a_sink_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_CACHED_RECORDS", 25)
    spool = opened(tmp_path)
    windows = [window(number, 10) for number in range(6)]
    for made in windows:
        spool.append(made)
        spool.read()
    assert sum(len(one.records) for one in spool._cached) == 20
    assert list(drained(spool)) == windows


def test_another_run_reads_unacknowledged_windows_first(tmp_path: Path) -> None:
    first = opened(tmp_path)
    for number in range(5):
        first.append(window(number))
    assert first.read() == window(0)
    first.acknowledge()
    assert first.read() == window(1)  # in flight when the run ends
    first.close()
    second = opened(tmp_path)
    assert second.counts.found == second.counts.records == 4 * 3
    second.append(window(0, run="01JE"))
    assert list(drained(second)) == [*map(window, range(1, 5)), window(0, run="01JE")]


def test_an_empty_spool_leaves_no_segments_when_closed(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append(window(1))
    list(drained(spool))
    spool.close()
    assert [path.name for path in (tmp_path / "spool").iterdir()] == ["position"]
    again = opened(tmp_path)
    again.append(window(2))
    assert list(drained(again)) == [window(2)]


def test_two_runs_never_share_a_spool(tmp_path: Path) -> None:
    first = opened(tmp_path)
    with pytest.raises(ConfigurationError, match="another run or sink uses it"):
        opened(tmp_path)
    first.close()
    opened(tmp_path).close()


def test_its_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    opened(tmp_path).append(window(1))
    folder = tmp_path / "spool"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_delivered_segments_are_removed(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    for number in range(100):
        spool.append(window(number, records=20))
    assert len(segments(tmp_path)) > 5
    list(drained(spool))
    assert len(segments(tmp_path)) <= 1


@pytest.fixture(scope="module")
def written() -> tuple[list[list[Record]], bytes]:
    """Windows of various sizes, and the one segment that they make."""
    windows = [window(number, records=1 + number % 4) for number in range(12)]
    with tempfile.TemporaryDirectory() as name:
        spool = opened(Path(name))
        for records in windows:
            spool.append(records)
        (path,) = segments(Path(name))
        return windows, path.read_bytes()


def _with_segment(folder: Path, data: bytes) -> Spool:
    (folder / "spool").mkdir()
    (folder / "spool" / "000000000001-000000000001.spool").write_bytes(data)
    return opened(folder)


@given(st.data())
@settings(max_examples=60)
def test_after_a_kill_at_any_byte_every_whole_window_is_read_and_more_can_be_appended(
    written: tuple[list[list[Record]], bytes], data: st.DataObject
) -> None:
    windows, whole = written
    cut = data.draw(st.integers(0, len(whole)))
    with tempfile.TemporaryDirectory() as name:
        spool = _with_segment(Path(name), whole[:cut])
        kept = spool.counts.found
        spool.append(window(99))
        out = list(drained(spool))
        assert out[:-1] == windows[: len(out) - 1]
        assert out[-1] == window(99)
        assert sum(map(len, out[:-1])) == kept
        assert spool.counts.damaged == spool.counts.dropped == 0
        # The file was cut before the end of the next window.
        if len(out) - 1 < len(windows):
            entries = whole.split(b"\n#")
            assert cut < len(b"\n#".join(entries[: len(out)])) + 1


@given(st.data())
@settings(max_examples=100)
def test_damage_costs_only_the_damaged_windows(
    written: tuple[list[list[Record]], bytes], data: st.DataObject
) -> None:
    windows, whole = written
    start = data.draw(st.integers(0, len(whole) - 1))
    size = data.draw(st.integers(1, 200))
    noise = data.draw(st.binary(min_size=size, max_size=size))
    changed = whole[:start] + noise + whole[start + size :]
    with tempfile.TemporaryDirectory() as name:
        spool = _with_segment(Path(name), changed)
        spool.append(window(99))
        out = list(drained(spool))
        assert out[-1] == window(99)
        assert all(records in windows for records in out[:-1])
        hit = len({whole[:at].count(b"\n#") for at in range(start, min(start + size, len(whole)))})
        assert len(windows) - len(out[:-1]) <= hit + 1
        places = [windows.index(list(records)) for records in out[:-1]]
        assert places == sorted(places)
        assert spool.counts.records == 0
        spool.close()
        lost = len(out[:-1]) < len(windows)
        assert len(list((Path(name) / "spool").glob("*.damaged"))) == spool.counts.damaged >= lost


def test_a_damaged_file_is_kept_aside_and_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = opened(tmp_path)
    for number in range(5):
        spool.append(window(number))
    spool.close()
    (path,) = segments(tmp_path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    again = opened(tmp_path)
    out = list(drained(again))
    assert len(out) == 4
    counts = again.counts
    assert (counts.found, counts.dropped, counts.damaged, counts.records) == (15, 3, 1, 0)
    again.close()
    assert path.with_suffix(".damaged").read_bytes() == data
    assert len(caplog.messages) == 1
    assert "is damaged" in caplog.messages[0]


def test_only_a_few_damaged_files_are_kept(tmp_path: Path) -> None:
    for number in range(8):
        spool = opened(tmp_path)
        spool.append(window(number))
        spool.close()
        (path,) = segments(tmp_path)
        path.write_bytes(path.read_bytes().replace(b"exact", b"exakt"))
        again = opened(tmp_path)
        assert list(drained(again)) == []
        again.close()
    assert len(list((tmp_path / "spool").glob("*.damaged"))) == 4


@pytest.mark.parametrize("line", [b"", b"garbage", b"000000000001 000000000999 00000000\n"])
def test_without_a_position_all_windows_are_read_again(
    tmp_path: Path, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    spool = opened(tmp_path)
    for number in range(3):
        spool.append(window(number))
    spool.read()
    spool.acknowledge()
    killed(spool)
    (tmp_path / "spool" / "position").write_bytes(line)
    again = opened(tmp_path)
    assert list(drained(again)) == [window(number) for number in range(3)]
    assert len(caplog.messages) == again.counts.damaged == bool(line)


def test_other_files_in_the_folder_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "notes.txt").write_text("mine")
    spool = opened(tmp_path)
    spool.append(window(1))
    spool.close()
    assert (tmp_path / "spool" / "notes.txt").read_text() == "mine"


def test_a_full_spool_coalesces_the_oldest_windows_and_loses_no_byte(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    given_bytes = given_records = 0
    for number in range(300):
        records = window(number, records=40, pids=40)
        given_bytes += total_bytes(records)
        given_records += len(records)
        spool.append(records)
        assert spool.counts.bytes <= BOUND
    counts = spool.counts
    assert counts.dropped == 0
    assert counts.records + counts.coalesced == given_records
    out = list(drained(spool))
    assert sum(map(total_bytes, out)) == given_bytes
    assert sequences(iter(out))[-40:] == [record["sequence"] for record in window(299, 40)]
    assert sequences(iter(out)) == sorted(sequences(iter(out)))


def test_where_no_groups_add_up_the_smallest_go_to_the_remainder(
    tmp_path: Path,
) -> None:
    spool = opened(tmp_path)
    given_bytes = 0
    for number in range(120):
        records: list[Record] = [
            traffic(number * 40 + index, pid=number * 40 + index, transmit=index)
            for index in range(40)
        ]
        given_bytes += total_bytes(records)
        spool.append(records)
        assert spool.counts.bytes <= BOUND
    out = list(drained(spool))
    assert spool.counts.dropped == 0
    assert sum(map(total_bytes, out)) == given_bytes


def test_windows_of_two_runs_are_not_merged(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    given_bytes = {"01JD": 0, "01JE": 0}
    for run in given_bytes:
        for number in range(150):
            records = window(number, records=40, pids=40, run=run)
            given_bytes[run] += total_bytes(records)
            spool.append(records)
    got = dict.fromkeys(given_bytes, 0)
    for records in drained(spool):
        (run,) = {record["run"] for record in records}
        got[run] += total_bytes(records)
    assert got == given_bytes


def test_a_full_spool_drops_the_oldest_windows_with_drop_oldest(tmp_path: Path) -> None:
    spool = opened(tmp_path, policy="drop_oldest")
    for number in range(300):
        spool.append(window(number, records=40))
        assert spool.counts.bytes <= BOUND
    counts = spool.counts
    assert counts.coalesced == 0
    assert counts.records + counts.dropped == 300 * 40
    out = sequences(drained(spool))
    assert out == sorted(out)
    assert out[-1] == 300 * 40 - 1


def test_the_window_in_flight_is_never_merged_or_dropped(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append(window(0, records=40))
    spool.append(window(1, records=40))
    assert spool.read() == window(0, records=40)
    for number in range(2, 300):
        spool.append(window(number, records=40))
    assert spool.read() == window(0, records=40)
    spool.acknowledge()
    assert spool.read() == window(1, records=40)


def test_a_window_larger_than_the_bound_is_refused(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append(window(1))
    with pytest.raises(OSError, match="does not fit within spool_mib"):
        spool.append(window(2, records=5000, pids=5000))
    assert list(drained(spool)) == [window(1)]


def test_a_merge_interrupted_by_a_kill_duplicates_nothing(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    number = 0
    before: dict[Path, bytes] = {}
    while not spool.counts.coalesced:
        before = {path: path.read_bytes() for path in segments(tmp_path)}
        spool.append(window(number, records=40))
        number += 1
    spool.close()
    for path, data in before.items():  # as if the merged ones had not been removed yet
        if not path.exists():
            path.write_bytes(data)
    (tmp_path / "spool" / "000000000009-000000000010.new").write_bytes(b"half")
    again = opened(tmp_path)
    assert sum(map(total_bytes, drained(again))) == sum(
        total_bytes(window(index, records=40)) for index in range(number)
    )


def test_the_error_of_an_unusable_folder_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "spool").touch()
    with pytest.raises(ConfigurationError, match="name a folder that hogpipe may write to"):
        opened(tmp_path)


def test_a_segment_that_disappears_costs_only_itself(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    for number in range(80):  # as many as fit without being merged
        spool.append(window(number, records=20))
    spool.close()
    paths = segments(tmp_path)
    again = opened(tmp_path)
    paths[1].unlink()
    out = sequences(drained(again))
    assert out == sorted(out)
    assert len(out) + again.counts.dropped == 1600
    assert again.counts.records == 0

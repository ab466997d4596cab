"""The sources of the screen: a replay, and files of records that grow, rotate, or are torn."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.sinks import stats, traffic

from hogpipe.aggregation.dimensions import DimensionName
from hogpipe.config import load_config
from hogpipe.config.settings import AggregationSettings, Settings
from hogpipe.errors import CaptureError
from hogpipe.top.pipeline_source import PipelineSource
from hogpipe.top.record_file import RecordFile
from hogpipe.top.row_groups import Query, RowGroups
from hogpipe.top.screen_sources import WindowSource
from hogpipe.top.traffic_table import TrafficTable, WindowTraffic

GOLDEN = Path(__file__).parent.parent / "data" / "golden"
EXPECTED = GOLDEN / "expected.jsonl"


def lines(*seconds: int) -> bytes:
    """Return the records of windows, in which a process transmits 100 bytes."""
    records = [one for second in seconds for one in (traffic(second=second), stats(second=second))]
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


async def read_all(source: WindowSource, table: TrafficTable) -> None:
    """Read a source until it is at its end."""
    async with aclosing(source.read(table)) as windows:  # type: ignore[type-var]
        async for window in windows:
            add(table, window)
            if source.is_at_end:
                return


def add(table: TrafficTable, window: WindowTraffic) -> None:
    table.append(window)
    table.advance()


async def take(windows: AsyncIterator[WindowTraffic], table: TrafficTable, count: int) -> None:
    for _ in range(count):
        add(table, await asyncio.wait_for(anext(windows), 30))


async def test_a_replay_and_its_records_show_the_same() -> None:
    replayed, recorded = TrafficTable(), TrafficTable()
    await read_all(PipelineSource(load_config(GOLDEN / "config.toml")), replayed)
    file = RecordFile(EXPECTED)
    async with aclosing(file.read(recorded)) as windows:  # type: ignore[type-var]
        await take(windows, recorded, 2)
    shown = []
    for table in (replayed, recorded):
        rows = RowGroups(table).query(Query()).slice(0, 100)
        shown.append([(row.texts, row.transmit_bytes, row.receive_bytes, row.qualities)
                      for row in rows])  # fmt: skip
    assert shown[0] == shown[1] != []
    assert replayed.figures.captured_bytes == recorded.figures.captured_bytes > 0


async def test_a_replay_may_be_read_again_and_left_early() -> None:
    source = PipelineSource(load_config(GOLDEN / "config.toml"))
    await source.prepare()
    for _ in range(2):
        table = TrafficTable()
        async with aclosing(source.read(table)) as windows:  # type: ignore[type-var]
            await take(windows, table, 1)
    table = TrafficTable()
    await read_all(source, table)
    assert (table.passed, source.is_at_end) == (2, True)
    assert len(asyncio.all_tasks()) == 1


async def test_a_truncated_savefile_shows_what_is_there_and_says_so(tmp_path: Path) -> None:
    trace = tmp_path / "cut.pcap"
    trace.write_bytes((GOLDEN / "trace.pcap").read_bytes()[:-3])
    settings = load_config(GOLDEN / "config.toml")
    capture = msgspec.structs.replace(settings.capture, path=trace)
    table = TrafficTable()
    with pytest.raises(CaptureError):
        await read_all(PipelineSource(msgspec.structs.replace(settings, capture=capture)), table)
    assert table.passed > 0


async def test_a_growing_file_is_followed(tmp_path: Path) -> None:
    path, table = tmp_path / "r.jsonl", TrafficTable()
    path.write_bytes(lines(0, 1))
    source = RecordFile(path)
    async with aclosing(source.read(table)) as windows:  # type: ignore[type-var]
        await take(windows, table, 2)
        with path.open("ab") as file:
            file.write(lines(2)[:50])
            file.flush()
            file.write(lines(2)[50:] + lines(3))
            file.flush()
            await take(windows, table, 2)
    assert (table.passed, table.traffic[0].sum()) == (4, 400)


async def test_a_rotated_or_emptied_file_is_followed(tmp_path: Path) -> None:
    path, table = tmp_path / "r.jsonl", TrafficTable()
    path.write_bytes(lines(0))
    source = RecordFile(path)
    async with aclosing(source.read(table)) as windows:  # type: ignore[type-var]
        await take(windows, table, 1)
        path.rename(tmp_path / "r.jsonl-1")
        path.write_bytes(lines(1))
        await take(windows, table, 1)
        path.write_bytes(b"")
        with path.open("wb") as file:
            file.write(lines(2)[:-9] + b"\n")
        await take(windows, table, 1)
    assert table.traffic[0].sum() == 300


@pytest.mark.parametrize("cut", [0, 20])
async def test_a_compressed_file_is_read_as_far_as_it_is_whole(tmp_path: Path, cut: int) -> None:
    path, table = tmp_path / "r.jsonl.gz", TrafficTable()
    whole = gzip.compress(lines(*range(40)), mtime=0)
    path.write_bytes(whole[: len(whole) - cut])
    source = RecordFile(path)
    async with aclosing(source.read(table)) as windows:  # type: ignore[type-var]
        async for window in windows:
            add(table, window)
    assert source.is_at_end
    assert bool(source.damage) is bool(cut)
    assert table.passed == 40 or cut


async def test_foreign_and_torn_lines_are_counted_and_the_first_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, table = tmp_path / "r.jsonl", TrafficTable()
    torn = lines(1)[:30]
    path.write_bytes(b"<html>\n" + lines(0) + torn + b"\n" + b"x" * (3 << 20) + b"\n" + lines(2))
    source = RecordFile(path)
    async with aclosing(source.read(table)) as windows:  # type: ignore[type-var]
        await take(windows, table, 2)
    assert source.parser.first_foreign == 1
    assert [one.getMessage() for one in caplog.records] == [
        f"{path}: line 1 is no record; such lines are counted"
    ]
    assert table.figures.foreign_lines >= 3
    assert table.traffic[0].sum() == 200


@pytest.mark.parametrize("kind", ["absent", "folder"])
async def test_what_is_no_file_is_named(tmp_path: Path, kind: str) -> None:
    path: Any = tmp_path / "absent" if kind == "absent" else tmp_path
    with pytest.raises(CaptureError, match=rf"^--from {path}: "):
        await RecordFile(path).prepare()


async def test_a_recording_begins_where_it_is_asked_to(tmp_path: Path) -> None:
    path, table = tmp_path / "r.jsonl.gz", TrafficTable()
    path.write_bytes(gzip.compress(lines(*range(10)), mtime=0))
    since = stats(second=6)["window"]["end_unix"]
    async with aclosing(RecordFile(path, since).read(table)) as windows:  # type: ignore[type-var]
        async for window in windows:
            add(table, window)
    assert table.passed == 3


async def test_packets_between_other_hosts_are_counted_forwards_and_back(tmp_path: Path) -> None:
    path, table = tmp_path / "r.jsonl", TrafficTable()
    record = stats(second=1)
    capture = {**record["capture"], "not_local": {"packets": 7, "bytes": 900}}
    changed = json.dumps({**record, "capture": capture}).encode()
    path.write_bytes(lines(0) + changed + b"\n")
    async with aclosing(RecordFile(path).read(table)) as windows:  # type: ignore[type-var]
        await take(windows, table, 2)
    assert table.figures.not_local == 7
    table.step_back()
    assert table.figures.not_local == 0


@pytest.mark.parametrize(
    ("group_by", "only", "has_names"),
    [(("domain",), (), True), (("process",), ("domain:*.test",), True), (("process",), (), False)],
)
def test_live_traffic_has_names_of_peers_if_the_settings_use_them(
    group_by: tuple[DimensionName, ...], only: tuple[str, ...], *, has_names: bool
) -> None:
    source = PipelineSource(Settings(aggregation=AggregationSettings(group_by=group_by, only=only)))
    assert ("domain" in source._settings.aggregation.group_by) == has_names

"""A file holds whole lines only, whatever happens to the disk, the file or the run."""

import asyncio
import json
import logging
import os
import random
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from support.disks import tiny_disk
from support.sinks import traffic, until

from hogpipe.delivery.dispatch import Dispatcher
from hogpipe.errors import ConfigurationError
from hogpipe.linux.self_usage import read_descriptors
from hogpipe.sinks.encoding import JsonEncoder
from hogpipe.sinks.jsonl.jsonl_sink import JsonlSettings, JsonlSink
from hogpipe.testing import opened


def _settings(path: Path) -> JsonlSettings:
    return JsonlSettings(type="jsonl", path=path, retry_initial=0.001, retry_max=0.002)


def _open(path: Path) -> AbstractAsyncContextManager[JsonlSink]:
    return opened(JsonlSink(_settings(path)))


def _sequences(path: Path) -> list[int]:
    """Return the sequence of each line; fails on a line that is not whole."""
    data = path.read_bytes()
    assert not data or data.endswith(b"\n")
    return [json.loads(line)["sequence"] for line in data.splitlines()]


async def test_windows_are_appended_one_record_a_line(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "records.jsonl"
    async with _open(path) as sink:
        await sink.write([traffic(1), traffic(2)])
    async with _open(path) as sink:
        await sink.write([traffic(3)])
    assert _sequences(path) == [1, 2, 3]
    assert json.loads(path.read_bytes().splitlines()[0]) == traffic(1)


async def test_a_new_file_is_not_readable_by_others(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with _open(tmp_path / "x"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


async def test_a_renamed_file_gets_no_more_windows(tmp_path: Path) -> None:
    path, rotated = tmp_path / "x", tmp_path / "x.1"
    async with _open(path) as sink:
        await sink.write([traffic(1)])
        path.rename(rotated)
        await sink.write([traffic(2)])
    assert (_sequences(rotated), _sequences(path)) == ([1], [2])


async def test_reopen_opens_the_file_at_the_path_at_once(tmp_path: Path) -> None:
    path, rotated = tmp_path / "x", tmp_path / "x.1"
    async with _open(path) as sink:
        await sink.write([traffic(1)])
        path.rename(rotated)
        await sink.reopen()
        assert _sequences(path) == []
        await sink.reopen()
        await sink.write([traffic(2)])
    assert (_sequences(rotated), _sequences(path)) == ([1], [2])


async def test_a_file_that_was_removed_or_replaced_is_reopened(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "x"
    async with _open(path) as sink:
        await sink.write([traffic(1)])
        shutil.rmtree(path.parent)
        await sink.write([traffic(2)])
        assert _sequences(path) == [2]
        (tmp_path / "other").write_bytes(WHOLE + b"\n")
        (tmp_path / "other").replace(path)
        await sink.write([traffic(3)])
    assert _sequences(path) == [1, 3]


async def test_a_file_locked_by_another_sink_is_used_once_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / "x"
    async with _open(path) as sink:
        await sink.write([traffic(1)])
        path.rename(tmp_path / "x.1")
        async with _open(path):
            with pytest.raises(OSError, match="another run or sink writes to it"):
                await sink.write([traffic(2)])
        await sink.write([traffic(2)])
    assert (_sequences(tmp_path / "x.1"), _sequences(path)) == ([1], [2])


async def test_records_are_encoded_in_the_thread_of_the_sink(
    tmp_path: Path, encoding_threads: list[threading.Thread]
) -> None:
    async with _open(tmp_path / "x") as sink:
        await sink.write([traffic(1)])
    assert encoding_threads
    assert threading.main_thread() not in encoding_threads


@pytest.mark.parametrize(
    ("layout", "schema"), [("flat", "otel"), ("nested", "ecs"), ("flat", "ecs")]
)
async def test_each_shape_is_written_and_repaired(tmp_path: Path, layout: str, schema: str) -> None:
    path = tmp_path / "x"
    settings = JsonlSettings(type="jsonl", path=path, layout=layout, schema=schema)
    documents = JsonEncoder(settings).documents([traffic(1), traffic(2)])
    path.write_bytes(documents[0] + b"\n" + documents[1][:30])
    sink = JsonlSink(settings)
    await sink.open()
    await sink.write([traffic(2)])
    await sink.close()
    assert path.read_bytes().splitlines() == documents


WHOLE = json.dumps(traffic(1), separators=(",", ":")).encode()


@pytest.mark.parametrize("torn", [WHOLE[:-1], WHOLE[:40], b"{", WHOLE[:40] + bytes(100), bytes(9)])
async def test_half_a_record_left_by_a_crash_is_cut_off_and_logged(
    tmp_path: Path, torn: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x"
    path.write_bytes(WHOLE + b"\n" + torn)
    async with _open(path) as sink:
        await sink.write([traffic(2)])
    assert _sequences(path) == [1, 2]
    assert f"cut off {len(torn)} bytes" in caplog.text


@pytest.mark.parametrize("length", [100, 70_000, 200_000])
async def test_a_long_line_is_repaired_like_a_short_one(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x"
    record = traffic(1)
    record["process"]["command"] = "x" * length
    long = json.dumps(record, separators=(",", ":")).encode()
    path.write_bytes(WHOLE + b"\n" + long + b"\n" + long[:-1])
    async with _open(path) as sink:
        await sink.write([traffic(2)])
    assert _sequences(path) == [1, 1, 2]


async def test_a_whole_record_without_its_line_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(WHOLE)
    async with _open(path) as sink:
        await sink.write([traffic(2)])
    assert _sequences(path) == [1, 2]


@pytest.mark.parametrize("content", [b"key = 1\nlast = 2", b"\x7fELF\x02", b"[1,2]"])
async def test_a_file_without_records_is_refused_unchanged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="it ends in something that is not a record"):
        async with _open(path):
            pass
    assert path.read_bytes() == content


async def test_a_path_that_cannot_be_written_to_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    paths = [tmp_path, tmp_path / "file" / "x", tmp_path / "pipe", Path("/dev/null")]
    for path in [*paths, Path("/proc/version"), tmp_path / ("n" * 300)]:
        with pytest.raises(ConfigurationError) as caught:
            async with _open(path):
                pass
        (problem,) = caught.value.problems
        assert problem.startswith(f"path {path}: ")
        assert problem.endswith("; name a file that hogpipe may write to")


async def test_a_cancelled_write_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x"
    many = [traffic(sequence) for sequence in range(100, 2000)]
    expected = []
    async with _open(path) as sink:
        for turns in range(12):
            writing = asyncio.ensure_future(sink.write(many))
            for _ in range(turns):
                await asyncio.sleep(0)
            writing.cancel()
            await asyncio.wait({writing})
            if not writing.cancelled():
                expected += range(100, 2000)
            await sink.write([traffic(turns)])
            expected.append(turns)
    assert _sequences(path) == expected


async def test_a_cancelled_write_leaves_whole_lines_when_closed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    async with _open(path) as sink:
        await sink.write([traffic(0)])
        writing = asyncio.ensure_future(sink.write([traffic(1)] * 5000))
        await until(lambda: path.stat().st_size > 1000 or writing.done())
        writing.cancel()
        await asyncio.wait({writing})
    assert _sequences(path)[0] == 0


async def test_a_close_cancelled_before_its_thread_starts_is_still_made(
    tmp_path: Path,
) -> None:
    sink, busy = JsonlSink(_settings(tmp_path / "x")), threading.Event()
    await sink.open()
    sink._thread.submit(busy.wait)
    closing = asyncio.create_task(sink.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait({closing})
    busy.set()
    await until(lambda: str(tmp_path / "x") not in read_descriptors())


async def test_a_truncated_file_is_appended_to_at_its_new_end(tmp_path: Path) -> None:
    path = tmp_path / "x"
    async with _open(path) as sink:
        await sink.write([traffic(1)])
        os.truncate(path, 0)
        await sink.write([traffic(2)])
    assert _sequences(path) == [2]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    with tiny_disk(tmp_path / "disk") as disk:
        yield disk


async def test_on_a_full_disk_nothing_is_torn_or_lost_and_delivery_resumes(
    full_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = full_disk / "x"
    ballast = full_disk / "ballast"
    ballast.write_bytes(bytes(40 << 10))
    settings = _settings(path)
    dispatcher = Dispatcher(
        [(JsonlSink(settings), settings)], on_output_closed=lambda: None, rng=random.Random(1)
    )
    await dispatcher.open()
    async with asyncio.TaskGroup() as group:
        group.create_task(dispatcher.run())
        for window in range(10):
            await dispatcher.publish([traffic(window * 10 + n) for n in range(10)])
        await until(lambda: dispatcher.health()[0]["retries"] > 3)
        ballast.unlink()
        assert await dispatcher.drain(10) == []
    assert _sequences(path) == list(range(100))
    assert "No space left" in dispatcher.health()[0]["last_error"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2


async def test_a_sink_closed_on_a_full_disk_leaves_whole_lines(
    full_disk: Path,
) -> None:
    path = full_disk / "x"
    async with _open(path) as sink:
        await sink.write([traffic(1)])
        with pytest.raises(OSError, match="No space left"):
            await sink.write([traffic(2)] * 1000)
    assert _sequences(path) == [1]

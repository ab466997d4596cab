"""Closed files are compressed completely or not at all, and no other file is deleted."""

import fcntl
import gzip
import logging
import os
import random
import stat
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.disks import tiny_disk
from support.sinks import traffic, until, until_ended

from hogpipe.sinks.jsonl import closed_files
from hogpipe.sinks.jsonl.closed_files import (
    ClosedFilePolicy,
    ClosedFileWorker,
    list_closed,
    process_closed_files,
)
from hogpipe.sinks.jsonl.jsonl_sink import JsonlSettings, JsonlSink
from hogpipe.sinks.jsonl.rotation import format_closed

SEVEN = datetime(2026, 11, 22, 7, tzinfo=UTC)
LINES = b'{"type":"traffic"}\n' * 1000
NEVER = threading.Event()
GZIP = ClosedFilePolicy(compress=True)


def close_file(path: Path, hours: int, content: bytes = LINES, suffix: str = "") -> Path:
    """Create a closed file of `path`, so many hours after seven."""
    name = format_closed(path.name, SEVEN + timedelta(hours=hours))
    made = path.with_name(name + suffix)
    made.write_bytes(content)
    return made


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_compressed_file_has_the_time_and_mode_of_the_original(tmp_path: Path) -> None:
    closed = close_file(tmp_path / "x", 0)
    closed.chmod(0o640)
    os.utime(closed, (1_000_000, 2_000_000))
    process_closed_files(tmp_path / "x", GZIP, NEVER)
    (compressed,) = tmp_path.iterdir()
    assert compressed.name == "x-20261122T070000.000Z.gz"
    assert gzip.decompress(compressed.read_bytes()) == LINES
    assert stat.S_IMODE(compressed.stat().st_mode) == 0o640
    assert compressed.stat().st_mtime == 2_000_000


def test_the_same_file_compresses_to_the_same_bytes(tmp_path: Path) -> None:
    contents = set()
    for seconds in (1000, 2000):
        path = tmp_path / str(seconds) / "x"
        path.parent.mkdir()
        os.utime(close_file(path, 0), (seconds, seconds))
        process_closed_files(path, GZIP, NEVER)
        contents.add(path.with_name("x-20261122T070000.000Z.gz").read_bytes())
    assert len(contents) == 1


def test_the_newest_files_are_kept_compressed_or_not(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for hours in range(4):
        close_file(path, hours)
    close_file(path, 4, gzip.compress(LINES), ".gz")
    process_closed_files(path, ClosedFilePolicy(keep=2), NEVER)
    assert names(tmp_path) == ["x-20261122T100000.000Z", "x-20261122T110000.000Z.gz"]


def test_all_forms_of_a_file_count_as_one_and_are_deleted_together(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for suffix in ("", ".gz", ".gz.tmp"):
        close_file(path, 0, suffix=suffix)
    close_file(path, 1)
    process_closed_files(path, ClosedFilePolicy(keep=2), NEVER)
    assert len(list_closed(path)) == 2
    process_closed_files(path, ClosedFilePolicy(keep=1), NEVER)
    assert names(tmp_path) == ["x-20261122T080000.000Z"]


def test_files_with_other_names_are_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "x"
    others = [
        "x",
        "x.1",
        "x-20261122",
        "x-20261122T070000.000Z.bak",
        "x-20261122T070000.000Z.gz.old",
        "x-20261122T070000.000z",
        "xx-20261122T070000.000Z",
        "y-20261122T070000.000Z",
    ]
    for name in others:
        (tmp_path / name).write_bytes(LINES)
    (tmp_path / "x-20261122T070000.001Z").mkdir()
    (tmp_path / "x-20261122T070000.002Z").symlink_to("y-20261122T070000.000Z")
    before = {name: (tmp_path / name).stat() for name in names(tmp_path)}
    close_file(path, 0)
    close_file(path, 1)
    process_closed_files(path, ClosedFilePolicy(keep=1, compress=True), NEVER)
    assert names(tmp_path) == sorted([*before, "x-20261122T080000.000Z.gz"])
    for name, found in before.items():
        assert (tmp_path / name).stat().st_mtime_ns == found.st_mtime_ns
        assert (tmp_path / name).stat().st_size == found.st_size


@pytest.mark.parametrize("half", [b"", gzip.compress(LINES, mtime=0)[:40]], ids=["empty", "cut"])
def test_a_half_compressed_file_is_compressed_again(tmp_path: Path, half: bytes) -> None:
    close_file(tmp_path / "x", 0)
    close_file(tmp_path / "x", 0, half, ".gz.tmp")
    process_closed_files(tmp_path / "x", GZIP, NEVER)
    assert names(tmp_path) == ["x-20261122T070000.000Z.gz"]
    assert gzip.decompress(next(tmp_path.iterdir()).read_bytes()) == LINES


def test_an_original_beside_its_compressed_form_is_deleted(tmp_path: Path) -> None:
    close_file(tmp_path / "x", 0)
    whole = close_file(tmp_path / "x", 0, gzip.compress(LINES), ".gz")
    before = whole.read_bytes()
    process_closed_files(tmp_path / "x", GZIP, NEVER)
    assert names(tmp_path) == [whole.name]
    assert whole.read_bytes() == before


def test_a_half_compressed_file_without_its_original_is_deleted(tmp_path: Path) -> None:
    close_file(tmp_path / "x", 0, b"half", ".gz.tmp")
    process_closed_files(tmp_path / "x", GZIP, NEVER)
    assert names(tmp_path) == []


def test_a_file_that_another_process_compresses_is_skipped(tmp_path: Path) -> None:
    closed = close_file(tmp_path / "x", 0)
    half = close_file(tmp_path / "x", 0, b"half", ".gz.tmp")
    with closed.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        process_closed_files(tmp_path / "x", GZIP, NEVER)
    assert closed.read_bytes() == LINES
    assert half.read_bytes() == b"half"


def test_on_a_full_disk_the_original_stays_and_one_line_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with tiny_disk(tmp_path / "disk") as disk:
        noise = random.Random(1).randbytes(40 << 10)
        close_file(disk / "x", 0, noise)
        worker = ClosedFileWorker(disk / "x", GZIP)
        worker.request()
        worker.close(20)
        assert names(disk) == ["x-20261122T070000.000Z"]
        assert next(disk.iterdir()).read_bytes() == noise
    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert "No space left on device" in line.getMessage()


async def test_work_beyond_the_time_limit_is_stopped_and_done_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, stopped = tmp_path / "x", threading.Event()
    content = random.Random(1).randbytes(closed_files._CHUNK + 1)
    close_file(path, 0, content)

    def read(descriptor: int, size: int, read: Callable[[int, int], bytes] = os.read) -> bytes:
        if threading.current_thread().name == "closed":
            assert stopped.wait(60)
        return read(descriptor, size)

    monkeypatch.setattr(os, "read", read)
    worker = ClosedFileWorker(path, GZIP)
    worker.request()
    await until((tmp_path / "x-20261122T070000.000Z.gz.tmp").exists)
    worker.close(0)
    stopped.set()
    await until_ended("closed")
    assert names(tmp_path) == ["x-20261122T070000.000Z"]
    again = ClosedFileWorker(path, GZIP)
    again.request()
    again.close(60)
    (compressed,) = names(tmp_path)
    assert compressed == "x-20261122T070000.000Z.gz"
    assert gzip.decompress((tmp_path / compressed).read_bytes()) == content


def test_a_policy_that_keeps_all_files_needs_no_thread(tmp_path: Path) -> None:
    close_file(tmp_path / "x", 0)
    worker = ClosedFileWorker(tmp_path / "x", ClosedFilePolicy())
    worker.request()
    worker.close(0)
    assert names(tmp_path) == ["x-20261122T070000.000Z"]


def test_a_request_during_the_work_is_processed_too(tmp_path: Path) -> None:
    path = tmp_path / "x"
    worker = ClosedFileWorker(path, GZIP)
    for hours in range(20):
        close_file(path, hours)
        worker.request()
    worker.close(60)
    assert len(names(tmp_path)) == 20
    assert all(name.endswith(".gz") for name in names(tmp_path))


async def test_remaining_closed_files_are_processed_when_a_sink_opens(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for hours in range(3):
        close_file(path, hours)
    settings = JsonlSettings(type="jsonl", path=path, rotate_every=60.0, keep=2, compress="gzip")
    sink = JsonlSink(settings)
    await sink.open()
    compressed = [f"x-20261122T0{hours}0000.000Z.gz" for hours in (8, 9)]
    await until(lambda: names(tmp_path) == ["x", *compressed])
    await sink.close()


async def test_compression_delays_no_window_and_no_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    gate = threading.Event()
    compress = closed_files._write_compressed

    def wait(*words: Any) -> bool:
        return gate.wait(60) and compress(*words)

    monkeypatch.setattr(closed_files, "_write_compressed", wait)
    close_file(path, 0)
    sink = JsonlSink(JsonlSettings(type="jsonl", path=path, rotate_every=1.0, compress="gzip"))
    await sink.open()
    for second in range(3):
        await sink.write([traffic(second, second=second)])
    await sink.close()
    assert len(names(tmp_path)) == 4
    assert not [name for name in names(tmp_path) if name.endswith(".gz")]
    gate.set()

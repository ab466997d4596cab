"""Closed files are compressed whole or not at all, and only ours are ever deleted."""

import fcntl
import gzip
import logging
import os
import random
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.disks import tiny_disk
from support.sinks import traffic, until

from hogpipe.sinks.jsonl import closed_files
from hogpipe.sinks.jsonl.closed_files import Caretaker, Upkeep, list_closed, look_after
from hogpipe.sinks.jsonl.jsonl_sink import JsonlSettings, JsonlSink
from hogpipe.sinks.jsonl.rotation import format_closed

SEVEN = datetime(2026, 11, 22, 7, tzinfo=UTC)
LINES = b'{"type":"traffic"}\n' * 1000
NEVER = threading.Event()
GZIP = Upkeep(compress=True)


def close_file(path: Path, hours: int, content: bytes = LINES, suffix: str = "") -> Path:
    """Make a closed file of `path` of some hours after seven."""
    name = format_closed(path.name, SEVEN + timedelta(hours=hours))
    made = path.with_name(name + suffix)
    made.write_bytes(content)
    return made


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_closed_file_becomes_a_compressed_one_of_its_age_and_mode(tmp_path: Path) -> None:
    closed = close_file(tmp_path / "x", 0)
    closed.chmod(0o640)
    os.utime(closed, (1_000_000, 2_000_000))
    look_after(tmp_path / "x", GZIP, NEVER)
    (packed,) = tmp_path.iterdir()
    assert packed.name == "x-20261122T070000.000Z.gz"
    assert gzip.decompress(packed.read_bytes()) == LINES
    assert stat.S_IMODE(packed.stat().st_mode) == 0o640
    assert packed.stat().st_mtime == 2_000_000


def test_the_same_file_compresses_to_the_same_bytes(tmp_path: Path) -> None:
    told = set()
    for seconds in (1000, 2000):
        path = tmp_path / str(seconds) / "x"
        path.parent.mkdir()
        os.utime(close_file(path, 0), (seconds, seconds))
        look_after(path, GZIP, NEVER)
        told.add(path.with_name("x-20261122T070000.000Z.gz").read_bytes())
    assert len(told) == 1


def test_the_newest_stay_compressed_or_not(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for hours in range(4):
        close_file(path, hours)
    close_file(path, 4, gzip.compress(LINES), ".gz")
    look_after(path, Upkeep(keep=2), NEVER)
    assert names(tmp_path) == ["x-20261122T100000.000Z", "x-20261122T110000.000Z.gz"]


def test_all_forms_of_a_file_count_as_one_and_go_together(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for suffix in ("", ".gz", ".gz.tmp"):
        close_file(path, 0, suffix=suffix)
    close_file(path, 1)
    look_after(path, Upkeep(keep=2), NEVER)
    assert len(list_closed(path)) == 2
    look_after(path, Upkeep(keep=1), NEVER)
    assert names(tmp_path) == ["x-20261122T080000.000Z"]


def test_only_files_with_exactly_our_names_are_touched(tmp_path: Path) -> None:
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
    look_after(path, Upkeep(keep=1, compress=True), NEVER)
    assert names(tmp_path) == sorted([*before, "x-20261122T080000.000Z.gz"])
    for name, found in before.items():
        assert (tmp_path / name).stat().st_mtime_ns == found.st_mtime_ns
        assert (tmp_path / name).stat().st_size == found.st_size


@pytest.mark.parametrize("half", [b"", gzip.compress(LINES)[:40]])
def test_what_a_crash_left_half_compressed_is_compressed_anew(tmp_path: Path, half: bytes) -> None:
    close_file(tmp_path / "x", 0)
    close_file(tmp_path / "x", 0, half, ".gz.tmp")
    look_after(tmp_path / "x", GZIP, NEVER)
    assert names(tmp_path) == ["x-20261122T070000.000Z.gz"]
    assert gzip.decompress(next(tmp_path.iterdir()).read_bytes()) == LINES


def test_an_original_that_a_crash_left_beside_its_compressed_form_goes(tmp_path: Path) -> None:
    close_file(tmp_path / "x", 0)
    whole = close_file(tmp_path / "x", 0, gzip.compress(LINES), ".gz")
    before = whole.read_bytes()
    look_after(tmp_path / "x", GZIP, NEVER)
    assert names(tmp_path) == [whole.name]
    assert whole.read_bytes() == before


def test_half_a_file_without_its_original_goes(tmp_path: Path) -> None:
    close_file(tmp_path / "x", 0, b"half", ".gz.tmp")
    look_after(tmp_path / "x", GZIP, NEVER)
    assert names(tmp_path) == []


def test_a_file_that_someone_else_compresses_is_left_to_them(tmp_path: Path) -> None:
    closed = close_file(tmp_path / "x", 0)
    half = close_file(tmp_path / "x", 0, b"half", ".gz.tmp")
    with closed.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        look_after(tmp_path / "x", GZIP, NEVER)
    assert closed.read_bytes() == LINES
    assert half.read_bytes() == b"half"


def test_on_a_full_disk_the_original_stays_and_it_is_told_once_a_round(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with tiny_disk(tmp_path / "disk") as disk:
        noise = random.Random(1).randbytes(40 << 10)
        close_file(disk / "x", 0, noise)
        caretaker = Caretaker(disk / "x", GZIP)
        caretaker.ask()
        caretaker.close(20)
        assert names(disk) == ["x-20261122T070000.000Z"]
        assert next(disk.iterdir()).read_bytes() == noise
    (told,) = caplog.records
    assert told.levelno == logging.WARNING
    assert "No space left on device" in told.getMessage()


async def test_work_that_takes_too_long_is_given_up_and_done_at_the_next_start(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x"
    content = random.Random(1).randbytes(64 << 20)
    close_file(path, 0, content)
    caretaker = Caretaker(path, GZIP)
    caretaker.ask()
    await until((tmp_path / "x-20261122T070000.000Z.gz.tmp").exists)
    caretaker.close(0)
    for thread in threading.enumerate():
        if thread.name == "closed":
            thread.join(20)
    assert names(tmp_path) == ["x-20261122T070000.000Z"]
    again = Caretaker(path, GZIP)
    again.ask()
    again.close(60)
    (packed,) = names(tmp_path)
    assert packed == "x-20261122T070000.000Z.gz"
    assert gzip.decompress((tmp_path / packed).read_bytes()) == content


def test_a_caretaker_with_nothing_to_do_has_no_thread(tmp_path: Path) -> None:
    close_file(tmp_path / "x", 0)
    caretaker = Caretaker(tmp_path / "x", Upkeep())
    caretaker.ask()
    caretaker.close(0)
    assert names(tmp_path) == ["x-20261122T070000.000Z"]


def test_each_order_is_carried_out_also_one_that_comes_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "x"
    caretaker = Caretaker(path, GZIP)
    for hours in range(20):
        close_file(path, hours)
        caretaker.ask()
    caretaker.close(60)
    assert len(names(tmp_path)) == 20
    assert all(name.endswith(".gz") for name in names(tmp_path))


async def test_what_was_left_is_seen_to_when_a_sink_opens(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for hours in range(3):
        close_file(path, hours)
    settings = JsonlSettings(type="jsonl", path=path, rotate_every=60.0, keep=2, compress="gzip")
    sink = JsonlSink(settings)
    await sink.open()
    packed = [f"x-20261122T0{hours}0000.000Z.gz" for hours in (8, 9)]
    await until(lambda: names(tmp_path) == ["x", *packed])
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

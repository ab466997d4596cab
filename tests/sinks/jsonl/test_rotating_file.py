"""Rotation loses, tears and splits no window."""

import asyncio
import fcntl
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

import pytest
from support.configuration import problems_of
from support.disks import tiny_disk
from support.sinks import total_bytes, traffic, until, until_ended

from hogpipe import JsonEncoder, Record
from hogpipe.delivery.dispatch import Dispatcher
from hogpipe.sinks.jsonl.closed_files import ClosedFilePolicy
from hogpipe.sinks.jsonl.jsonl_sink import JsonlSettings, JsonlSink, find_jsonl_problems
from hogpipe.sinks.jsonl.rotating_file import FileOptions, RotatingFile
from hogpipe.sinks.jsonl.rotation import RotationRule

FOREVER = threading.Event()


def make_file(path: Path, **options: object) -> RotatingFile:
    settings = JsonlSettings(type="jsonl", path=path)
    given = {
        "rotation": RotationRule(most_bytes=1),
        "closed_files": ClosedFilePolicy(),
        "sync": "never",
        **options,
    }
    return RotatingFile(path, JsonEncoder(settings), FileOptions(**given))


def write(file: RotatingFile, *records: Record) -> None:
    file.append(records, FOREVER)
    file.commit()


def read_lines(path: Path) -> list[Record]:
    """Return the records of a file; fails on a line that is not whole."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    assert not data or data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


def read_files(path: Path) -> list[list[int]]:
    """Return the sequences in each file, in the order of the names, the current one last."""
    closed = sorted(file for file in path.parent.iterdir() if file.name.startswith(f"{path.name}-"))
    return [[record["sequence"] for record in read_lines(file)] for file in (*closed, path)]


def join(lists: Iterable[list[int]]) -> list[int]:
    return [*chain.from_iterable(lists)]


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir())


def test_a_full_file_is_closed_with_the_time_of_the_next_window(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    file = make_file(path)
    file.open()
    write(file, traffic(1, second=0), traffic(2, second=0))
    write(file, traffic(3, second=1))
    write(file, traffic(4, second=5))
    file.close(0)
    assert read_files(path) == [[1, 2], [3], [4]]
    assert names(path) == [
        "x.jsonl",
        "x.jsonl-20261122T070001.000Z",
        "x.jsonl-20261122T070005.000Z",
    ]


def test_a_window_is_never_split(tmp_path: Path) -> None:
    path = tmp_path / "x"
    file = make_file(path, rotation=RotationRule(most_bytes=5000))
    file.open()
    rng = random.Random(1)
    windows, sequence = [], 0
    for second in range(50):
        count = rng.choice([1, 3, 700])
        windows.append(list(range(sequence, sequence + count)))
        write(file, *[traffic(number, second=second) for number in windows[-1]])
        sequence += count
    file.close(0)
    files = read_files(path)
    assert join(files) == join(windows)
    assert len(files) > 5
    assert {file[0] for file in files} <= {window[0] for window in windows}


def test_a_file_never_spans_two_periods(tmp_path: Path) -> None:
    path = tmp_path / "x"
    file = make_file(path, rotation=RotationRule(every=10.0))
    file.open()
    for second in range(5, 35, 3):
        write(file, traffic(second, second=second))
    file.close(0)
    assert read_files(path) == [[5, 8], [11, 14, 17], [20, 23, 26, 29], [32]]


def test_a_truncated_file_has_the_period_of_its_next_window(tmp_path: Path) -> None:
    path = tmp_path / "x"
    file = make_file(path, rotation=RotationRule(every=10.0))
    file.open()
    write(file, traffic(1, second=1))
    os.truncate(path, 0)
    for second in (11, 12):
        write(file, traffic(second, second=second))
    file.close(0)
    assert read_files(path) == [[11, 12]]


def test_a_restart_appends_to_a_file_of_the_same_period_only(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for second in (1, 2, 12, 13):
        file = make_file(path, rotation=RotationRule(every=10.0))
        file.open()
        write(file, traffic(second, second=second))
        file.close(0)
    assert read_files(path) == [[1, 2], [12, 13]]
    assert names(path) == ["x", "x-20261122T070012.000Z"]


def test_the_same_windows_make_the_same_files(tmp_path: Path) -> None:
    files = []
    for run in ("one", "two"):
        path = tmp_path / run / "x"
        file = make_file(path, rotation=RotationRule(1500, 10.0))
        file.open()
        for second in range(30):
            write(file, traffic(second, second=second))
        file.close(0)
        files.append({entry.name: entry.read_bytes() for entry in path.parent.iterdir()})
    assert files[0] == files[1]
    assert len(files[0]) > 4


def test_a_clock_set_back_overwrites_nothing_and_keeps_the_order(tmp_path: Path) -> None:
    path = tmp_path / "x"
    file = make_file(path)
    file.open()
    for sequence, second in enumerate([30, 31, 5, 5, 31, 32]):
        write(file, traffic(sequence, second=second))
    file.close(0)
    assert read_files(path) == [[0], [1], [2], [3], [4], [5]]


def test_an_existing_entry_of_the_same_name_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "x"
    (tmp_path / "elsewhere").write_text("foreign")
    (tmp_path / "x-20261122T070001.000Z").symlink_to("elsewhere")
    (tmp_path / "x-20261122T070001.001Z").mkdir()
    file = make_file(path)
    file.open()
    write(file, traffic(1, second=0))
    write(file, traffic(2, second=1))
    file.close(0)
    assert (tmp_path / "elsewhere").read_text() == "foreign"
    assert [record["sequence"] for record in read_lines(tmp_path / "x-20261122T070001.002Z")] == [1]


def test_the_next_file_is_locked_before_the_last_is_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    file = make_file(path)
    file.open()
    write(file, traffic(1, second=0))
    closed = tmp_path / "x-20261122T070001.000Z"
    seen = []

    def look(locked: Callable[[int, int], None] = fcntl.flock) -> Callable[[int, int], None]:
        def flock(descriptor: int, operation: int) -> None:
            locked(descriptor, operation)
            seen.append((_is_locked(closed, locked), _is_locked(path, locked)))

        return flock

    monkeypatch.setattr(fcntl, "flock", look())
    write(file, traffic(2, second=1))
    monkeypatch.undo()
    assert seen == [(True, True)]
    assert (_is_locked(closed), _is_locked(path)) == (False, True)
    file.close(0)
    assert not _is_locked(path)


def _is_locked(path: Path, flock: Callable[[int, int], None] = fcntl.flock) -> bool:
    with path.open() as file:
        try:
            flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@pytest.mark.usefixtures("root")
def test_a_file_that_cannot_be_renamed_is_rotated_later(tmp_path: Path) -> None:
    path = tmp_path / "x"
    file = make_file(path)
    file.open()
    write(file, traffic(1, second=0))
    subprocess.run(["mount", "--bind", tmp_path, tmp_path], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", tmp_path], check=True)
        with pytest.raises(OSError, match="Read-only file system"):
            file.append([traffic(2, second=1)], FOREVER)
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)
    write(file, traffic(2, second=1))
    file.close(0)
    assert read_files(path) == [[1], [2]]


def test_a_next_file_that_cannot_be_created_is_created_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    file = make_file(path)
    file.open()
    write(file, traffic(1, second=0))
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", _refuse(os.open, path))
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                file.append([traffic(2, second=1)], FOREVER)
    write(file, traffic(2, second=1))
    file.close(0)
    assert read_files(path) == [[1], [2]]


def _refuse(opened: Callable[..., int], path: Path) -> Callable[..., int]:
    """Refuse to create `path`, as a disk without free inodes does."""

    def open_other(name: str | Path, flags: int, *words: int, **more: int) -> int:
        if flags & os.O_CREAT and Path(name).name == path.name:
            raise OSError(28, "No space left on device")
        return opened(name, flags, *words, **more)

    return open_other


@pytest.mark.parametrize(("sync", "synced"), [("never", 0), ("close", 2), ("window", 5)])
def test_the_file_is_synced_as_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: str, synced: int
) -> None:
    calls = []
    real = os.fdatasync

    def count(descriptor: int) -> None:
        calls.append(descriptor)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", count)
    file = make_file(tmp_path / "x", rotation=RotationRule(every=10.0), sync=sync)
    file.open()
    for second in (0, 1, 11):
        write(file, traffic(second, second=second))
    file.close(0)
    assert len(calls) == synced


def test_a_window_that_cannot_be_synced_is_rolled_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    file = make_file(path, rotation=RotationRule(), sync="window")
    file.open()
    write(file, traffic(1))

    def fail(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(OSError, match="Input/output error"):
            file.append([traffic(2)], FOREVER)
    assert read_files(path) == [[1]]
    write(file, traffic(2))
    file.close(0)
    assert read_files(path) == [[1, 2]]


async def test_a_write_cancelled_during_rotation_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x"
    sink = JsonlSink(JsonlSettings(type="jsonl", path=path, rotate_every=1.0, compress="gzip"))
    await sink.open()
    expected: list[int] = []
    for turn in range(40):
        many = [traffic(turn * 1000 + n, second=turn) for n in range(500)]
        writing = asyncio.ensure_future(sink.write(many))
        for _ in range(turn % 10):
            await asyncio.sleep(0 if turn < 20 else 0.0005)
        writing.cancel()
        await asyncio.wait({writing})
        if not writing.cancelled():
            expected += range(turn * 1000, turn * 1000 + 500)
        await sink.write([traffic(turn * 1000 + 999, second=turn)])
        expected.append(turn * 1000 + 999)
    await sink.close()
    await until_ended("closed")  # it may be about to replace a file, which the close did not await
    assert join(read_files(path)) == expected
    assert len(read_files(path)) == 40


async def test_a_sink_can_be_closed_in_every_state(tmp_path: Path) -> None:
    for turns in range(8):
        path = tmp_path / str(turns) / "x"
        sink = JsonlSink(JsonlSettings(type="jsonl", path=path, rotate_mib=1, compress="gzip"))
        opening = asyncio.ensure_future(sink.open())
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait({opening})
        await sink.close()
        again = JsonlSink(JsonlSettings(type="jsonl", path=path))
        await again.open()
        await again.write([traffic(1)])
        await again.close()
        assert read_files(path) == [[1]]


async def test_a_disk_full_during_rotation_loses_no_byte(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", kib=256) as disk:
        path, ballast = disk / "x", disk / "ballast"
        ballast.write_bytes(bytes(240 << 10))
        settings = JsonlSettings(
            type="jsonl",
            path=path,
            rotate_every=1.0,
            compress="gzip",
            queue_windows=4,
            retry_initial=0.001,
            retry_max=0.002,
        )
        dispatcher = Dispatcher(
            [(JsonlSink(settings), settings)], on_output_closed=lambda: None, rng=random.Random(1)
        )
        await dispatcher.open()
        offered: list[Record] = []
        async with asyncio.TaskGroup() as group:
            group.create_task(dispatcher.run())
            for second in range(40):
                window = [traffic(second * 30 + n, pid=n + 1, second=second) for n in range(30)]
                offered += window
                await dispatcher.publish(window)
            await until(lambda: dispatcher.health()[0]["retries"] > 3)
            assert "No space left" in dispatcher.health()[0]["last_error"]
            assert _all_whole(path)
            ballast.unlink()
            assert await dispatcher.drain(10) == []
        await until_ended("closed")
        assert dispatcher.health()[0]["dropped"] == 0
        assert total_bytes(_all_whole(path)) == total_bytes(offered)


def _all_whole(path: Path) -> Sequence[Record]:
    """Return what is in all files that have their name; they may be replaced meanwhile."""
    records: list[Record] = []
    for file in list(path.parent.iterdir()):
        if file.name.startswith("x") and file.suffix != ".tmp":
            with suppress(FileNotFoundError):
                records += read_lines(file)
    return records


KILLED = """
import sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from support.sinks import traffic
from hogpipe import JsonEncoder
from hogpipe.sinks.jsonl.closed_files import ClosedFilePolicy
from hogpipe.sinks.jsonl.rotating_file import FileOptions, RotatingFile
from hogpipe.sinks.jsonl.jsonl_sink import JsonlSettings
from hogpipe.sinks.jsonl.rotation import RotationRule

path = Path(sys.argv[2])
options = FileOptions(RotationRule(most_bytes=20_000), ClosedFilePolicy(compress=True), "never")
file = RotatingFile(path, JsonEncoder(JsonlSettings(type="jsonl", path=path)), options)
file.open()
first = int(sys.argv[3])
for window in range(100_000):
    start = first + window * 10
    records = [traffic(start + n, second=window % 59) for n in range(10)]
    file.append(records, threading.Event())
    file.commit()
    print(start + 9, flush=True)
"""


@pytest.mark.parametrize("seed", range(6))
def test_a_kill_at_any_moment_tears_repeats_and_loses_nothing(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "x"
    rng = random.Random(seed)
    last = -1
    for _ in range(3):
        words = [str(Path(__file__).parents[2]), str(path), str(last + 1)]
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, *words], stdout=subprocess.PIPE
        ) as run:
            assert run.stdout is not None
            for _ in range(rng.randrange(1, 200)):
                last = int(run.stdout.readline())
            run.send_signal(signal.SIGKILL)
            last = max([last, *(int(line) for line in run.stdout.read().split(b"\n")[:-1])])
        # The window in flight may be there in part, in whole lines once the file is opened again.
        file = make_file(
            path, rotation=RotationRule(), closed_files=ClosedFilePolicy(compress=True)
        )
        file.open()
        file.close(30)
        found = join(read_files(path))
        assert found[: last + 1] == list(range(last + 1))
        assert found == list(range(len(found)))
        assert len(found) <= last + 1 + 10
        last = len(found) - 1
    assert not [name for name in names(path) if name.endswith(".tmp")]
    assert all(name == "x" or name.endswith("Z.gz") for name in names(path))


PROBLEMS = [
    ({"keep": 3}, ("keep",), "only with rotate_mib or rotate_every"),
    ({"compress": "gzip"}, ("compress",), "only with rotate_mib or rotate_every"),
    ({"path": "folder"}, ("path",), "not a regular file but a folder"),
    ({"path": "pipe"}, ("path",), "not a regular file but a FIFO"),
    ({"path": "file/x"}, ("path",), "Not a directory"),
    ({"path": "file/new/x"}, ("path",), "Not a directory"),
    ({"path": "n" * 300}, ("path",), "File name too long"),
    ({"path": "link", "rotate_mib": 1}, ("path",), "a symbolic link"),
    ({"path": "n" * 230, "rotate_mib": 1}, ("path",), "its name must leave 28 bytes"),
]


@pytest.mark.parametrize(("keys", "place", "text"), PROBLEMS)
def test_settings_that_cannot_work_are_reported_with_their_key(
    tmp_path: Path, keys: dict[str, object], place: tuple[str], text: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    given = {**keys, "path": tmp_path / str(keys.get("path", "new/folder/x"))}
    (problem,) = find_jsonl_problems(JsonlSettings(type="jsonl", **given))
    assert problem.key_path == place
    assert text in problem.text
    assert str(tmp_path) not in (problem.redacted or problem.text)


def test_the_check_reports_them_with_their_key_path(tmp_path: Path) -> None:
    file = f"""
    [[sinks]]
    type = "jsonl"
    path = "{tmp_path}"
    keep = 3
    compress = "gzip"
    """
    assert problems_of(tmp_path, file) == [
        "sinks[0].keep: only with rotate_mib or rotate_every",
        "sinks[0].compress: only with rotate_mib or rotate_every",
        f'sinks[0].path: "{tmp_path}": not a regular file but a folder',
    ]
    for key in ("keep", "rotate_mib", "rotate_every"):
        shown = f'[[sinks]]\ntype = "jsonl"\npath = "x"\n{key} = 0'
        assert problems_of(tmp_path, shown) == [f"sinks[0].{key}: must be at least 1"]


def test_settings_that_work_have_no_problem(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    for keys in ({"path": "a/b/c"}, {"path": "file", "rotate_mib": 1, "keep": 1}, {"path": "link"}):
        given = {**keys, "path": tmp_path / str(keys["path"])}
        assert not [*find_jsonl_problems(JsonlSettings(type="jsonl", **given))]
    assert names(tmp_path / "x") == ["file", "link"]

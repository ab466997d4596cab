"""A spool delivers every intact window, whatever else is in its folder and in its files."""

import json
import os
import re
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sinks import traffic

from hogpipe.delivery.spool import Spool
from hogpipe.delivery.spool.framing import encode_window
from hogpipe.errors import ConfigurationError
from hogpipe.records.schema import Record

BOUND = 1 << 20
PATIENCE = 60.0
GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "config.toml"
OWN = re.compile(r"(?!0{12})\d{12}-\d{12}\.(spool|new|damaged(-\d+)?)")
FIRST = "000000000001-000000000001"


def window(number: int) -> list[Record]:
    return [traffic(number * 2 + index, second=number % 59) for index in range(2)]


def make_folder(path: Path) -> None:
    path.mkdir()
    (path / "file").write_text("kept")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        folder = os.open(path.parent, os.O_PATH)
        one.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)


def make_unreadable(path: Path) -> None:
    path.write_text("no record")
    path.chmod(0)


KINDS: dict[str, Callable[[Path], None]] = {
    "folder": make_folder,
    "FIFO": os.mkfifo,
    "socket": make_socket,
    "symlink loop": lambda path: path.symlink_to(path.name),
    "symlink to nothing": lambda path: path.symlink_to("nothing"),
    "symlink to a device": lambda path: path.symlink_to("/dev/zero"),
    "empty file": Path.touch,
    "unreadable file": make_unreadable,
    "file": lambda path: path.write_bytes(b"no record\n") and None,
}
FOREIGN_NAMES = [
    "sub.new",
    "notes.damaged",
    "1-2.spool",
    "000000000001-000000000001.spool~",
    "000000000002-000000000001.spool",
    "000000000000-000000000000.spool",
    "999999999999-999999999999.spool",
    "000000000001-999999999999.spool",
    "\udcff.new",
    "position.new",
]
OWN_NAMES = [
    f"{FIRST}.spool",
    f"{FIRST}.new",
    f"{FIRST}.damaged",
    "000000000001-000000000050.spool",
    "000000000001-000000000050.new",
    "position",
]


def frame(payload: bytes, records: int, size: int | None = None) -> bytes:
    """Return a frame with right checksums, whatever it contains."""
    line = b"#%08x %08x %08x " % (records, len(payload) if size is None else size, crc32(payload))
    return b"%b%08x\n%b" % (line, crc32(line), payload)


WINDOWS = [window(number) for number in range(6)]
PARTS = st.one_of(
    st.sampled_from([(encode_window(records), records) for records in WINDOWS]),
    st.sampled_from(
        [
            (frame(b"", 0), None),
            (frame(b"", 1), None),
            (frame(b"no json\n", 1), None),
            (frame(b'{"type": "traffic"}\n', 1), None),
            (frame(b"[]\n", 1), None),
            (frame(encode_window(WINDOWS[0])[37:], 7), None),
            (frame(encode_window(WINDOWS[0])[37:], 1), None),
            (frame(b"", 1, size=1 << 31), None),
            (encode_window(WINDOWS[1])[:-20] + b"\n", None),
        ]
    ),
    st.binary(max_size=60).map(lambda noise: (noise.replace(b"#", b"") + b"\n", None)),
)


def in_time(work: Callable[[], None]) -> None:
    """Run `work` in a thread; fail if it does not end, or raises."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - the test raises it
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


def deliver(folder: Path) -> list[Sequence[Record]]:
    """Open the spool, append a window, and deliver all; return the windows."""
    delivered: list[Sequence[Record]] = []

    def run() -> None:
        spool = Spool(folder, BOUND, "coalesce")
        spool.open()
        spool.append(window(99))
        while records := spool.read():
            delivered.append(list(records))
            spool.acknowledge()
        counts = spool.counts
        assert counts.records == 0
        assert counts.found + 2 == sum(map(len, delivered)) + counts.dropped
        spool.close()

    in_time(run)
    return delivered


def identify(path: Path) -> tuple[object, ...]:
    """Return what distinguishes an entry from any other, and its content."""
    found = path.lstat()
    content = path.read_bytes() if stat.S_ISREG(found.st_mode) else b""
    return found.st_ino, found.st_mode, found.st_mtime_ns, content


@given(
    st.lists(st.lists(PARTS, max_size=6), min_size=1, max_size=3),
    st.dictionaries(
        st.sampled_from(FOREIGN_NAMES + OWN_NAMES), st.sampled_from(sorted(KINDS)), max_size=6
    ),
)
@settings(max_examples=150)
def test_every_intact_window_is_delivered_once_and_no_foreign_entry_is_touched(
    files: list[list[tuple[bytes, list[Record] | None]]], others: dict[str, str]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected = []
        for number, parts in enumerate(files, 100):
            data = b"".join(data for data, _records in parts)
            (folder / f"{number:012}-{number:012}.spool").write_bytes(data)
            expected += [records for _data, records in parts if records is not None]
        for other, kind in others.items():
            KINDS[kind](folder / other)
        foreign = {one: identify(folder / one) for one in FOREIGN_NAMES if one in others}
        odd = {identify(folder / one) for one, kind in others.items() if not kind.endswith("file")}
        assert deliver(folder) == [*expected, window(99)]
        assert {one: identify(folder / one) for one in foreign} == foreign
        assert odd <= {identify(path) for path in folder.iterdir()}
        assert deliver(folder) == [window(99)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("taken", [f"{FIRST}.damaged", "sub.damaged"])
def test_a_name_that_is_taken_does_not_prevent_that_a_file_is_set_aside(
    tmp_path: Path, kind: str, taken: str, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(tmp_path / f"{FIRST}.spool")
    KINDS[kind](tmp_path / taken)
    before = identify(tmp_path / taken)
    assert deliver(tmp_path) == [window(99)]
    assert identify(tmp_path / taken) == before
    (message,) = caplog.messages
    assert message.startswith(f"spool: {tmp_path}/{FIRST}.spool cannot be used (not a regular file")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_takes_the_place_of_a_file_during_a_run_costs_that_file_only(
    tmp_path: Path, kind: str
) -> None:
    spool = Spool(tmp_path, BOUND, "coalesce")
    spool.open()
    spool.append(window(1))
    (path,) = tmp_path.glob("*.spool")
    path.unlink()
    KINDS[kind](path)
    KINDS[kind](path.with_name("000000000002-000000000002.spool"))

    def use() -> None:
        spool.append(window(2))
        assert spool.read() == window(1)  # from memory
        spool.acknowledge()
        assert spool.read() == window(2)
        spool.acknowledge()
        assert spool.counts.records == 0
        spool.close()

    in_time(use)


def test_only_the_newest_damaged_files_of_its_own_are_removed(tmp_path: Path) -> None:
    for number in range(10, 20):
        (tmp_path / f"{number:012}-{number:012}.damaged").touch()
        (tmp_path / f"{number}.damaged").touch()
        (tmp_path / f"{number + 100:012}-{number + 100:012}.spool").write_bytes(b"#\n" * 40)
    deliver(tmp_path)
    assert len([path for path in tmp_path.iterdir() if OWN.fullmatch(path.name)]) == 4
    assert len(list(tmp_path.glob("*.damaged"))) == 4 + 10


def test_an_entry_that_prevents_the_start_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, _target: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    os.mkfifo(tmp_path / "position")
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(ConfigurationError, match=rf"^spool {tmp_path}: position: Permission"):
        Spool(tmp_path, BOUND, "coalesce").open()


def test_a_run_delivers_its_records_and_those_of_a_spool_full_of_foreign_entries(
    tmp_path: Path,
) -> None:
    folder, path = tmp_path / "spool", tmp_path / "records.jsonl"
    folder.mkdir()
    for number, kind in enumerate(KINDS, 1):
        KINDS[kind](folder / f"{number:012}-{number:012}.spool")
        KINDS[kind](folder / f"{number}.new")
    crafted = frame(b"no json\n", 1) + frame(b"", 0) + encode_window(window(7))
    (folder / "000000000100-000000000100.spool").write_bytes(crafted)
    sink = f'{{type = "jsonl", path = "{path}", spool = "{folder}"}}'
    command = [sys.executable, "-m", "hogpipe", "run", str(GOLDEN), "--set", f"sinks=[{sink}]"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["sequence"] for record in records] == [14, 15, 1, 2, 3, 4, 5, 6, 7]
    assert len(list(folder.glob("*.new"))) == len(KINDS)
    assert not list(folder.glob("*.spool"))

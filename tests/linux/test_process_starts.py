"""A pid becomes an identity by the start of its process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.namespaces import require

from hogpipe.linux.process_starts import Identified, ProcessStarts, parse_identity

SECOND = 1_000_000_000
LATE = 10**18


def stat(start: int, flags: int = 0, command: str = "a) b") -> bytes:
    fields = ["S", "1", "1", "1", "0", "-1", str(flags), *["0"] * 12, str(start), "0", "0"]
    return f"7 ({command}) {' '.join(fields)}\n".encode()


def write(root: Path, pid: int, data: bytes) -> None:
    (root / str(pid)).mkdir(exist_ok=True)
    (root / str(pid) / "stat").write_bytes(data)


def test_the_start_is_read_behind_any_name() -> None:
    assert parse_identity(stat(1234)) == Identified(1234)
    assert parse_identity(stat(1234, flags=0x00208040)) == Identified(1234, kernel_thread=True)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_identity_or_none(data: bytes) -> None:
    found = parse_identity(data)
    assert found is None or isinstance(found.start, int)


def test_a_process_of_this_host_is_identified() -> None:
    starts = ProcessStarts(Path("/proc"), lambda: LATE)
    expected = Path("/proc/self/stat").read_bytes().rsplit(b")", 1)[1].split()[19]
    assert starts.identify(os.getpid(), LATE, 0.0).start == int(expected)


def test_the_pid_of_one_that_is_gone_has_no_start_and_is_counted() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    starts = ProcessStarts(Path("/proc"))
    assert starts.identify(ended.pid, LATE, 0.0).start is None
    assert starts.missed == 1


def test_a_start_is_kept_after_the_process_has_ended(tmp_path: Path) -> None:
    write(tmp_path, 7, stat(100))
    starts = ProcessStarts(tmp_path, lambda: 60 * SECOND)
    assert starts.identify(7, 60 * SECOND, 0.0).start == 100
    (tmp_path / "7" / "stat").unlink()
    assert starts.identify(7, 65 * SECOND, 5.0).start == 100
    assert starts.missed == 0


def test_who_had_a_pid_long_ago_is_not_who_has_used_it_and_is_gone_by_now(tmp_path: Path) -> None:
    write(tmp_path, 7, stat(100))
    starts = ProcessStarts(tmp_path, lambda: 60 * SECOND)
    assert starts.identify(7, 60 * SECOND, 0.0).start == 100
    (tmp_path / "7" / "stat").unlink()
    assert starts.identify(7, 600 * SECOND, 540.0).start is None
    assert starts.missed == 1
    assert starts.identify(7, 59 * SECOND, 540.0).start == 100  # it was seen to live then


def test_a_pid_that_passed_on_is_not_taken_for_who_had_it_before(tmp_path: Path) -> None:
    write(tmp_path, 7, stat(100))
    starts = ProcessStarts(tmp_path, lambda: 60 * SECOND)
    assert starts.identify(7, 60 * SECOND, 0.0).start == 100
    write(tmp_path, 7, stat(900))
    assert starts.identify(7, 60 * SECOND, 5.0).start == 900
    tick = SECOND // os.sysconf("SC_CLK_TCK")
    assert starts.identify(7, 500 * tick, 5.0).start is None
    assert starts.missed == 0


@pytest.mark.parametrize("user", [0, 65534], ids=["root", "nobody"])
def test_a_procfs_of_another_pid_namespace_is_told_from_the_hosts(user: int) -> None:
    require("unshare")
    program = "import os; from pathlib import Path; from hogpipe.linux.process_starts import *; "
    program += f"os.setuid({user}); print(shows_host_pids(Path('/proc')))"
    command = [sys.executable, "-c", program]
    inside = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", '"$@" & wait', "-"]
    for prefix, expected in (([], "True\n"), (inside, "False\n")):
        done = subprocess.run([*prefix, *command], capture_output=True, text=True, check=True)
        assert done.stdout == expected

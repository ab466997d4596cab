"""A pid and the start of its process identify that process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.namespaces import require

from hogpipe.linux.process_starts import ProcessStarts
from hogpipe.linux.procfs import ProcessStat

SECOND = 1_000_000_000
LATE = 10**18


def write_stat(root: Path, pid: int, start: int) -> None:
    (root / str(pid)).mkdir(exist_ok=True)
    fields = ["S", "1", "1", "1", "0", "-1", "0", *["0"] * 12, str(start), "0", "0"]
    (root / str(pid) / "stat").write_text(f"{pid} (a) b) {' '.join(fields)}\n")


def start_of(starts: ProcessStarts, pid: int, boot_ns: int, now: float) -> int | None:
    found = starts.find(pid, boot_ns, now)
    return None if found is None else found.start


def test_a_process_of_this_host_is_identified() -> None:
    starts = ProcessStarts(Path("/proc"), lambda: LATE)
    expected = Path("/proc/self/stat").read_bytes().rsplit(b")", 1)[1].split()[19]
    assert start_of(starts, os.getpid(), LATE, 0.0) == int(expected)


def test_a_process_that_exited_before_the_first_lookup_is_missed() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    starts = ProcessStarts(Path("/proc"))
    assert start_of(starts, ended.pid, LATE, 0.0) is None
    assert starts.missed == 1


def test_a_start_stays_valid_after_the_process_has_exited(tmp_path: Path) -> None:
    write_stat(tmp_path, 7, 100)
    starts = ProcessStarts(tmp_path, lambda: 60 * SECOND)
    assert start_of(starts, 7, 60 * SECOND, 0.0) == 100
    (tmp_path / "7" / "stat").unlink()
    assert start_of(starts, 7, 65 * SECOND, 5.0) == 100
    assert starts.missed == 0


def test_a_process_that_was_read_elsewhere_is_known_after_it_exited(tmp_path: Path) -> None:
    starts = ProcessStarts(tmp_path, lambda: 60 * SECOND)
    starts.add(7, ProcessStat("curl", 1, 100, 0, has_exited=False, threads=1), 60 * SECOND, 0.0)
    assert start_of(starts, 7, 60 * SECOND, 5.0) == 100
    assert start_of(starts, 7, 600 * SECOND, 540.0) is None


def test_a_start_expires_ten_seconds_after_the_process_was_last_seen(tmp_path: Path) -> None:
    write_stat(tmp_path, 7, 100)
    starts = ProcessStarts(tmp_path, lambda: 60 * SECOND)
    assert start_of(starts, 7, 60 * SECOND, 0.0) == 100
    (tmp_path / "7" / "stat").unlink()
    assert start_of(starts, 7, 600 * SECOND, 540.0) is None
    assert starts.missed == 1
    assert start_of(starts, 7, 59 * SECOND, 540.0) == 100  # it was seen alive then


@pytest.mark.parametrize(("forks", "found"), [(100, 100), (20_000, None)])
def test_a_start_expires_at_once_if_so_many_forks_may_have_reused_its_pid(
    tmp_path: Path, forks: int, found: int | None
) -> None:
    write_stat(tmp_path, 7, 100)
    (tmp_path / "stat").write_text("cpu 1\nprocesses 5000\nbtime 7\n")
    starts = ProcessStarts(tmp_path, lambda: 60 * SECOND)
    assert start_of(starts, 7, 60 * SECOND, 0.0) == 100
    (tmp_path / "7" / "stat").unlink()
    (tmp_path / "stat").write_text(f"cpu 1\nprocesses {5000 + forks}\nbtime 7\n")
    assert start_of(starts, 7, 62 * SECOND, 2.0) == found


def test_the_number_of_pids_of_the_host_bounds_how_soon_one_is_reused(tmp_path: Path) -> None:
    write_stat(tmp_path, 7, 100)
    (tmp_path / "sys" / "kernel").mkdir(parents=True)
    (tmp_path / "sys" / "kernel" / "pid_max").write_text("4194304\n")
    (tmp_path / "stat").write_text("cpu 1\nprocesses 5000\n")
    starts = ProcessStarts(tmp_path, lambda: 60 * SECOND)
    assert start_of(starts, 7, 60 * SECOND, 0.0) == 100
    (tmp_path / "7" / "stat").unlink()
    (tmp_path / "stat").write_text("cpu 1\nprocesses 50000\n")
    assert start_of(starts, 7, 62 * SECOND, 2.0) == 100


def test_a_reused_pid_is_not_identified_as_of_the_former_process(tmp_path: Path) -> None:
    write_stat(tmp_path, 7, 100)
    starts = ProcessStarts(tmp_path, lambda: 60 * SECOND)
    assert start_of(starts, 7, 60 * SECOND, 0.0) == 100
    write_stat(tmp_path, 7, 900)
    assert start_of(starts, 7, 60 * SECOND, 5.0) == 900
    tick = SECOND // os.sysconf("SC_CLK_TCK")
    assert start_of(starts, 7, 500 * tick, 5.0) is None
    assert starts.missed == 0


@pytest.mark.parametrize("user", [0, 65534], ids=["root", "nobody"])
def test_a_procfs_of_another_pid_namespace_does_not_show_host_pids(user: int) -> None:
    require("unshare")
    program = "import os; from pathlib import Path; from hogpipe.linux.process_starts import *; "
    program += f"os.setuid({user}); print(shows_host_pids(Path('/proc')))"
    command = [sys.executable, "-c", program]
    inside = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", '"$@" & wait', "-"]
    for prefix, expected in (([], "True\n"), (inside, "False\n")):
        done = subprocess.run([*prefix, *command], capture_output=True, text=True, check=True)
        assert done.stdout == expected

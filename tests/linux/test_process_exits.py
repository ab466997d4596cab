"""The exits of processes of this host, noticed through pidfds."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hogpipe.linux.process_exits import ProcessExits
from hogpipe.linux.procfs import ProcessIdentity, parse_stat

PROC = Path("/proc")


@pytest.fixture
def exits() -> Iterator[ProcessExits]:
    exits = ProcessExits(PROC, max_watched=3, clock_ns=lambda: 42)
    yield exits
    exits.close()


def start() -> subprocess.Popen[bytes]:
    """Start a process that ends with its input."""
    return subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)


def identify(pid: int) -> ProcessIdentity:
    return ProcessIdentity(pid, parse_stat((PROC / str(pid) / "stat").read_bytes()).start)


def end(process: subprocess.Popen[bytes]) -> None:
    process.communicate()


def count_fds() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (names)


def test_an_exit_is_seen_at_the_next_poll(exits: ProcessExits) -> None:
    process = start()
    watched = exits.watch(identify(process.pid))
    exits.poll()
    assert watched.exited_ns is None
    end(process)
    assert watched.exited_ns is None
    exits.poll()
    assert watched.exited_ns == 42


def test_a_process_is_watched_once(exits: ProcessExits) -> None:
    own = identify(os.getpid())
    before = count_fds()
    assert exits.watch(own) is exits.watch(own)
    assert count_fds() == before + 2  # the pidfd and the epoll instance


def test_a_process_that_has_exited_or_whose_pid_is_reused_is_seen_at_once(
    exits: ProcessExits,
) -> None:
    process = start()
    gone = identify(process.pid)
    end(process)
    assert exits.watch(gone).exited_ns == 42
    assert exits.watch(ProcessIdentity(os.getpid(), 1)).exited_ns == 42


def test_the_process_watched_longest_is_dropped_beyond_the_bound(exits: ProcessExits) -> None:
    processes = [start() for _ in range(4)]
    watched = [exits.watch(identify(process.pid)) for process in processes]
    for process in processes:
        end(process)
    exits.poll()
    assert [one.exited_ns for one in watched] == [None, 42, 42, 42]


def test_a_procfs_with_other_pids_is_not_used(tmp_path: Path) -> None:
    exits = ProcessExits(tmp_path)
    assert exits.watch(ProcessIdentity(1, 1)).exited_ns is None
    exits.poll()


def test_closing_leaves_no_descriptor_open(exits: ProcessExits) -> None:
    before = count_fds()
    exits.watch(identify(os.getpid()))
    exits.close()
    exits.close()
    assert count_fds() == before
    exits.poll()

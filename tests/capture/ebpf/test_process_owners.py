"""Processes that the kernel named, on this host: living, gone, and with a pid of another's."""

import os
import subprocess
import sys
import time
from pathlib import Path

from support.fake_proc import FakeProc

from hogpipe.capture.ebpf.process_owners import Owners
from hogpipe.linux.bpf.traffic_rows import ProcessEvent, RowOwner
from hogpipe.model import Process, Quality

PROC = Path("/proc")
CONTAINER = "0123456789abcdef" * 4


def make() -> Owners:
    return Owners(PROC, {1: "/", 7: f"/docker/{CONTAINER}"}.get)


def holder(pid: int, boot_ns: int, cgroup: int = 1) -> RowOwner:
    return RowOwner(boot_ns, cgroup, pid, 0, "python", 3, 0)


def now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def process_of(owners: Owners, one: RowOwner) -> Process:
    process = owners.attribute(one, Quality.EXACT).process
    assert process is not None
    return process


def test_a_process_that_lives_is_told_whole() -> None:
    process = process_of(make(), holder(os.getpid(), now()))
    assert process.pid == os.getpid()
    assert process.start is not None
    assert process.executable is not None


def test_one_that_was_seen_alive_is_told_whole_when_it_is_gone() -> None:
    owners = make()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        owners.look_at([ProcessEvent(now(), child.pid)])
        note = holder(child.pid, now())
        child.communicate(b"\n")
    assert owners.started_ns(child.pid) is None
    process = process_of(owners, note)
    assert process.start is not None
    assert process.executable is not None


def test_one_that_was_gone_unseen_is_told_by_its_note_and_its_control_group() -> None:
    with subprocess.Popen(["true"]) as child:
        pass
    owners = make()
    process = process_of(owners, holder(child.pid, now(), cgroup=7))
    assert (process.pid, process.start, process.command) == (child.pid, None, "python")
    assert process.container == CONTAINER
    assert owners.missed == 1


def test_a_note_from_before_a_process_had_started_is_of_another_one() -> None:
    assert process_of(make(), holder(os.getpid(), 1)).start is None


def test_when_the_process_that_has_a_pid_was_started_is_looked_at_once_a_turn() -> None:
    owners, before = make(), now()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        started = owners.started_ns(child.pid)
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    assert started is not None
    assert before - tick <= started <= now()
    assert owners.started_ns(child.pid) == started
    owners.begin_turn()
    assert owners.started_ns(child.pid) is None


def test_equal_answers_of_a_turn_are_one_object() -> None:
    owners = make()
    answers = [owners.attribute(holder(os.getpid(), now()), Quality.EXACT) for _ in range(2)]
    assert answers[0] is answers[1]
    listener = owners.attribute(holder(os.getpid(), now()), Quality.LISTENER)
    assert listener.quality is Quality.LISTENER


def test_a_pid_that_is_another_processes_within_a_turn_is_told_as_each_of_them(
    tmp_path: Path,
) -> None:
    """Whichever of their notes comes first, and however lately the pid was looked at."""
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    proc = FakeProc(tmp_path)
    owners = Owners(tmp_path, {}.get)
    proc.process(7, start=100)
    owners.look_at([ProcessEvent(150 * tick, 7)])
    proc.process(7, start=200)
    notes = [(250, 200), (150, 100), (260, 200), (160, 100), (270, 200)]
    for at, start in notes:
        assert process_of(owners, holder(7, at * tick)).start == start
        assert owners.name(holder(7, at * tick)).start == start

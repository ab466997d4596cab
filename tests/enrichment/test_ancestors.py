"""Ancestors: who started a process, as far as /proc shows it and shows it of the right one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.fake_proc import FakeProc

from hogpipe.enrichment.processes import ProcessReader
from hogpipe.linux.procfs import ProcessIdentity, Procfs
from hogpipe.model import Ancestor, Process

BASH = "/bin/bash"


@pytest.fixture
def fake(tmp_path: Path) -> FakeProc:
    fake = FakeProc(tmp_path / "proc")
    fake.process(1, start=1, command=b"systemd", executable=b"/lib/systemd/systemd")
    fake.process(5, start=50, parent=1, command=b"cron", executable=b"/usr/sbin/cron")
    fake.process(7, start=70, parent=5, command=b"backup.sh", executable=b"/bin/bash")
    fake.process(9, start=90, parent=7, command=b"curl", executable=b"/usr/bin/curl")
    return fake


def make_reader(fake: FakeProc, ancestors: int = 0) -> ProcessReader:
    return ProcessReader(Procfs(fake.root), ancestors=ancestors)


def read(reader: ProcessReader, now: float = 0.0, pid: int = 9, start: int = 90) -> Process:
    process = reader.find(ProcessIdentity(pid, start), now)
    assert process is not None
    return process


def test_the_parent_of_a_script_has_the_name_of_its_interpreter_and_its_own_command(
    fake: FakeProc,
) -> None:
    process = read(make_reader(fake))
    assert process.ancestors == (Ancestor(7, 70, "backup.sh", BASH),)
    assert process.parent is not None
    assert process.parent.name == "bash"


@pytest.mark.parametrize(("asked", "pids"), [(0, [7]), (1, [7, 5]), (2, [7, 5, 1]), (4, [7, 5, 1])])
def test_as_many_ancestors_are_read_as_are_asked_for(
    fake: FakeProc, asked: int, pids: list[int]
) -> None:
    assert [one.pid for one in read(make_reader(fake, asked)).ancestors] == pids


def test_a_process_that_is_younger_than_its_child_is_not_its_parent(fake: FakeProc) -> None:
    fake.process(7, start=91, parent=1, command=b"other")  # the pid is used again
    assert read(make_reader(fake, 4)).ancestors == ()
    fake.process(7, start=70, parent=5)
    fake.process(5, start=71, parent=1)
    assert [one.pid for one in read(make_reader(fake, 4)).ancestors] == [7]


def test_what_proc_does_not_show_has_no_ancestors(fake: FakeProc) -> None:
    fake.process(9, start=90, parent=12345)
    assert read(make_reader(fake, 4)).ancestors == ()
    assert read(make_reader(fake, 4), pid=1, start=1).ancestors == ()


def test_the_first_parent_stays_when_it_exits_and_the_child_executes_another_program(
    fake: FakeProc,
) -> None:
    reader = make_reader(fake, 1)
    first = read(reader)
    fake.process(9, start=90, parent=1, command=b"wget", executable=b"/usr/bin/wget", stack_start=7)
    later = read(reader, now=100.0)
    assert later.executable == "/usr/bin/wget"
    assert (later.parent_pid, later.ancestors) == (7, first.ancestors)
    assert reader.read_new(9, 200.0) is not None
    assert read(reader, now=200.0).ancestors == first.ancestors


def test_a_process_whose_parent_exited_before_it_was_read_has_that_of_orphans(
    fake: FakeProc,
) -> None:
    fake.process(9, start=90, parent=1)
    reader = make_reader(fake, 4)
    assert reader.read_new(9, 0.0) is not None
    assert [one.command for one in read(reader).ancestors] == ["systemd"]


def test_a_parent_is_described_as_it_is_when_each_child_is_read(fake: FakeProc) -> None:
    reader = make_reader(fake)
    fake.process(7, start=70, parent=5, command=b"sh", executable=b"/bin/sh", stack_start=1)
    read(reader)
    fake.process(7, start=70, parent=5, command=b"make", executable=b"/bin/make", stack_start=2)
    fake.process(10, start=95, parent=7)
    assert read(reader, pid=10, start=95).ancestors == (Ancestor(7, 70, "make", "/bin/make"),)
    assert read(reader).ancestors == (Ancestor(7, 70, "sh", "/bin/sh"),)


def test_a_change_of_the_setting_is_a_change_of_what_is_known(fake: FakeProc) -> None:
    reader = make_reader(fake)
    before = read(reader)
    reader.set_details(command_line=False, ancestors=2, container_names=True)
    assert [one.pid for one in read(reader, now=0.5).ancestors] == [7, 5, 1]
    assert len(reader.recall(before).ancestors) == 3
    reader.set_details(command_line=False, ancestors=0, container_names=True)
    assert [one.pid for one in reader.recall(before).ancestors] == [7]


def test_the_parent_of_a_real_process_is_this_one() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        reader = ProcessReader(Procfs(Path("/proc")))
        assert reader.read_new(child.pid, 0.0) is not None
        stat = Procfs(Path("/proc")).read_stat(child.pid)
        assert stat is not None
        process = reader.cached(ProcessIdentity(child.pid, stat.start))
        assert process is not None
        assert process.parent is not None
        assert process.parent.pid == os.getpid()
        assert process.parent.executable == str(Path(sys.executable).resolve())
    finally:
        child.kill()
        child.wait()

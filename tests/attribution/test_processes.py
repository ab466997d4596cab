"""What is told of a process."""

import os
import pwd
from pathlib import Path

import msgspec
import pytest
from support.fake_proc import BOOT_TIME, FakeProc

from hogpipe.attribution.processes import ProcessReader
from hogpipe.attribution.procfs import Procfs
from hogpipe.model import Process

ID = "0123456789abcdef" * 4
TICKS = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def fake(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path / "proc")


def read(fake: FakeProc, pid: int, start: int = 1000, *, command_line: bool = False) -> Process:
    process = ProcessReader(Procfs(fake.root), command_line=command_line).read(pid, start)
    assert process is not None
    return process


def test_all_that_is_known_of_a_process_is_told(fake: FakeProc) -> None:
    fake.process(
        42,
        start=7 * TICKS,
        parent=3,
        command=b"worker",
        executable=b"/opt/app/bin/worker",
        command_line=[b"worker", b"--fast", b""],
        uid=0,
        cgroup=f"0::/system.slice/docker-{ID}.scope\n".encode(),
    )
    assert read(fake, 42, 7 * TICKS, command_line=True) == Process(
        pid=42,
        start=7 * TICKS,
        parent_pid=3,
        created_ns=(BOOT_TIME + 7) * 1_000_000_000,
        command="worker",
        executable="/opt/app/bin/worker",
        # The last argument is empty, as the zeroes are at the end of a renamed process.
        command_line=("worker", "--fast"),
        user_id=0,
        owner=pwd.getpwuid(0).pw_name,
        cgroup=f"/system.slice/docker-{ID}.scope",
        unit=f"docker-{ID}.scope",
        container=ID,
    )


def test_a_command_line_is_told_only_on_request(fake: FakeProc) -> None:
    fake.process(42, command_line=[b"mysql", b"--password=hidden"])
    assert read(fake, 42).command_line is None


def test_a_kernel_thread_has_neither_program_nor_arguments(fake: FakeProc) -> None:
    fake.process(2, command=b"kworker/0:1", executable=None)
    process = read(fake, 2, command_line=True)
    assert (process.executable, process.command_line) == (None, None)


def test_a_program_that_was_replaced_keeps_its_path(fake: FakeProc) -> None:
    fake.process(42, executable=b"/usr/bin/app (deleted)")
    assert read(fake, 42).executable == "/usr/bin/app"


def test_a_user_without_a_name_is_a_number(fake: FakeProc) -> None:
    fake.process(42, uid=2**32 - 2)
    process = read(fake, 42)
    assert (process.user_id, process.owner) == (2**32 - 2, None)


def test_hostile_names_come_out_as_valid_utf8(fake: FakeProc) -> None:
    fake.process(
        42,
        command=b") \xff\n(",
        executable=b"/tmp/\xed\xa0\x80",
        command_line=[b"\xc3", b"\x1b[31m"],
        cgroup=b"0::/\xfe.service\n",
    )
    process = read(fake, 42, command_line=True)
    assert process.command == ") \\xff\n("
    assert process.executable == r"/tmp/\xed\xa0\x80"
    assert process.command_line == (r"\xc3", "\x1b[31m")
    assert process.unit == r"\xfe.service"
    assert msgspec.json.decode(msgspec.json.encode(process), type=Process) == process


def test_a_command_line_is_bounded(fake: FakeProc) -> None:
    fake.process(42, command_line=[b"x" * 100_000])
    assert read(fake, 42, command_line=True).command_line == ("x" * 4096,)


def test_another_process_under_the_same_pid_is_not_the_one_asked_for(fake: FakeProc) -> None:
    fake.process(42, start=1000)
    reader = ProcessReader(Procfs(fake.root))
    assert reader.read(42, 999) is None
    assert reader.read(43, 1000) is None


def test_a_process_that_became_another_program_shows_its_new_name(fake: FakeProc) -> None:
    fake.process(42, command=b"sh", executable=b"/bin/sh")
    reader = ProcessReader(Procfs(fake.root))
    reader.read(42, 1000)
    fake.process(42, command=b"curl", executable=b"/usr/bin/curl")
    process = reader.read(42, 1000)
    assert process is not None
    assert (process.command, process.executable) == ("curl", "/usr/bin/curl")


def test_this_process_is_told_as_python_knows_it() -> None:
    procfs = Procfs(Path("/proc"))
    stat = procfs.stat(os.getpid())
    assert stat is not None
    process = ProcessReader(procfs, command_line=True).read(os.getpid(), stat.start)
    assert process is not None
    assert process.parent_pid == os.getppid()
    assert process.user_id == os.getuid()
    assert process.executable == str(Path("/proc/self/exe").readlink())
    assert process.command_line is not None

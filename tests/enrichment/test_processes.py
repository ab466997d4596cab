"""Attributes of processes, read and cached."""

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.fake_proc import BOOT_TIME, FakeProc
from support.namespaces import require
from support.running import wait_until

from hogpipe.enrichment.processes import ProcessReader
from hogpipe.linux.procfs import ProcessIdentity, Procfs
from hogpipe.model import Process

ID = "0123456789abcdef" * 4
UID = "7a1b90f2-713c-467a-a18a-cbb50a075296"
TICKS = os.sysconf("SC_CLK_TCK")
NO_OWNER = 65534


@pytest.fixture
def fake(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path / "proc")


def fake_process(fake: FakeProc) -> int:
    fake.process(42, command=b"app", executable=b"/usr/bin/app")
    return 42


class Reader:
    """A ProcessReader with a manual clock, and its procfs."""

    def __init__(
        self, root: Path, *, command_line: bool = False, max_cached: int = 4096, now: float = 0.0
    ) -> None:
        self.procfs = Procfs(root)
        self.now = now
        self.reader = ProcessReader(self.procfs, command_line=command_line, max_cached=max_cached)

    def try_read(self, pid: int, start: int = 1000) -> Process | None:
        return self.reader.refresh(
            ProcessIdentity(pid, start), self.procfs.read_stat(pid), self.now
        )

    def read(self, pid: int, start: int = 1000) -> Process:
        process = self.try_read(pid, start)
        assert process is not None
        return process

    def read_real(self, pid: int) -> Process:
        stat = self.procfs.read_stat(pid)
        assert stat is not None
        return self.read(pid, stat.start)


@pytest.fixture
def reader(fake: FakeProc) -> Reader:
    return Reader(fake.root)


def read(fake: FakeProc, pid: int, start: int = 1000, *, command_line: bool = False) -> Process:
    return Reader(fake.root, command_line=command_line).read(pid, start)


def test_all_attributes_of_a_process_are_read(fake: FakeProc) -> None:
    fake.process(
        42,
        start=7 * TICKS,
        parent=3,
        command=b"worker",
        executable=b"/opt/app/bin/worker",
        command_line=[b"worker", b"--fast", b""],
        uid=0,
        cgroup=f"0::/kubepods.slice/pod{UID}/docker-{ID}.scope\n".encode(),
    )
    assert read(fake, 42, 7 * TICKS, command_line=True) == Process(
        pid=42,
        start=7 * TICKS,
        parent_pid=3,
        created_ns=(BOOT_TIME + 7) * 1_000_000_000,
        command="worker",
        executable="/opt/app/bin/worker",
        # The last argument is empty, like the zeroes after the name of a renamed process.
        command_line=("worker", "--fast"),
        user_id=0,
        user_name=pwd.getpwuid(0).pw_name,
        cgroup=f"/kubepods.slice/pod{UID}/docker-{ID}.scope",
        unit=f"docker-{ID}.scope",
        container=ID,
        pod=UID,
    )


def test_a_command_line_is_read_only_on_request(fake: FakeProc) -> None:
    fake.process(42, command_line=[b"mysql", b"--password=hidden"])
    assert read(fake, 42).command_line is None


def test_command_lines_are_read_once_that_is_asked_for(fake: FakeProc, reader: Reader) -> None:
    fake.process(42, command_line=[b"mysql", b"--password=hidden"])
    before = reader.read(42)
    reader.reader.set_details(command_line=True, ancestors=0, container_names=True)
    assert reader.reader.recent(ProcessIdentity(42, 1000), reader.now) is None
    assert reader.read(42).command_line == ("mysql", "--password=hidden")
    assert reader.reader.recall(before).command_line == ("mysql", "--password=hidden")


def test_command_lines_are_removed_once_they_may_not_be_read(fake: FakeProc) -> None:
    fake.process(42, command_line=[b"mysql", b"--password=hidden"])
    reader = Reader(fake.root, command_line=True)
    before = reader.read(42)
    reader.reader.set_details(command_line=False, ancestors=0, container_names=True)
    uncached = msgspec.structs.replace(before, pid=43)
    for process in (before, uncached):
        assert reader.reader.recall(process) == msgspec.structs.replace(process, command_line=None)
    assert reader.read(42).command_line is None


def test_a_kernel_thread_has_neither_executable_nor_arguments(fake: FakeProc) -> None:
    fake.process(2, command=b"kworker/0:1", executable=None)
    process = read(fake, 2, command_line=True)
    assert (process.executable, process.command_line) == (None, None)


def test_a_replaced_executable_keeps_its_path(fake: FakeProc) -> None:
    fake.process(42, executable=b"/usr/bin/app (deleted)")
    assert read(fake, 42).executable == "/usr/bin/app"


def test_a_user_without_a_name_has_only_an_id(fake: FakeProc) -> None:
    fake.process(42, uid=2**32 - 2)
    process = read(fake, 42)
    assert (process.user_id, process.user_name) == (2**32 - 2, None)


def test_hostile_names_become_valid_utf8(fake: FakeProc) -> None:
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


def test_a_reused_pid_is_not_the_same_process(fake: FakeProc, reader: Reader) -> None:
    fake.process(42, start=1000)
    assert reader.try_read(42, 999) is None
    assert reader.try_read(43, 1000) is None


def test_a_cached_process_is_not_read_again(fake: FakeProc, reader: Reader) -> None:
    home = fake.process(42)
    process = reader.read(42)
    for name in ("status", "cgroup", "exe"):
        (home / name).unlink()
    reader.now = 9.9
    assert reader.read(42) is process


def test_a_process_that_has_exited_is_returned_from_the_cache(
    fake: FakeProc, reader: Reader
) -> None:
    process = reader.read(fake_process(fake))
    shutil.rmtree(fake.root / "42")
    reader.now = 1e6
    assert reader.read(42) is process


def test_processes_with_the_same_pid_are_distinguished(fake: FakeProc, reader: Reader) -> None:
    fake.process(42, start=1000, command=b"old")
    old = reader.read(42, 1000)
    fake.process(42, start=2000, command=b"new", uid=NO_OWNER)
    assert reader.read(42, 1000) is old
    new = reader.read(42, 2000)
    assert (new.start, new.command, new.user_id) == (2000, "new", NO_OWNER)


def test_a_process_that_exits_during_the_reads_has_no_attributes_of_its_successor(
    fake: FakeProc, reader: Reader
) -> None:
    fake.process(42, start=1000, parent=3, command=b"old")
    stat = reader.procfs.read_stat(42)
    fake.process(42, start=2000, command=b"new", uid=NO_OWNER)
    process = reader.reader.refresh(ProcessIdentity(42, 1000), stat, 0.0)
    created = BOOT_TIME * 1_000_000_000 + 1000 * 1_000_000_000 // TICKS
    assert process == Process(42, 1000, 3, created, "old")
    # An incomplete read is not cached.
    fake.process(42, start=1000, command=b"old", executable=b"/bin/old")
    assert reader.read(42).executable == "/bin/old"


def test_a_cached_process_that_exits_during_the_reads_keeps_its_attributes(
    fake: FakeProc, reader: Reader
) -> None:
    process = reader.read(fake_process(fake))
    stat = reader.procfs.read_stat(42)
    shutil.rmtree(fake.root / "42")
    assert reader.reader.refresh(ProcessIdentity(42, 1000), stat, 10.0) is process


def test_a_program_that_names_itself_when_it_starts_is_read_again_at_once(
    fake: FakeProc, reader: Reader
) -> None:
    fake.process(42, command=b"python3", executable=b"/usr/bin/python3")
    assert reader.read(42).command == "python3"
    fake.process(42, command=b"server", executable=b"/usr/bin/python3")
    reader.now = 0.1
    assert reader.read(42).command == "server"


def test_a_process_with_a_changed_command_is_read_again_soon(
    fake: FakeProc, reader: Reader
) -> None:
    fake.process(42, command=b"init", executable=b"/bin/sh")
    reader.read(42)
    fake.process(42, command=b"sh", executable=b"/bin/sh")
    before = reader.read(42)
    fake.process(42, command=b"curl", executable=b"/usr/bin/curl")
    reader.now = 0.9
    assert reader.read(42) is before
    reader.now = 1.0
    after = reader.read(42)
    assert (after.command, after.executable) == ("curl", "/usr/bin/curl")
    assert (before.command, before.executable) == ("sh", "/bin/sh")


def test_a_program_that_keeps_renaming_itself_is_read_once_a_second_after_its_first_name(
    fake: FakeProc, reader: Reader
) -> None:
    names = set()
    for tenth in range(21):
        fake.process(42, command=b"job %d" % tenth)
        reader.now = tenth / 10
        names.add(reader.read(42).command)
    assert names == {"job 0", "job 1", "job 11"}


def test_a_change_without_a_new_command_is_noticed_later(fake: FakeProc, reader: Reader) -> None:
    fake.process(42, uid=0, cgroup=b"0::/init.scope\n")
    reader.read(42)
    fake.process(42, uid=NO_OWNER, cgroup=b"0::/system.slice/nginx.service\n")
    reader.now = 9.9
    assert reader.read(42).user_id == 0
    reader.now = 10.0
    process = reader.read(42)
    assert (process.user_id, process.unit) == (NO_OWNER, "nginx.service")


def test_an_unchanged_process_stays_the_same_object(fake: FakeProc, reader: Reader) -> None:
    process = reader.read(fake_process(fake))
    reader.now = 10.0
    assert reader.read(42) is process
    # It counts as read: the next read is ten seconds later.
    fake.process(42, command=b"app", executable=b"/usr/bin/app", uid=NO_OWNER)
    reader.now = 19.9
    assert reader.read(42) is process


def test_the_cache_is_bounded_and_the_least_recently_used_is_evicted(fake: FakeProc) -> None:
    reader = Reader(fake.root, max_cached=2)
    for pid in (1, 2, 3):
        fake.process(pid)
    one, two = reader.read(1), reader.read(2)
    assert reader.read(1) is one  # and so it is no longer the next to be evicted
    reader.read(3)
    assert reader.read(1) is one
    assert reader.read(2) == two
    assert reader.read(2) is not two


@pytest.fixture
def real() -> Reader:
    return Reader(Path("/proc"), command_line=True)


def test_attributes_of_this_process_are_those_that_python_reports(real: Reader) -> None:
    process = real.read_real(os.getpid())
    assert process.parent_pid == os.getppid()
    assert process.user_id == os.getuid()
    assert process.executable == str(Path("/proc/self/exe").readlink())
    assert process.command_line is not None


@pytest.fixture
def shell() -> Iterator["subprocess.Popen[bytes]"]:
    """A shell that calls exec when it receives a line."""
    command = ["sh", "-c", "read line; exec sleep 60"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_exec_changes_the_executable_of_the_same_process(
    real: Reader, shell: "subprocess.Popen[bytes]"
) -> None:
    before = real.read_real(shell.pid)
    assert before.command == "sh"
    assert shell.stdin is not None
    shell.stdin.write(b"\n")
    shell.stdin.flush()
    wait_until(lambda: real.procfs.read_executable(shell.pid) != before.executable)
    real.now = 1.0
    after = real.read_real(shell.pid)
    assert (after.pid, after.start) == (before.pid, before.start)
    assert after.command == "sleep"
    assert after.command_line == ("sleep", "60")


def test_a_zombie_keeps_its_executable(real: Reader, shell: "subprocess.Popen[bytes]") -> None:
    before = real.read_real(shell.pid)
    shell.kill()
    os.waitid(os.P_PID, shell.pid, os.WEXITED | os.WNOWAIT)
    real.now = 10.0
    assert real.read_real(shell.pid) is before
    shell.wait()
    assert real.read(shell.pid, before.start) is before


DROP = f"""
import os, sys
print(flush=True); sys.stdin.readline()
os.setgid({NO_OWNER}); os.setuid({NO_OWNER})
print(flush=True); sys.stdin.read()
"""


def test_a_daemon_that_drops_root_gets_its_new_user(real: Reader) -> None:
    require()
    with subprocess.Popen(
        [sys.executable, "-c", DROP], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as daemon:
        assert daemon.stdin is not None
        assert daemon.stdout is not None
        daemon.stdout.readline()
        assert real.read_real(daemon.pid).user_id == 0
        daemon.stdin.write(b"\n")
        daemon.stdin.flush()
        daemon.stdout.readline()
        real.now = 10.0
        after = real.read_real(daemon.pid)
        assert (after.user_id, after.user_name) == (NO_OWNER, "nobody")
        daemon.stdin.close()


def exited(reader: Reader, command: str = "app", cgroup_path: str | None = None) -> Process:
    return reader.reader.describe_exited(77, None, command, 0, cgroup_path)


def test_a_new_process_is_known_after_it_exited(fake: FakeProc, reader: Reader) -> None:
    fake.process(
        42, parent=3, command=b"app", executable=b"/usr/bin/app", cgroup=b"0::/a.service\n", uid=0
    )
    stat = reader.reader.read_new(42, 0.0)
    assert stat is not None
    shutil.rmtree(fake.root / "42")
    process = reader.reader.find(ProcessIdentity(42, stat.start), 5.0)
    assert process is not None
    assert (process.name, process.unit, process.parent_pid) == ("app", "a.service", 3)
    assert (process.user_id, process.user_name) == (0, pwd.getpwuid(0).pw_name)
    assert reader.reader.read_new(42, 5.0) is None


def test_reading_a_new_process_does_not_ask_for_the_name_of_its_user(
    fake: FakeProc, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.process(42, uid=0)
    asked: list[int] = []
    monkeypatch.setattr(reader.reader, "read_user_name", asked.append)
    reader.reader.read_new(42, 0.0)
    assert asked == []


def test_a_zombie_does_not_replace_what_was_read_of_the_process(
    fake: FakeProc, reader: Reader
) -> None:
    fake.process(42, command=b"app", executable=b"/usr/bin/app")
    reader.reader.read_new(42, 0.0)
    (fake.root / "42" / "exe").unlink()
    reader.reader.read_new(42, 0.5)
    assert reader.read(42).executable == "/usr/bin/app"


def test_an_exited_process_has_the_name_of_others_with_its_command(
    fake: FakeProc, reader: Reader
) -> None:
    assert exited(reader, "systemd-resolve").name == "systemd-resolve"
    fake.process(42, command=b"systemd-resolve", executable=b"/lib/systemd-resolved")
    known = reader.read(42)
    assert known.name == exited(reader, "systemd-resolve").name == "systemd-resolved"


def test_a_command_of_two_programs_names_neither(fake: FakeProc, reader: Reader) -> None:
    for pid, executable in ((42, b"/usr/bin/nginx"), (43, b"/usr/bin/postgres")):
        fake.process(pid, command=b"worker", executable=executable)
        reader.read(pid)
    assert exited(reader, "worker").name == "worker"


HYBRID = b"4:memory:/\n1:name=systemd:/%b\n0::/%b\n"


@pytest.mark.parametrize(
    ("init", "other", "path", "unit"),
    [
        (b"0::/\n", None, "/system.slice/a.service", "a.service"),
        (HYBRID % (b"", b""), None, "/system.slice/a.service", None),
        (HYBRID % (b"", b""), HYBRID % (b"a.service", b"a.service"), "/a.service", "a.service"),
        (HYBRID % (b"", b""), HYBRID % (b"a.service", b""), "/", None),
        (b"1:name=systemd:/\n", b"1:name=systemd:/a.service\n", "/", None),
    ],
    ids=["v2", "hybrid, unread", "hybrid", "hybrid, v2 unused", "v1"],
)
def test_the_control_group_of_an_exited_process_is_that_of_others_in_the_same_group(
    fake: FakeProc, init: bytes, other: bytes | None, path: str, unit: str | None
) -> None:
    fake.process(1, cgroup=init)
    reader = Reader(fake.root)
    if other is not None:
        fake.process(42, cgroup=other)
        reader.read(42)
    assert exited(reader, cgroup_path=path).unit == unit


def test_processes_of_several_units_in_one_group_give_none(fake: FakeProc) -> None:
    fake.process(1, cgroup=HYBRID % (b"", b""))
    reader = Reader(fake.root)
    for pid, unit in ((42, b"a.service"), (43, b"b.service")):
        fake.process(pid, cgroup=HYBRID % (unit, b"x"))
        reader.read(pid)
    assert exited(reader, cgroup_path="/x").unit is None


@pytest.mark.parametrize(("program", "same_command"), [(b"/bin/b", True), (b"/bin/a", False)])
def test_exec_is_noticed_at_once_whatever_changes(
    fake: FakeProc, reader: Reader, program: bytes, same_command: bool
) -> None:
    fake.process(42, command=b"a", executable=b"/bin/a", stack_start=0x7FFC1000)
    reader.read(42)
    command = b"a" if same_command else b"b"
    fake.process(42, command=command, executable=program, stack_start=0x7FFE2000)
    process = reader.read(42)
    assert (process.command, process.executable) == (command.decode(), program.decode())


OLD: dict[str, Any] = {
    "command": b"a",
    "executable": b"/bin/a",
    "cgroup": b"0::/a.service\n",
    "stack_start": 1,
}
CHANGES: dict[str, dict[str, Any]] = {
    "another program": {"executable": b"/bin/b", "stack_start": 2},
    "another command": {"command": b"b", "stack_start": 2},
    "the same program again": {"stack_start": 2},
    "another control group": {"cgroup": b"0::/b.service\n"},
    "nothing": {},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_check_reads_what_exec_and_moves_change(
    fake: FakeProc, reader: Reader, change: str
) -> None:
    fake.process(42, **OLD)
    before = reader.read(42)
    fake.process(42, **OLD | CHANGES[change])
    assert reader.reader.check(ProcessIdentity(42, 1000), 0.1)
    after = reader.reader.recall(before)
    assert after == Reader(fake.root).read(42)
    differs = CHANGES[change].keys() - {"stack_start"}
    assert (after is before) == (not differs)
    assert reader.reader.changes == (1 if differs else 0)


def test_a_check_of_an_exited_process_or_of_its_successor_keeps_the_description(
    fake: FakeProc, reader: Reader
) -> None:
    fake.process(42, **OLD)
    before = reader.read(42)
    fake.process(42, start=2000, executable=b"/bin/b")
    assert not reader.reader.check(ProcessIdentity(42, 1000), 0.1)
    shutil.rmtree(fake.root / "42")
    assert not reader.reader.check(ProcessIdentity(42, 1000), 0.1)
    assert reader.reader.recall(before) is before
    assert reader.reader.changes == 0


def test_a_zombie_keeps_its_control_group_and_is_checked_no_more(
    fake: FakeProc, reader: Reader
) -> None:
    """On cgroup v1 the kernel shows a zombie in the root."""
    fake.process(42, **OLD | {"executable": None})
    before = reader.read(42)
    home = fake.process(42, **OLD | {"executable": None, "cgroup": b"0::/\n", "stack_start": 0})
    stat = home / "stat"
    stat.write_bytes(stat.read_bytes().replace(b") S ", b") Z "))
    assert not reader.reader.check(ProcessIdentity(42, 1000), 0.1)
    reader.now = 10.0
    assert reader.read(42) is before


def test_what_is_not_cached_is_recalled_as_it_is(reader: Reader) -> None:
    for start in (None, 1000):
        process = Process(pid=42, start=start, command="a")
        assert reader.reader.recall(process) is process


def test_exec_while_a_new_process_is_read_is_noticed_by_the_next_check(
    fake: FakeProc, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.process(42, **OLD)

    read = reader.procfs.read_executable

    def read_executable(pid: int) -> str | None:
        path = read(pid)
        fake.process(42, **OLD | CHANGES["another program"])
        return path

    monkeypatch.setattr(reader.procfs, "read_executable", read_executable)
    reader.reader.read_new(42, 0.0)
    monkeypatch.undo()
    owner = ProcessIdentity(42, 1000)
    assert reader.reader.check(owner, 0.1)
    process = reader.reader.cached(owner)
    assert process is not None
    assert process.executable == "/bin/b"


def test_a_new_process_that_is_read_again_stays_the_same_object(
    fake: FakeProc, reader: Reader
) -> None:
    fake.process(42, **OLD)
    before = reader.read(42)
    reader.reader.read_new(42, 5.0)
    assert reader.reader.cached(ProcessIdentity(42, 1000)) is before

"""Malformed or vanishing files in /proc: no error, and never a wrong owner."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_proc import FakeProc, format_row, format_table
from support.resolving import attribute

from hogpipe.attribution.procfs.procfs_resolver import ProcfsResolver
from hogpipe.linux.procfs import Procfs
from hogpipe.model import UNATTRIBUTED, Attribution, FlowKey, Process, Quality

TCP = 6
HERE, THERE = b"\x0a\x00\x00\x01", b"\x0a\x00\x00\x02"
FLOW = FlowKey(TCP, HERE, 4000, THERE, 80, "eth0")
CONNECTION = format_row((HERE, 4000), (THERE, 80), inode=100, uid=7)
OLD = {"start": 1000, "command": b"old", "executable": b"/bin/old", "sockets": {3: 100}}
NEW = {"start": 2000, "command": b"new", "executable": b"/bin/new", "sockets": {3: 200}}


def make_tree(root: Path) -> FakeProc:
    """Make a tree in which process 20 owns the socket of FLOW."""
    shutil.rmtree(root, ignore_errors=True)
    fake = FakeProc(root)
    fake.table("tcp", CONNECTION)
    fake.table("tcp6")
    fake.process(1)
    fake.process(20, **OLD)
    return fake


def at_access(number: int, patch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    """Call `change` right before access `number` to a file of process 20."""
    countdown = iter(range(number, -1, -1))
    get_path = Procfs._path

    def path(self: Procfs, pid: int, name: bytes) -> bytes:
        if pid == 20 and next(countdown, None) == 0:
            change()
        return get_path(self, pid, name)

    patch.setattr(Procfs, "_path", path)


def resolve(root: Path) -> Attribution:
    return attribute(ProcfsResolver(root, command_line=True), [FLOW])[FLOW]


def is_old(process: Process) -> bool:
    """Return whether all attributes are those of the process with the socket; some may be None."""
    return (process.pid, process.start, process.command) == (
        20,
        1000,
        "old",
    ) and process.executable in {"/bin/old", None}


def count_accesses(root: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how often a lookup accesses a file of process 20."""
    make_tree(root)
    requested = []
    get_path = Procfs._path

    def path(self: Procfs, pid: int, name: bytes) -> bytes:
        if pid == 20:
            requested.append(name)
        return get_path(self, pid, name)

    with monkeypatch.context() as patch:
        patch.setattr(Procfs, "_path", path)
        resolve(root)
    return len(requested)


def test_a_process_may_exit_before_any_of_its_files_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "proc"
    total = count_accesses(root, monkeypatch)
    assert total >= 8  # stat, the fd directory twice, two fds, status, cgroup, exe, cmdline, stat
    answers = []
    for number in range(total):
        fake = make_tree(root)
        with monkeypatch.context() as patch:
            at_access(number, patch, lambda fake=fake: shutil.rmtree(fake.root / "20"))
            answers.append(resolve(root))
    owners = [answer.process for answer in answers if answer.process is not None]
    assert all(map(is_old, owners))
    assert owners  # it exited after its socket was read
    assert None in [answer.process for answer in answers]  # or before
    assert all(answer.user and answer.user.id == 7 for answer in answers if not answer.process)


def test_a_pid_may_be_reused_before_any_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "proc"
    for number in range(count_accesses(root, monkeypatch)):
        fake = make_tree(root)
        with monkeypatch.context() as patch:
            at_access(number, patch, lambda fake=fake: fake.process(20, **NEW))
            answer = resolve(root)
        assert answer.process is None or is_old(answer.process), number


@pytest.mark.parametrize("name", ["stat", "status", "cgroup", "exe", "cmdline", "fd/0", "fd/3"])
@pytest.mark.parametrize("content", [None, b"", b"\xff\x00garbage\n", b")(" * 5000])
def test_a_file_of_a_process_may_be_missing_or_hold_anything(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    fake = make_tree(tmp_path / "proc")
    path = fake.root / "20" / name
    path.unlink()
    if content is not None and name in {"stat", "status", "cgroup", "cmdline"}:
        path.write_bytes(content)
    answer = resolve(fake.root)
    if name in {"stat", "fd/3"}:
        assert answer.process is None
    else:
        assert answer.process is not None
        assert is_old(answer.process)


@settings(max_examples=50)
@given(st.integers(0, 1000))
def test_a_table_may_be_truncated_anywhere(
    tmp_path_factory: pytest.TempPathFactory, end: int
) -> None:
    fake = make_tree(tmp_path_factory.mktemp("cut") / "proc")
    whole = format_table([format_row((HERE, 1), (THERE, 2), inode=9), CONNECTION])
    table = whole[:end]
    (fake.root / "net" / "tcp").write_bytes(table)
    resolver = ProcfsResolver(fake.root)
    answer = attribute(resolver, [FLOW])[FLOW]
    assert answer.process is None or is_old(answer.process)
    if answer.process is None:
        assert answer == UNATTRIBUTED
        assert resolver.counts().rows_skipped <= 1
    if end >= len(whole):
        assert answer.process is not None


def test_an_unknown_state_is_counted_and_its_flow_is_unattributed(tmp_path: Path) -> None:
    fake = make_tree(tmp_path / "proc")
    fake.table("tcp", CONNECTION.replace(b" 01 ", b" 1F "))
    resolver = ProcfsResolver(fake.root)
    assert attribute(resolver, [FLOW]) == {FLOW: UNATTRIBUTED}
    assert resolver.counts().rows_skipped == 1


def test_a_five_tuple_with_two_owners_is_unattributed(tmp_path: Path) -> None:
    fake = make_tree(tmp_path / "proc")
    fake.table("tcp", CONNECTION, format_row((HERE, 4000), (THERE, 80), inode=101, uid=7))
    fake.process(30, sockets={3: 101})
    answer = resolve(fake.root)
    assert (answer.quality, answer.process) == (Quality.NONE, None)
    assert answer.user is not None


# Children that connect, print their local port and exit, one after the other without a pause.
CHURN = """
import os, socket, sys
port = int(sys.argv[1])
for _ in range(150):
    child = os.fork()
    if not child:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            os.write(1, b"%d %d\\n" % (os.getpid(), connection.getsockname()[1]))
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_processes_that_start_and_exit_during_lookups_cause_no_error() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=200) as server:
        address, port = socket.inet_aton("127.0.0.1"), server.getsockname()[1]
        resolver = ProcfsResolver(Path("/proc"), socket_table="procfs")
        command = [sys.executable, "-c", CHURN, str(port)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as churn:
            assert churn.stdout is not None
            lookups = 0
            for line in churn.stdout:
                pid, local_port = map(int, line.split())
                flow = FlowKey(TCP, address, local_port, address, port, "lo")
                accepted, _peer = server.accept()
                accepted.close()
                owner = attribute(resolver, [flow])[flow].process
                lookups += 1
                assert owner is None or owner.pid == pid
        assert churn.returncode == 0
        assert lookups == 150

"""Reading /proc and fake trees."""

import itertools
import math
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_proc import BOOT_TIME, FakeProc, format_table

from hogpipe.errors import ConfigurationError
from hogpipe.linux.procfs import Procfs, decode_text, parse_stat
from hogpipe.linux.socket_table import READ_BYTES, TableText


@pytest.fixture
def fake(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path / "proc")


def stat_line(command: bytes) -> bytes:
    return b"42 (" + command + b") S 7 " + b"0 " * 17 + b"12345 0 0\n"


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (b"nginx", "nginx"),
        (b"a) S 1 (b", "a) S 1 (b"),
        (b"tab\tnew\nline", "tab\tnew\nline"),
        (b"", ""),
        (b"\xff\xfe", r"\xff\xfe"),
        ("m\u00fcll".encode(), "m\u00fcll"),
    ],
)
def test_a_command_may_hold_anything(command: bytes, text: str) -> None:
    stat = parse_stat(stat_line(command))
    assert (stat.command, stat.parent_pid, stat.start) == (text, 7, 12345)


@pytest.mark.parametrize(("flags", "expected"), [(0x00400100, False), (0x00208040, True)])
def test_a_kernel_thread_is_identified_by_its_flags(flags: int, *, expected: bool) -> None:
    stat = parse_stat(b"42 (kworker) S 2 0 0 0 -1 %d " % flags + b"0 " * 12 + b"12345 0 0\n")
    assert (stat.start, stat.flags, stat.is_kernel_thread) == (12345, flags, expected)


@given(st.binary())
def test_no_command_shifts_the_fields_after_it(command: bytes) -> None:
    stat = parse_stat(stat_line(command))
    assert (stat.parent_pid, stat.start) == (7, 12345)


@given(st.binary())
def test_text_is_always_valid_utf8(raw: bytes) -> None:
    assert decode_text(raw).encode("utf-8").decode("utf-8") == decode_text(raw)


def test_a_missing_root_is_an_invalid_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"attribution\.procfs: .*/nowhere"):
        Procfs(tmp_path / "nowhere")


def test_a_root_that_is_not_a_procfs_is_an_invalid_setting(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("not what it seems\n")
    with pytest.raises(ConfigurationError, match="is not a procfs"):
        Procfs(tmp_path)


def test_a_root_without_socket_tables_is_an_invalid_setting(fake: FakeProc) -> None:
    (fake.root / "net").rmdir()
    with pytest.raises(ConfigurationError, match="no socket tables"):
        Procfs(fake.root)


def test_without_net_the_tables_are_those_of_process_1(fake: FakeProc) -> None:
    (fake.root / "net").rmdir()
    (fake.root / "net").symlink_to("self/net")
    (fake.root / "1" / "net").mkdir(parents=True)
    (fake.root / "1" / "net" / "tcp").write_bytes(format_table([]))
    assert Procfs(fake.root).read_table("tcp", math.inf) == TableText(format_table([]))


@pytest.mark.parametrize("same", [True, False])
def test_tables_of_another_network_namespace_are_not_used(
    fake: FakeProc, caplog: pytest.LogCaptureFixture, same: bool
) -> None:
    (fake.root / "net").rmdir()
    (fake.root / "1" / "net").mkdir(parents=True)
    (fake.root / "1" / "net" / "tcp").write_bytes(format_table([]))
    (fake.root / "1" / "ns").mkdir()
    (fake.root / "1" / "ns" / "net").symlink_to(
        "/proc/self/ns/net" if same else "/proc/self/ns/user"
    )
    expected = TableText(format_table([])) if same else None
    assert Procfs(fake.root).read_table("tcp", math.inf) == expected
    assert ("shows no sockets of the network namespace" in caplog.text) == (not same)


def test_a_table_of_a_missing_protocol_reads_as_none(fake: FakeProc) -> None:
    assert Procfs(fake.root).read_table("tcp6", math.inf) is None


def test_an_unmounted_procfs_is_an_error(fake: FakeProc) -> None:
    procfs = Procfs(fake.root)
    (fake.root / "net").rmdir()
    with pytest.raises(FileNotFoundError):
        procfs.read_table("tcp", math.inf)


def test_a_table_that_never_ends_is_read_until_the_deadline(fake: FakeProc) -> None:
    (fake.root / "net" / "tcp").symlink_to("/dev/zero")
    fake.process(20)
    (fake.root / "20" / "net").symlink_to(fake.root / "net")
    procfs = Procfs(fake.root, itertools.count().__next__)
    for table in (procfs.read_table("tcp", 3), procfs.read_table_of(20, "tcp", 7)):
        assert table is not None
        assert not table.is_complete
        assert len(table.data) == 4 * READ_BYTES
    assert procfs.tables_incomplete == 2


def test_boot_time_is_read_once(fake: FakeProc) -> None:
    procfs = Procfs(fake.root)
    (fake.root / "stat").write_text("btime 1\n")
    assert procfs.boot_time == BOOT_TIME


def test_only_numbered_directories_are_processes(fake: FakeProc) -> None:
    fake.process(1)
    fake.process(20)
    assert Procfs(fake.root).list_pids() == {1, 20}


def test_a_process_that_has_exited_reads_as_none(fake: FakeProc) -> None:
    procfs = Procfs(fake.root)
    assert procfs.read_stat(5) is None
    assert procfs.read_user_id(5) is None
    assert procfs.read_cgroup(5) is None
    assert procfs.read_command_line(5) is None
    assert procfs.read_executable(5) is None
    assert procfs.list_fds(5) == []
    assert procfs.read_socket_inode(5, 0) is None


def test_only_socket_links_are_sockets(fake: FakeProc) -> None:
    fake.process(5, sockets={3: 777})
    procfs = Procfs(fake.root)
    assert sorted(procfs.list_fds(5)) == [0, 3]
    assert procfs.read_socket_inode(5, 3) == 777
    assert procfs.read_socket_inode(5, 0) == 0
    assert procfs.read_socket_inode(5, 9) is None


def test_a_zombie_has_an_identity_and_no_executable() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    procfs = Procfs(Path("/proc"))
    assert procfs.read_stat(child.pid) is not None
    assert procfs.read_executable(child.pid) is None
    assert procfs.read_command_line(child.pid) is None
    child.wait()
    assert procfs.read_stat(child.pid) is None


@pytest.mark.parametrize(
    "data", [b"42", b"42 (x", b") (", b"42 (x) S 7", b"42 (x) S seven " + b"0 " * 40, b"\xff" * 9]
)
def test_a_malformed_stat_is_counted_and_reads_as_none(fake: FakeProc, data: bytes) -> None:
    (fake.process(42) / "stat").write_bytes(data)
    procfs = Procfs(fake.root)
    assert procfs.read_stat(42) is None
    assert procfs.malformed == 1


@given(st.binary())
def test_any_stat_parses_or_raises_value_error(data: bytes) -> None:
    try:
        parse_stat(data)
    except ValueError:
        return
    assert b"(" in data


@pytest.mark.parametrize("line", [b"Uid:", b"Uid:\troot"])
def test_a_malformed_user_is_counted_and_reads_as_none(fake: FakeProc, line: bytes) -> None:
    (fake.process(42) / "status").write_bytes(b"Name:\tx\n" + line + b"\n")
    procfs = Procfs(fake.root)
    assert procfs.read_user_id(42) is None
    assert procfs.malformed == 1


def test_a_file_named_like_a_process_reads_as_none(fake: FakeProc) -> None:
    (fake.root / "5").write_text("not a directory")
    procfs = Procfs(fake.root)
    assert procfs.read_stat(5) is None
    assert procfs.read_executable(5) is None
    assert procfs.read_fd_directory(5) is None
    assert (procfs.list_fds(5), procfs.read_socket_inode(5, 0)) == ([], None)


def test_a_malformed_socket_link_is_counted_and_is_not_a_socket(fake: FakeProc) -> None:
    (fake.process(5) / "fd" / "3").symlink_to("socket:[many]")
    procfs = Procfs(fake.root)
    assert procfs.read_socket_inode(5, 3) == 0
    assert procfs.malformed == 1


def test_a_malformed_boot_time_is_an_invalid_setting(fake: FakeProc) -> None:
    (fake.root / "stat").write_text("btime soon\n")
    with pytest.raises(ConfigurationError, match="is not a procfs"):
        Procfs(fake.root)


def test_the_fd_directory_changes_only_with_the_number_of_fds() -> None:
    procfs = Procfs(Path("/proc"))
    before = procfs.read_fd_directory(os.getpid())
    assert procfs.read_fd_directory(os.getpid()) == before
    with socket.socket():
        opened = procfs.read_fd_directory(os.getpid())
    assert procfs.read_fd_directory(os.getpid()) == before
    assert (opened != before) == procfs.reports_fd_counts


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A directory with a longer path than the kernel reports; it is the working directory."""
    before = Path.cwd()
    os.chdir(tmp_path)
    for _ in range(25):
        Path("d" * 200).mkdir()
        os.chdir("d" * 200)
    yield Path()
    os.chdir(before)
    # pytest cannot remove it: the paths inside are too long.
    subprocess.run(["rm", "-r", tmp_path / ("d" * 200)], check=True)


def test_a_link_with_too_long_a_target_is_not_a_socket(deep: Path) -> None:
    with (deep / "file").open("w") as file:
        assert Procfs(Path("/proc")).read_socket_inode(os.getpid(), file.fileno()) == 0


def test_an_executable_with_too_long_a_path_is_unknown(deep: Path) -> None:
    shutil.copy(shutil.which("sleep") or "", deep / "program")
    with subprocess.Popen(["./program", "60"]) as process:
        procfs = Procfs(Path("/proc"))
        assert procfs.read_stat(process.pid) is not None
        assert procfs.read_executable(process.pid) is None
        process.kill()


def test_a_file_that_the_kernel_refuses_as_too_long_reads_as_none(fake: FakeProc) -> None:
    file = fake.process(20) / "cgroup"
    file.unlink()
    file.symlink_to("x" * 300)  # the same error as for the path of a control group beyond 4 KB
    procfs = Procfs(fake.root)
    assert procfs.read_cgroup(20) is None
    assert procfs.describe_reading() == f"{fake.root}/20/cgroup"

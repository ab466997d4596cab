import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_proc import FakeProc
from support.namespaces import Namespace, require
from support.running import inhabitant, wait_until

from hogpipe.linux.netns.namespace_processes import (
    NamespaceProcesses,
    parse_namespace,
    read_own_namespace,
)

OWN, RED, BLUE = 1, 2, 3
LATER = 100.0  # seconds, when no process is young any more


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path / "proc")


def put(proc: FakeProc, pid: int, namespace: int) -> None:
    proc.process(pid)
    proc.enter(pid, namespace)


def list_processes(proc: FakeProc) -> NamespaceProcesses:
    made = NamespaceProcesses(proc.root, OWN)
    made.refresh(0.0)
    return made


def test_processes_are_found_by_namespace_and_those_in_our_own_are_left_out(
    proc: FakeProc,
) -> None:
    put(proc, 10, OWN)
    put(proc, 20, RED)
    put(proc, 21, RED)
    put(proc, 30, BLUE)
    proc.process(40)  # without ns/net, like a hidden process
    found = {
        namespace: set(pids) for namespace, pids in list_processes(proc).by_namespace().items()
    }
    assert found == {RED: {20, 21}, BLUE: {30}}


def test_a_namespace_appears_with_its_first_process_and_disappears_with_its_last(
    proc: FakeProc,
) -> None:
    put(proc, 10, OWN)
    processes = list_processes(proc)
    put(proc, 20, RED)
    processes.refresh(1.0)
    assert processes.find_process(RED) == 20
    shutil.rmtree(proc.root / "20")
    processes.refresh(2.0)
    assert processes.find_process(RED) is None
    assert not processes.by_namespace()


def test_a_young_process_that_enters_a_namespace_is_found_at_the_next_refresh(
    proc: FakeProc,
) -> None:
    for pid in range(100, 300):
        put(proc, pid, OWN)
    processes = list_processes(proc)
    processes.refresh(LATER)
    put(proc, 20, OWN)
    processes.refresh(LATER)
    proc.enter(20, RED)
    processes.refresh(LATER + 1)
    assert processes.find_process(RED) == 20


def test_an_old_process_that_enters_a_namespace_is_found_within_sixteen_refreshes(
    proc: FakeProc,
) -> None:
    for pid in range(100, 400):
        put(proc, pid, OWN)
    processes = list_processes(proc)
    processes.refresh(LATER)
    proc.enter(250, RED)
    for second in range(1, 17):
        processes.refresh(LATER + second)
    assert processes.find_process(RED) == 250


def test_sixteen_thorough_refreshes_cover_every_process_without_a_pause(proc: FakeProc) -> None:
    for pid in range(100, 1300):
        put(proc, pid, OWN)
    processes = list_processes(proc)
    processes.refresh(LATER)
    for pid in range(100, 1300, 50):
        proc.enter(pid, RED)
    for _ in range(16):
        processes.refresh(LATER, thorough=True)
    assert set(processes.by_namespace()[RED]) == set(range(100, 1300, 50))


def test_a_reused_pid_counts_as_a_young_process(proc: FakeProc) -> None:
    put(proc, 20, OWN)
    processes = list_processes(proc)
    shutil.rmtree(proc.root / "20")
    processes.refresh(0.5)
    put(proc, 20, OWN)
    processes.refresh(2.9)
    proc.enter(20, RED)
    processes.refresh(3.1)
    assert processes.find_process(RED) == 20


def test_a_process_that_left_a_namespace_is_not_returned_for_it(proc: FakeProc) -> None:
    put(proc, 20, RED)
    put(proc, 21, RED)
    processes = list_processes(proc)
    proc.enter(20, BLUE)
    assert processes.find_process(RED) == 21
    proc.enter(21, BLUE)
    assert processes.find_process(RED) is None


@given(st.binary())
def test_parsing_any_link_gives_an_inode_or_none(target: bytes) -> None:
    assert parse_namespace(target) is None or target.startswith(b"net:[")


def test_the_inode_is_parsed_from_a_link() -> None:
    assert parse_namespace(b"net:[4026531840]") == 4026531840
    for other in (b"net:[]", b"net:[12", b"mnt:[4026531840]", b"xnet:[1]", b"net:[1]x"):
        assert parse_namespace(other) is None


def test_a_process_in_another_namespace_of_this_host_is_found(netns: Namespace) -> None:
    require("ip")
    own = read_own_namespace()
    inside = netns.call(read_own_namespace)
    assert own == Path("/proc/self/ns/net").stat().st_ino
    assert inside is not None
    with inhabitant(netns) as there:
        processes = NamespaceProcesses(Path("/proc"), own)

        def is_there() -> bool:
            processes.refresh(0.0)
            return processes.find_process(inside) == there.process.pid

        wait_until(is_there)
    assert own not in processes.by_namespace()
    assert processes.find_process(inside) is None

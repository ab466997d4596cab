import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_proc import FakeProc
from support.namespaces import Namespace, require
from support.running import running, wait_until

from hogpipe.linux.netns.scan import NamespaceScan, parse_namespace, read_own_namespace

OWN, RED, BLUE = 1, 2, 3
LATER = 100.0  # seconds, by when no process is young any more


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path / "proc")


def put(proc: FakeProc, pid: int, namespace: int) -> None:
    proc.process(pid)
    proc.enter(pid, namespace)


def scan(proc: FakeProc) -> NamespaceScan:
    made = NamespaceScan(proc.root, OWN)
    made.refresh(0.0)
    return made


def test_processes_are_found_by_their_namespace_and_those_of_ours_are_left_out(
    proc: FakeProc,
) -> None:
    put(proc, 10, OWN)
    put(proc, 20, RED)
    put(proc, 21, RED)
    put(proc, 30, BLUE)
    proc.process(40)  # as one that is hidden from us
    found = {namespace: set(pids) for namespace, pids in scan(proc).namespaces().items()}
    assert found == {RED: {20, 21}, BLUE: {30}}


def test_a_namespace_comes_with_its_first_process_and_goes_with_its_last(proc: FakeProc) -> None:
    put(proc, 10, OWN)
    scanned = scan(proc)
    put(proc, 20, RED)
    scanned.refresh(1.0)
    assert scanned.find_process(RED) == 20
    shutil.rmtree(proc.root / "20")
    scanned.refresh(2.0)
    assert scanned.find_process(RED) is None
    assert not scanned.namespaces()


def test_a_young_process_that_enters_a_namespace_is_noticed_at_once(proc: FakeProc) -> None:
    for pid in range(100, 300):
        put(proc, pid, OWN)
    scanned = scan(proc)
    scanned.refresh(LATER)
    put(proc, 20, OWN)
    scanned.refresh(LATER)
    proc.enter(20, RED)
    scanned.refresh(LATER + 1)
    assert scanned.find_process(RED) == 20


def test_an_old_process_that_enters_a_namespace_is_noticed_in_the_end(proc: FakeProc) -> None:
    for pid in range(100, 400):
        put(proc, pid, OWN)
    scanned = scan(proc)
    scanned.refresh(LATER)
    proc.enter(250, RED)
    for second in range(1, 17):
        scanned.refresh(LATER + second)
    assert scanned.find_process(RED) == 250


def test_sixteen_thorough_looks_see_every_process_however_soon_they_follow(proc: FakeProc) -> None:
    for pid in range(100, 1300):
        put(proc, pid, OWN)
    scanned = scan(proc)
    scanned.refresh(LATER)
    for pid in range(100, 1300, 50):
        proc.enter(pid, RED)
    for _ in range(16):
        scanned.refresh(LATER, thorough=True)
    assert set(scanned.namespaces()[RED]) == set(range(100, 1300, 50))


def test_a_pid_that_was_another_process_is_looked_at_as_a_young_one(proc: FakeProc) -> None:
    put(proc, 20, OWN)
    scanned = scan(proc)
    shutil.rmtree(proc.root / "20")
    scanned.refresh(0.5)
    put(proc, 20, OWN)
    scanned.refresh(2.9)
    proc.enter(20, RED)
    scanned.refresh(3.1)
    assert scanned.find_process(RED) == 20


def test_a_process_that_left_its_namespace_does_not_stand_for_it(proc: FakeProc) -> None:
    put(proc, 20, RED)
    put(proc, 21, RED)
    scanned = scan(proc)
    proc.enter(20, BLUE)
    assert scanned.find_process(RED) == 21
    proc.enter(21, BLUE)
    assert scanned.find_process(RED) is None


@given(st.binary())
def test_a_link_of_any_shape_is_a_namespace_or_none(target: bytes) -> None:
    assert parse_namespace(target) is None or target.startswith(b"net:[")


def test_a_link_tells_the_number_of_its_namespace() -> None:
    assert parse_namespace(b"net:[4026531840]") == 4026531840
    for other in (b"net:[]", b"net:[12", b"mnt:[4026531840]", b"xnet:[1]", b"net:[1]x"):
        assert parse_namespace(other) is None


def test_namespaces_of_this_host_are_told_apart(netns: Namespace) -> None:
    require("ip")
    own = read_own_namespace()
    inside = netns.call(read_own_namespace)
    assert own == Path("/proc/self/ns/net").stat().st_ino
    assert inside is not None
    with running(netns, "sleep", "60") as there:
        scanned = NamespaceScan(Path("/proc"), own)

        def is_there() -> bool:
            scanned.refresh(0.0)
            return scanned.find_process(inside) == there.process.pid

        wait_until(is_there)
    assert own not in scanned.namespaces()
    assert scanned.find_process(inside) is None

"""Which namespaces have an address, by a recorded /proc and by this kernel."""

import socket
from pathlib import Path

import pytest
from support.fake_proc import FakeProc
from support.namespaces import Namespace, require
from support.running import inhabitant

from hogpipe.linux.netns.namespace_addresses import NamespaceAddresses
from hogpipe.linux.netns.namespace_processes import NamespaceProcesses, read_own_namespace

OWN, RED, BLUE = 1, 2, 3
FIRST, SECOND, UNKNOWN = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), bytes([10, 0, 0, 9])


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path / "proc")


def put(proc: FakeProc, pid: int, namespace: int, *addresses: bytes) -> None:
    proc.process(pid)
    proc.enter(pid, namespace)
    net = proc.root / str(pid) / "net"
    net.mkdir(exist_ok=True)
    leaves = [f"|-- {socket.inet_ntoa(one)}\n /32 host LOCAL\n" for one in addresses]
    (net / "fib_trie").write_text("".join(leaves))


def test_an_address_is_found_in_each_other_namespace_that_has_it(proc: FakeProc) -> None:
    put(proc, 10, OWN, FIRST)
    put(proc, 20, RED, FIRST, SECOND)
    put(proc, 30, BLUE, SECOND)
    found = NamespaceAddresses(proc.root, NamespaceProcesses(proc.root, OWN), clock=Clock())
    assert found.find(FIRST) == (RED,)
    assert sorted(found.find(SECOND)) == [RED, BLUE]
    assert found.find(UNKNOWN) == ()


def test_addresses_are_read_again_if_one_is_unknown_and_the_pause_is_over(proc: FakeProc) -> None:
    clock = Clock()
    found = NamespaceAddresses(proc.root, NamespaceProcesses(proc.root, OWN), clock=clock)
    put(proc, 20, RED, FIRST)
    assert found.find(SECOND) == ()
    put(proc, 20, RED, FIRST, SECOND)
    assert found.find(SECOND) == ()
    clock.now += 2
    assert found.find(SECOND) == (RED,)


def test_a_snapshot_ages(proc: FakeProc) -> None:
    clock = Clock()
    found = NamespaceAddresses(proc.root, NamespaceProcesses(proc.root, OWN), clock=clock)
    put(proc, 20, RED, FIRST)
    assert found.find(FIRST) == (RED,)
    put(proc, 20, RED)
    clock.now += 2
    assert found.find(FIRST) == (RED,)
    clock.now += 5
    assert found.find(FIRST) == ()


def test_the_addresses_of_a_namespace_of_this_kernel_are_found(netns: Namespace) -> None:
    require("ip")
    netns.ip("address", "add", "10.99.0.1/24", "dev", "lo")
    with inhabitant(netns):
        processes = NamespaceProcesses(Path("/proc"), read_own_namespace())
        found = NamespaceAddresses(Path("/proc"), processes).find(bytes([10, 99, 0, 1]))
    assert found == (Path(f"/run/netns/{netns.name}").stat().st_ino,)

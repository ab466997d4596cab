"""Sampling two processes with short-lived sockets to one endpoint, in simulated time.

Each read of /proc takes a while, and sockets open and close meanwhile, as on a busy host.
"""

import random
from collections.abc import Collection
from pathlib import Path

import pytest
from support.fake_proc import FakeProc

from hogpipe.attribution.procfs import fd_cache
from hogpipe.attribution.procfs.endpoint_heuristic import Endpoint, EndpointHeuristic
from hogpipe.attribution.procfs.fd_cache import FdCache
from hogpipe.attribution.procfs.shared_sockets import SharedSocketRules
from hogpipe.linux.netns.namespace_processes import NamespaceProcesses
from hogpipe.linux.procfs import FdDirectory, Procfs
from hogpipe.model import OWN_NAMESPACE, Process

ENDPOINT = Endpoint(OWN_NAMESPACE, 6, b"\x0a\0\0\x02", 443)
CLIENTS = (10, 11)
OTHERS = range(20, 26)
CLIENT_FD = 1
PERIOD, LIFETIME = 0.001, 0.0003  # of the connections of a client
FD_READ, DIRECTORY_READ, TABLE_READ = 10e-6, 15e-6, 200e-6
INTERVAL = 0.01  # between samples
MAX_SAMPLES = 128
RUNS = 60
MOST_NAMED = 2  # of these runs; by chance all of the eight sockets are of one process in 1 of 128


class SimulatedProcfs(Procfs):
    """A procfs whose `clients` open a socket in each period, and whose reads take time."""

    def __init__(self, root: Path, clients: Collection[int], seed: int) -> None:
        super().__init__(root)
        self.now = 0.0
        self._clients = clients
        self._seed = seed

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def read_sockets(self) -> dict[int, int]:
        """Return the users of the open sockets by inode."""
        self.now += TABLE_READ / 2
        sockets = map(self._open_socket, self._clients)
        present = {inode: 0 for inode in sockets if inode is not None}
        self.now += TABLE_READ / 2
        return present

    def read_fd_directory(self, pid: int) -> FdDirectory | None:
        self.now += DIRECTORY_READ
        return super().read_fd_directory(pid)

    def read_socket_inode(self, pid: int, fd: int) -> int | None:
        self.now += FD_READ
        if pid in self._clients and fd == CLIENT_FD:
            return self._open_socket(pid)
        return super().read_socket_inode(pid, fd)

    def _open_socket(self, pid: int) -> int | None:
        period = int(self.now / PERIOD)
        phase = random.Random(f"{self._seed} {pid} {period}").random()
        opened = period * PERIOD + phase * (PERIOD - LIFETIME)
        return pid * 10**9 + period if opened <= self.now < opened + LIFETIME else None


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fake = FakeProc(tmp_path / "proc")
    for pid in CLIENTS:
        fake.process(pid)
    for pid in OTHERS:
        fake.process(pid, sockets={3: pid})
    return fake.root


def sample_until_conclusive(
    root: Path, clients: Collection[int], seed: int, monkeypatch: pytest.MonkeyPatch
) -> Process | None:
    """Sample the sockets of the clients; return the owner that the endpoint heuristic names."""
    random.seed(seed)
    procfs = SimulatedProcfs(root, clients, seed)
    monkeypatch.setattr(fd_cache.time, "sleep", procfs.sleep)
    fds = FdCache(procfs, NamespaceProcesses(root, 1))
    fds.prepare(SharedSocketRules(procfs), procfs.now)
    fds.find_owners(dict.fromkeys(OTHERS, 0), SharedSocketRules(procfs), procfs.now)
    heuristic = EndpointHeuristic()
    for _ in range(MAX_SAMPLES):
        procfs.now += INTERVAL
        now = procfs.now
        likely = heuristic.owner_pids(ENDPOINT)
        found = fds.sample_owners(
            procfs.read_sockets, likely, SharedSocketRules(procfs), now, max_reads=8
        )
        owners = {
            inode: Process(pid=owner.pid, start=owner.start, command="client")
            for inode, owner in found.items()
        }
        heuristic.record_sample(ENDPOINT, owners, now)
        if heuristic.is_conclusive(ENDPOINT, now):
            break
    return heuristic.infer_owner(ENDPOINT, procfs.now)


def test_no_owner_is_named_where_two_processes_open_as_many_sockets(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = [
        sample_until_conclusive(root, CLIENTS, seed, monkeypatch) is not None
        for seed in range(RUNS)
    ]
    assert sum(named) <= MOST_NAMED


def test_the_only_process_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(10):
        named = sample_until_conclusive(root, CLIENTS[:1], seed, monkeypatch)
        assert named is not None
        assert named.pid == CLIENTS[0]

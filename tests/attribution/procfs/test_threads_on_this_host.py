"""Sockets outside the fd table of a process's first thread, on the running kernel."""

import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.threads import KINDS, ThreadedProcess, threaded_process

from hogpipe.attribution.procfs.fd_cache import FdCache
from hogpipe.attribution.procfs.shared_sockets import SharedSocketRules
from hogpipe.enrichment.processes import ProcessReader
from hogpipe.linux.netns.namespace_processes import NamespaceProcesses, read_own_namespace
from hogpipe.linux.procfs import ProcessIdentity, Procfs

PROC = Path("/proc")
UNHELD = 1  # no process has a socket with this inode


class CountingProcfs(Procfs):
    """The procfs of this host; counts how often the threads of each process are listed."""

    def __init__(self) -> None:
        super().__init__(PROC)
        self.listed: Counter[int] = Counter()

    def list_threads(self, pid: int) -> list[int]:
        self.listed[pid] += 1
        return super().list_threads(pid)


class Lookups:
    """An FdCache on this host; each lookup is a minute after the last."""

    def __init__(self) -> None:
        self.procfs = CountingProcfs()
        self.fds = FdCache(self.procfs, NamespaceProcesses(Path("/proc"), read_own_namespace()))
        self.now = 0.0

    def prepare(self) -> None:
        self.fds.prepare(SharedSocketRules(self.procfs), self.now)

    def find(self, inode: int) -> ProcessIdentity | None:
        self.now += 60.0
        rules = SharedSocketRules(self.procfs)
        return self.fds.find_owners({inode: os.getuid()}, rules, self.now).get(inode)

    def find_within(self, lookups: int, inode: int) -> ProcessIdentity | None:
        found = (self.find(inode) for _ in range(lookups))
        return next((owner for owner in found if owner is not None), None)

    def identify(self, pid: int) -> ProcessIdentity:
        stat = self.procfs.read_stat(pid)
        assert stat is not None
        return ProcessIdentity(pid, stat.start)


@pytest.fixture
def lookups() -> Lookups:
    return Lookups()


@pytest.fixture(params=KINDS)
def process(request: pytest.FixtureRequest) -> Iterator[ThreadedProcess]:
    with _run(str(request.param)) as running:
        if request.param == "exited leader":
            _wait_for_exit_of_leader(running.pid)
        yield running


@contextmanager
def _run(kind: str) -> Iterator[ThreadedProcess]:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        threaded_process(kind, server.getsockname()[1]) as running,
    ):
        yield running


def _wait_for_exit_of_leader(pid: int) -> None:
    procfs = Procfs(PROC)
    while True:
        stat = procfs.read_stat(pid)
        if stat is not None and stat.has_exited_leader:
            return
        time.sleep(0.001)


def test_a_socket_that_is_older_than_the_cache_has_its_owner_at_the_first_lookup(
    process: ThreadedProcess, lookups: Lookups
) -> None:
    _, inode = process.connect()
    lookups.prepare()
    assert lookups.find(inode) == lookups.identify(process.pid)


def test_a_new_socket_in_a_known_table_has_its_owner_at_the_first_lookup(
    process: ThreadedProcess, lookups: Lookups
) -> None:
    lookups.prepare()
    for _ in range(3):
        _, inode = process.connect()
        assert lookups.find(inode) == lookups.identify(process.pid)


def test_a_socket_of_a_process_that_started_after_the_cache_has_its_owner_within_two_lookups(
    lookups: Lookups,
) -> None:
    lookups.prepare()
    for kind in KINDS:
        with _run(kind) as process:
            lookups.find(UNHELD)  # reads the process, perhaps before its first thread exits
            _, inode = process.connect()
            assert lookups.find_within(2, inode) == lookups.identify(process.pid)


def test_tables_are_distinct_by_their_number_of_fds_where_the_kernel_does_not_compare_them(
    process: ThreadedProcess, lookups: Lookups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hogpipe.linux.procfs.compare_fd_tables", lambda *_: None)
    _, inode = process.connect()
    lookups.prepare()
    assert lookups.find(inode) == lookups.identify(process.pid)


def test_a_process_whose_first_thread_has_exited_is_described_whole() -> None:
    with threaded_process("exited leader", 0) as process:
        _wait_for_exit_of_leader(process.pid)
        procfs = Procfs(PROC)
        reader = ProcessReader(procfs, command_line=True)
        described = reader.find(Lookups().identify(process.pid), 0.0)
        assert described is not None
        assert described.executable == procfs.read_executable(os.getpid())
        assert described.command_line is not None


def test_the_threads_of_a_process_are_listed_only_once_for_a_socket_that_nobody_holds(
    lookups: Lookups,
) -> None:
    with _run("one table") as process:
        _, inode = process.connect()
        lookups.prepare()
        listed = []
        for wanted in (inode, inode, *[UNHELD] * 5, inode):
            lookups.find(wanted)
            listed.append(lookups.procfs.listed[process.pid])
    assert listed == [1, 1, 1, 2, 2, 2, 2, 2], "a held socket, and a first miss, cost nothing"

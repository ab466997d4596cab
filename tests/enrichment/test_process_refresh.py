"""The descriptions of processes in use follow exec and moves between control groups."""

import asyncio
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.fake_proc import FakeProc

from hogpipe.enrichment import process_refresh
from hogpipe.enrichment.process_refresh import ProcessRefresher
from hogpipe.enrichment.processes import ProcessReader
from hogpipe.linux.procfs import ProcessIdentity, Procfs
from hogpipe.model import Process


class Host:
    """A fake /proc with a refresher; a round is `check`, and time is `now`."""

    def __init__(self, root: Path) -> None:
        self.fake = FakeProc(root)
        self.reader = ProcessReader(Procfs(root))
        self.now = 0.0
        self.changes = 0
        self.in_use: list[Process] = []
        self._executor = ThreadPoolExecutor(1)
        self._refresher = ProcessRefresher(
            self.reader, self._executor, lambda: self.in_use, self._count, clock=lambda: self.now
        )

    def _count(self) -> None:
        self.changes += 1

    def use(self, *pids: int) -> None:
        """Let exactly these processes have traffic."""
        found = (self.reader.find(ProcessIdentity(pid, 1000), self.now) for pid in pids)
        self.in_use = [process for process in found if process is not None]

    def execute(self, pid: int, name: str) -> None:
        stack_start = sum(name.encode())
        executable, command = f"/bin/{name}".encode(), name.encode()
        self.fake.process(pid, command=command, executable=executable, stack_start=stack_start)

    def check(self, rounds: int = 1) -> None:
        for _ in range(rounds):
            asyncio.run(self._refresher.check())

    def name_of(self, pid: int) -> str:
        return self.reader.recall(Process(pid, 1000)).name

    def close(self) -> None:
        self._executor.shutdown()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path / "proc")
    yield made
    made.close()


def test_exec_of_a_process_in_use_is_noticed_and_reported_once(host: Host) -> None:
    host.execute(1, "sh")
    host.use(1)
    host.check()
    assert host.changes == 0
    host.execute(1, "curl")
    host.check(2)
    assert (host.name_of(1), host.changes) == ("curl", 1)


def test_a_change_that_a_lookup_found_is_reported_too(host: Host) -> None:
    host.execute(1, "sh")
    host.use(1)
    host.execute(1, "curl")
    host.reader.refresh(ProcessIdentity(1, 1000), Procfs(host.fake.root).read_stat(1), 0.0)
    host.in_use = []
    host.check(2)
    assert host.changes == 1


def test_a_process_is_checked_for_a_minute_after_its_last_traffic(host: Host) -> None:
    host.execute(1, "sh")
    host.use(1)
    host.check()
    host.in_use = []
    host.now = 60.0
    host.execute(1, "curl")
    host.check()
    assert host.name_of(1) == "curl"
    host.now = 60.1
    host.execute(1, "wget")
    host.check()
    assert host.name_of(1) == "curl"


@pytest.mark.parametrize("processes", [1, 7])
def test_every_process_has_its_turn_however_little_time_a_round_has(
    host: Host, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_refresh, "_MAX_ROUND_SECONDS", 0.0)
    pids = range(1, processes + 1)
    for pid in pids:
        host.execute(pid, "sh")
    host.use(*pids)
    host.check(3)
    for pid in pids:
        host.execute(pid, "curl")
    for number in pids:
        host.check()
        assert sum(host.name_of(pid) == "curl" for pid in pids) == number


def test_a_process_that_has_exited_is_checked_no_more(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.execute(1, "sh")
    host.use(1)
    shutil.rmtree(host.fake.root / "1")
    host.check()
    checked: list[ProcessIdentity] = []
    monkeypatch.setattr(host.reader, "check", lambda process, _now: checked.append(process))
    host.check()
    assert checked == []
    assert host.name_of(1) == "sh"


def test_a_check_that_fails_is_repeated_in_the_next_round(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.execute(1, "sh")
    host.use(1)

    def fail(_process: ProcessIdentity, _now: float) -> bool:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(host.reader, "check", fail)
        host.check()
    host.execute(1, "curl")
    host.check()
    assert host.name_of(1) == "curl"


def test_processes_that_could_not_be_identified_are_left_alone(host: Host) -> None:
    host.in_use = [Process(1, None, command="sh")]
    host.check()
    assert host.changes == 0

"""Owners of sockets, and the number of fds that a lookup reads."""

import os
import shutil
from collections import deque
from collections.abc import Callable, Collection
from itertools import count, islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from support.fake_proc import FakeProc

from hogpipe.attribution.procfs import fd_scanner
from hogpipe.attribution.procfs.fd_cache import FdCache
from hogpipe.attribution.procfs.shared_sockets import SharedSocketRules
from hogpipe.linux.netns.namespace_processes import NamespaceProcesses
from hogpipe.linux.procfs import FdDirectory, ProcessIdentity, Procfs
from hogpipe.model import OWN_NAMESPACE

MANY = range(1000, 1050)
OWN, RED = 1, 2
MAX_READS = 8  # of the sockets in one sample


class Cache:
    """An FdCache on a fake tree; each lookup has its own rules and is `pause` after the last."""

    def __init__(
        self, fake: FakeProc, *, max_fds: int = 100_000, max_cached: int = 100_000
    ) -> None:
        self.procfs = Procfs(fake.root)
        self.processes = NamespaceProcesses(fake.root, OWN)
        self.fds = FdCache(self.procfs, self.processes, max_fds=max_fds, max_cached=max_cached)
        self.now = 0.0
        self.pause = 1.0

    def find(self, *inodes: int, user: int = 0, namespace: int = OWN_NAMESPACE) -> dict[int, int]:
        """Return the pid of each owner."""
        self.now += self.pause
        found = self.fds.find_owners(
            dict.fromkeys(inodes, user),
            SharedSocketRules(self.procfs),
            self.now,
            dict.fromkeys(inodes, namespace),
        )
        return {inode: owner.pid for inode, owner in found.items()}

    def sample_owners(self, *inodes: int) -> dict[int, int]:
        """Return the pid of each owner that a sample finds."""
        self.now += self.pause
        sockets = dict.fromkeys(inodes, 0)
        found = self.fds.sample_owners(
            lambda: sockets, (), SharedSocketRules(self.procfs), self.now
        )
        return {inode: owner.pid for inode, owner in found.items()}

    def cost(self, *inodes: int, user: int = 0, namespace: int = OWN_NAMESPACE) -> int:
        """Return the number of fds that a lookup reads."""
        before = self.fds.fds_read
        self.find(*inodes, user=user, namespace=namespace)
        return self.fds.fds_read - before


@pytest.fixture
def fake(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path / "proc")


@pytest.fixture
def cache(fake: FakeProc) -> Cache:
    return Cache(fake)


def test_an_owner_has_a_start_time_and_an_inode_without_a_holder_is_absent(fake: FakeProc) -> None:
    fake.process(10, start=5, sockets={3: 100, 4: 101})
    procfs = Procfs(fake.root)
    found = FdCache(procfs, NamespaceProcesses(fake.root, OWN)).find_owners(
        {101: 0, 999: 0}, SharedSocketRules(procfs), 0.0
    )
    assert found == {101: ProcessIdentity(10, 5)}


def test_cached_owners_are_returned_without_reading(fake: FakeProc, cache: Cache) -> None:
    rules = SharedSocketRules(cache.procfs)
    fake.process(10, start=5, sockets={3: 100})
    fake.process(11, parent=10, sockets={3: 100, 4: 101})
    fake.process(12, sockets={3: 102})
    fake.process(13, sockets={3: 102})
    cache.fds.prepare(rules, 0.0)
    fake.process(14, sockets={3: 103})
    before = cache.fds.fds_read
    found = cache.fds.cached_owners([100, 101, 102, 103, 999], rules)
    assert {inode: owner.pid for inode, owner in found.items()} == {100: 10, 101: 11}
    assert cache.fds.fds_read == before


def test_sockets_have_been_open_since_all_of_them_were_seen(fake: FakeProc, cache: Cache) -> None:
    fake.process(10, sockets={3: 100})
    cache.fds.prepare(SharedSocketRules(cache.procfs), 0.0)
    fake.process(10, sockets={3: 100, 4: 101})
    cache.find(100, 101)
    assert cache.fds.seen_for([100], cache.now + 1.0) == cache.now + 1.0
    assert cache.fds.seen_for([100, 101], cache.now + 1.0) == 1.0
    assert cache.fds.seen_for([100, 999], cache.now) == cache.fds.seen_for([], 9.0) == 0.0


def test_an_inode_that_is_seen_again_after_it_was_closed_is_that_of_another_socket(
    fake: FakeProc, cache: Cache
) -> None:
    fake.process(10, sockets={4: 101})
    cache.find(101)
    fake.process(10, sockets={})
    cache.find(101)
    assert cache.fds.seen_for([101], cache.now) == 0.0
    fake.process(10, sockets={4: 101})
    cache.find(101)
    assert cache.fds.seen_for([101], cache.now + 1.0) == 1.0


def test_a_lookup_of_no_sockets_reads_nothing(fake: FakeProc, cache: Cache) -> None:
    fake.process(10, sockets={3: 100})
    assert cache.find() == {}
    assert (cache.fds.fd_scans, cache.fds.fds_read) == (0, 0)


def test_known_fds_are_only_verified(fake: FakeProc, cache: Cache) -> None:
    fake.process(10, sockets={3: 100, 4: 101})
    fake.process(20, sockets=dict(enumerate(MANY, start=3)))
    cache.find(100)
    assert (cache.cost(100), cache.cost(101), cache.fds.fd_scans) == (1, 1, 1)


def test_only_the_new_fds_of_a_known_process_are_read(fake: FakeProc, cache: Cache) -> None:
    held = dict(enumerate(MANY, start=3))
    fake.process(10, sockets=held)
    cache.find(1000)
    fake.process(10, sockets={**held, 99: 100})
    # The fd of the last match, the one above the highest fd, and the new one.
    assert cache.cost(100) == 1 + 1 + 1
    assert cache.find(100) == {100: 10}
    assert cache.fds.fd_scans == 2


def test_only_new_processes_are_read(fake: FakeProc, cache: Cache) -> None:
    fake.process(10, sockets=dict(enumerate(MANY, start=3)))
    cache.find(1000)
    fake.process(20, sockets={3: 100})
    assert cache.cost(100) == 2 + 2  # two likely fds of 10, and all fds of 20


def test_a_socket_at_a_reused_fd_number_is_searched_for_in_likely_processes_first(
    fake: FakeProc, cache: Cache
) -> None:
    fake.process(10, sockets={3: 100})
    fake.process(20, sockets=dict(enumerate(MANY, start=3)))
    cache.find(100)
    fake.swap(10, (3, 101))
    cache.find(101)
    # Process 10 matched last, and nothing is missing after it: no fd of 20 is read.
    assert cache.cost(101) <= 3
    assert cache.find(101) == {101: 10}


@pytest.mark.usefixtures("root")
def test_processes_of_the_sockets_user_come_first(fake: FakeProc, cache: Cache) -> None:
    fake.process(10, sockets={3: 100})
    fake.process(20, sockets=dict(enumerate(MANY, start=3)))
    os.chown(fake.root / "10" / "fd", 5, 5)
    cache.find(999)
    fake.swap(10, (3, 101))
    assert cache.cost(101, user=5) < len(MANY)


def test_fd_numbers_that_matched_or_changed_are_read_first(fake: FakeProc, cache: Cache) -> None:
    fake.process(10, sockets=dict(enumerate(MANY, start=3)))
    cache.find(1000)
    fake.swap(10, (7, 100))
    assert cache.find(100) == {}
    assert cache.find(100) == {100: 10}  # the second lookup of a socket searches for it
    fake.swap(10, (7, 101))
    assert cache.cost(101) == 2


def test_a_closed_socket_has_no_owner(fake: FakeProc, cache: Cache) -> None:
    fake.process(10, sockets={3: 100})
    cache.find(100)
    fake.process(10)
    assert cache.find(100) == {}


def test_an_fd_with_another_socket_is_noticed(fake: FakeProc, cache: Cache) -> None:
    fake.process(10, sockets={3: 100})
    cache.find(100)
    fake.swap(10, (3, 101))
    assert cache.find(100, 101) == {101: 10}
    assert cache.find(100) == {}


def test_a_socket_that_moved_to_another_fd_is_found(fake: FakeProc, cache: Cache) -> None:
    fake.process(10, sockets={3: 100, 7: 101})
    cache.find(100)
    fake.swap(10, (3, 102), (7, 100))
    cache.find(100)  # the second lookup of a socket searches for it
    assert cache.find(100) == {100: 10}


def test_a_reused_pid_is_another_process(fake: FakeProc) -> None:
    procfs = Procfs(fake.root)
    fds = FdCache(procfs, NamespaceProcesses(fake.root, OWN))
    fake.process(10, start=5, sockets={3: 100})
    fds.find_owners({100: 0}, SharedSocketRules(procfs), 0.0)
    fake.process(10, start=6, sockets={3: 100})
    assert fds.find_owners({100: 0}, SharedSocketRules(procfs), 0.0) == {
        100: ProcessIdentity(10, 6)
    }


def test_fds_of_a_reused_pid_are_removed(fake: FakeProc, cache: Cache) -> None:
    fake.process(10, start=5, sockets={3: 100})
    fake.process(20, sockets={3: 101})
    cache.find(100)
    fake.process(10, start=6, sockets={3: 101})
    assert cache.find(101) == {}


def test_a_pid_that_is_reused_during_a_lookup_is_read_again(fake: FakeProc, cache: Cache) -> None:
    fake.process(10, start=5, sockets={3: 100, 4: 102})
    fake.process(20, sockets={3: 101})
    cache.find(100)
    directory = fake.root / "10" / "fd"
    stamp = directory.stat().st_mtime_ns
    fake.process(10, start=6, sockets={3: 100, 4: 101})
    os.utime(directory, ns=(0, stamp))
    assert cache.find(100, 101) == {100: 10}


def test_the_owner_of_a_socket_is_another_holder_after_the_first_one_exits(
    fake: FakeProc, cache: Cache
) -> None:
    fake.process(20, parent=10, sockets={3: 100})
    fake.process(10, sockets={9: 100})
    assert cache.find(100) == {100: 10}
    shutil.rmtree(fake.root / "10")
    assert cache.find(100) == {100: 20}


def test_processes_that_have_exited_are_removed(fake: FakeProc, cache: Cache) -> None:
    fake.process(10, sockets={3: 100, 4: 101})
    cache.find(100)
    shutil.rmtree(fake.root / "10")
    cache.find(999)
    assert cache.fds._table.pids() == set()
    assert cache.fds._table.size == 0
    assert cache.fds._table.references(100) == ()


def test_a_later_holder_counts_as_much_as_the_first(fake: FakeProc, cache: Cache) -> None:
    fake.process(10, sockets={3: 100})
    fake.process(20, sockets={3: 101})
    assert cache.find(100) == {100: 10}
    fake.process(30, sockets={3: 100})
    assert cache.find(100) == {}
    assert cache.fds.ambiguous == 1
    shutil.rmtree(fake.root / "30")
    assert cache.find(100) == {100: 10}
    fake.process(20, sockets={3: 101, 4: 100})
    assert cache.find(100) == {}


def test_a_parent_is_noticed_as_a_holder_of_what_its_new_child_inherited(
    fake: FakeProc, cache: Cache
) -> None:
    fake.process(10, sockets={3: 100})
    cache.find(100)
    fake.swap(10, (3, 101))
    fake.process(20, parent=10, sockets={3: 101})
    assert cache.find(101) == {101: 10}


def test_an_inode_without_a_holder_is_searched_for_once(fake: FakeProc, cache: Cache) -> None:
    fake.process(10, sockets=dict(enumerate(MANY, start=3)))
    cache.find(1000)
    likely = 2  # the fd of the last match, and the one above the highest fd
    assert (
        cache.cost(999) == likely
    )  # the first lookup does not search: most missing sockets are closed
    assert cache.cost(999) == likely + len(MANY) + 1
    assert cache.cost(999) == likely
    assert cache.cost(999, 1000) <= likely + 1
    fake.process(20, sockets={3: 100})
    assert cache.cost(999) == likely + 2
    fake.process(20, sockets={3: 100, 4: 999})
    assert cache.find(999) == {999: 20}
    assert cache.fds._scanner._missing_since == {}


def test_an_inode_without_a_holder_does_not_extend_the_search_for_others(
    fake: FakeProc, cache: Cache
) -> None:
    fake.process(10, sockets=dict(enumerate(MANY, start=3)))
    fake.process(20, sockets={3: 100})
    for _ in range(2):
        cache.find(999)
    cache.find(100)
    fake.swap(20, (3, 101))
    cache.find(999, 101)
    assert cache.cost(999, 101) <= 4
    assert cache.find(999, 101) == {101: 20}


def test_a_refresh_beyond_the_bound_continues_in_the_next_lookup(fake: FakeProc) -> None:
    for pid in range(10, 20):
        fake.process(pid, sockets={3: 100 + pid})
    cache = Cache(fake, max_fds=5)
    lookups = [cache.find(119, 110) for _ in range(4)]
    assert lookups == [{}, {}, {}, {119: 19, 110: 10}]
    assert cache.fds.deferred == 3 * 2


def test_a_search_beyond_the_bound_continues_in_the_next_lookup(fake: FakeProc) -> None:
    for pid in range(10, 20):
        fake.process(pid, sockets={3: 100 + pid})
    cache = Cache(fake, max_fds=60)  # a search may read a twentieth: three fds in each lookup
    cache.find(119)
    fake.swap(10, (3, 100))
    lookups = [cache.find(100, 119) for _ in range(8)]
    # The second lookup searches: the last match first, then by falling pid, so 10 is the last.
    assert lookups == [{119: 19}] * 7 + [{100: 10, 119: 19}]
    assert cache.fds.deferred == 7


def test_a_search_in_a_process_with_many_fds_reads_a_slice_in_each_lookup(fake: FakeProc) -> None:
    held = dict(enumerate(range(1000, 1200), start=3))
    fake.process(10, sockets=held)
    fake.process(20, sockets={3: 100})
    cache = Cache(fake, max_fds=400)  # a slice has 20 fds
    cache.find(100)
    fake.swap(10, (103, 998))
    costs = [cache.cost(998) for _ in range(len(held) // 20)]
    assert max(costs) <= 20 + 4, "the slice, and the likely fds of two processes"
    assert cache.find(998) == {998: 10}
    fake.swap(20, (3, 101))
    assert cache.find(101) == {101: 20}


def test_searches_have_a_rate(fake: FakeProc) -> None:
    held = dict(enumerate(range(1000, 1200), start=3))
    fake.process(10, sockets=held)
    cache = Cache(fake, max_fds=400)  # a slice has 20 fds
    cache.find(1000)
    cache.pause = 0.0001
    before = cache.fds.fds_read
    for missing in range(5000, 5200):
        cache.find(missing)
        cache.find(missing)
    searched = cache.fds.fds_read - before - 400 * 2  # without the likely fds
    assert searched <= fd_scanner._SEARCH_RATE * 400 * cache.pause + 20
    assert cache.fds.deferred > 300


def test_cached_fds_are_bounded_and_the_latest_matches_stay(fake: FakeProc) -> None:
    for pid in range(10, 20):
        fake.process(pid, sockets={3: 100 + pid})
    cache = Cache(fake, max_cached=7)
    assert cache.find(113) == {113: 13}
    assert cache.fds._table.size <= 7
    assert cache.fds.evicted == 20 - cache.fds._table.size
    assert cache.find(113) == {113: 13}
    assert cache.fds.fd_scans == 1
    cache.find(*range(110, 120))  # evicted fds are found by a search in the second lookup
    assert cache.find(*range(110, 120)) == {pid + 100: pid for pid in range(10, 20)}


def test_without_fd_counts_the_fds_are_listed(
    fake: FakeProc, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    directories = Procfs.read_fd_directory

    def without_count(procfs: Procfs, pid: int) -> object:
        directory = directories(procfs, pid)
        procfs.reports_fd_counts = False
        return (
            None if directory is None else type(directory)(directory.inode, 0, 0, directory.user_id)
        )

    monkeypatch.setattr(Procfs, "read_fd_directory", without_count)
    fake.process(10, sockets={3: 100})
    assert cache.find(100) == {100: 10}
    fake.process(10, sockets={3: 100, 4: 101})
    assert cache.cost(101) == 2
    assert cache.find(101) == {101: 10}


def test_a_process_with_a_malformed_stat_owns_nothing(fake: FakeProc, cache: Cache) -> None:
    fake.process(10, sockets={3: 100})
    (fake.root / "10" / "stat").write_bytes(b"10 (program) S")
    assert cache.find(100) == {}
    assert cache.procfs.malformed > 0
    fake.process(10, sockets={3: 100})
    assert cache.find(100) == {100: 10}


def test_files_that_are_not_of_a_process_are_skipped(fake: FakeProc, cache: Cache) -> None:
    fake.process(10, sockets={3: 100})
    (fake.root / "77").write_text("a file")
    (fake.root / "78").mkdir()
    fake.process(79)
    (fake.root / "79" / "fd" / "0").unlink()
    (fake.root / "10" / "fd" / "no number").symlink_to("socket:[55]")
    (fake.root / "10" / "fd" / "9").symlink_to("socket:[what]")
    assert cache.find(100, 55) == {100: 10}
    assert cache.procfs.malformed == 1


def test_short_lived_sockets_are_found_at_the_few_fd_numbers_that_they_share(
    fake: FakeProc, cache: Cache
) -> None:
    kept = dict(enumerate(MANY, start=3))
    fake.process(20, sockets=kept)
    fake.process(10, sockets={**kept, 60: 100})
    cache.find(100)
    fake.process(10, sockets=kept)
    cache.find(100)
    cache.pause = 0.001  # too soon for a refresh
    fake.process(10, sockets={**kept, 60: 101})
    assert cache.cost(101) == 1
    fake.process(10, sockets={**kept, 60: 102, 61: 103})  # another socket at 60, and the next fd
    assert cache.cost(102, 103) == 2
    assert cache.find(102, 103) == {102: 10, 103: 10}


@pytest.mark.parametrize("held", [40, 100, 400])
@pytest.mark.parametrize("closed", [1, 20])
def test_all_sockets_that_replaced_the_oldest_ones_are_found_in_one_lookup_by_few_reads(
    fake: FakeProc, cache: Cache, held: int, closed: int
) -> None:
    fake.process(20, sockets=dict(enumerate(MANY, start=3)))
    numbers = deque(range(3, 3 + held))
    inodes = count(10_000)
    first = dict(zip(numbers, inodes, strict=False))
    fake.process(10, sockets=first)
    cache.find(*first.values())
    cache.pause = 0.001  # too soon for a refresh
    for _ in range(3 * held // closed):
        made = dict(zip(islice(numbers, closed), inodes, strict=False))
        numbers.rotate(-closed)
        fake.swap(10, *made.items())
        before = cache.fds.fds_read
        assert cache.find(*made.values()) == dict.fromkeys(made.values(), 10)
        assert cache.fds.fds_read - before <= 2 * closed + 2
    assert cache.fds.deferred == 0


def test_a_new_socket_beside_many_lasting_ones_is_found_by_few_reads(
    fake: FakeProc, cache: Cache
) -> None:
    lasting = dict(enumerate(range(1000, 1500), start=3))
    fake.process(10, sockets={**lasting, 600: 100})
    cache.find(*lasting.values(), 100)
    cache.pause = 0.001  # too soon for a refresh
    for inode in range(101, 110):
        fake.swap(10, (600, inode))
        before = cache.fds.fds_read
        assert cache.find(inode) == {inode: 10}
        assert cache.fds.fds_read - before <= 3


def test_a_missing_socket_costs_few_reads_however_many_sockets_changed_recently(
    fake: FakeProc, cache: Cache
) -> None:
    held = dict(enumerate(range(1000, 1500), start=3))
    fake.process(10, sockets=held)
    cache.find(*held.values())
    cache.pause = 0.001  # too soon for a refresh
    assert cache.cost(999) <= 70


def test_only_the_lowest_free_fd_numbers_are_tried(fake: FakeProc, cache: Cache) -> None:
    sockets = dict(enumerate(MANY, start=3))
    fake.process(10, sockets={3: 100, 4: 101})
    cache.find(100)
    fake.process(10, sockets={3: 100, 4: 101, **{fd + 2: inode for fd, inode in sockets.items()}})
    cache.find(*MANY)
    fake.process(10, sockets={3: 100, 4: 101})
    cache.find(*MANY)
    cache.pause = 0.001
    assert cache.cost(999) <= 3 + 2


def test_a_new_process_is_read_without_a_refresh(fake: FakeProc, cache: Cache) -> None:
    fake.process(10, sockets={3: 100})
    cache.find(100)
    cache.pause = 0.001
    fake.process(20, sockets={3: 101})
    assert cache.find(101) == {101: 20}


def test_a_socket_of_an_inactive_process_is_found_by_a_refresh_or_at_the_second_lookup(
    fake: FakeProc, cache: Cache
) -> None:
    fake.process(10, sockets={3: 100})
    for pid in range(20, 30):
        fake.process(pid, sockets={3: pid})
    cache.find(100)
    cache.pause = 0.001
    fake.process(25, sockets={3: 25, 7: 101})
    assert cache.find(101) == {}
    assert cache.fds.deferred == 1
    assert cache.find(101) == {101: 25}
    fake.process(26, sockets={3: 26, 7: 102})
    cache.pause = 1.0
    assert cache.find(102) == {102: 26}


def test_a_socket_that_a_blocking_accept_returned_is_found_though_the_number_of_fds_is_the_same(
    fake: FakeProc, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = cache.procfs.read_fd_directory

    def count_reserved(pid: int) -> FdDirectory | None:
        """Report one number more than the fds, or as many as if the accept has returned."""
        state = read(pid)
        return state and replace(state, open_fds=4 if pid == 10 else 1, mtime_ns=0)

    monkeypatch.setattr(cache.procfs, "read_fd_directory", count_reserved)
    for pid in MANY:
        fake.process(pid)
    fake.process(10, sockets={1: 99, 3: 98})
    assert cache.find(99) == {99: 10}
    for inode in (100, 101):
        fake.process(10, sockets={1: 99, 3: 98, 2: inode})
        before = cache.fds.fds_read
        assert cache.find(inode) == {inode: 10}
        assert cache.fds.fds_read - before <= 4
        fake.process(10, sockets={1: 99, 3: 98})
        assert cache.find(inode) == {}


def test_a_closed_socket_costs_few_reads_in_a_process_with_many_fds(
    fake: FakeProc, cache: Cache
) -> None:
    fake.process(10, sockets=dict(enumerate(range(1000, 3000), start=3)))
    cache.find(1500)
    fake.swap(10, (503, 99))
    assert cache.cost(1500) < 10


def test_an_inode_without_a_holder_causes_no_refresh(
    fake: FakeProc, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pid in range(10, 60):
        fake.process(pid, sockets={3: 100 + pid})
    for _ in range(3):
        cache.find(999)
    requested: list[int] = []
    read_fd_directory = Procfs.read_fd_directory
    monkeypatch.setattr(
        Procfs,
        "read_fd_directory",
        lambda procfs, pid: requested.append(pid) or read_fd_directory(procfs, pid),
    )
    cache.pause = 0.001
    for _ in range(10):
        cache.find(999)
    assert requested == []


@pytest.mark.usefixtures("root")  # its sockets and its files are of user 0
def test_a_sample_reads_few_processes_and_does_not_search(fake: FakeProc, cache: Cache) -> None:
    for pid in range(10, 60):
        fake.process(pid, start=pid, sockets=dict(enumerate(range(100 * pid, 100 * pid + 9), 3)))
    cache.find(1000)
    cache.pause = 0.001
    before = cache.fds.fds_read
    assert cache.sample_owners(999) == {}
    assert cache.fds.fds_read - before < 50
    assert cache.fds.deferred == 0
    fake.process(10, start=10, sockets={3: 1000, 12: 998})
    assert cache.sample_owners(998, 999, 1000) == {998: 10, 1000: 10}
    fake.process(59, start=59, sockets={3: 5900, 12: 997})  # the youngest, which never matched
    assert cache.sample_owners(997) == {997: 59}


class Moments:
    """The sockets at successive reads of a sample; the last state repeats."""

    def __init__(self, *moments: Callable[[], dict[int, int]]) -> None:
        self._moments = list(moments)
        self.reads = 0

    def __call__(self) -> dict[int, int]:
        self.reads += 1
        return (self._moments.pop(0) if len(self._moments) > 1 else self._moments[0])()


def sample_of(cache: Cache, moments: Moments) -> dict[int, int]:
    found = cache.fds.sample_owners(
        moments, (), SharedSocketRules(cache.procfs), cache.now, max_reads=MAX_READS
    )
    return {inode: owner.pid for inode, owner in found.items()}


def test_a_sample_waits_for_a_socket(fake: FakeProc, cache: Cache) -> None:
    fake.process(10, sockets={3: 100})
    cache.find(100)

    def opened() -> dict[int, int]:
        fake.process(10, sockets={3: 100, 4: 101})
        return {101: 0}

    moments = Moments(dict, dict, opened)
    assert sample_of(cache, moments) == {101: 10}
    assert moments.reads == 3


def test_a_sample_that_missed_a_socket_waits_for_the_next_one(fake: FakeProc, cache: Cache) -> None:
    fake.process(10, sockets={3: 100})
    cache.find(100)

    def opened() -> dict[int, int]:
        fake.process(10, sockets={3: 100, 4: 102})
        return {102: 0}

    moments = Moments(lambda: {101: 0}, opened)  # 101 closes before its fd is read
    assert sample_of(cache, moments) == {102: 10}
    assert moments.reads == 2


@pytest.mark.parametrize("moment", [{}, {999: 0}])
def test_a_sample_ends_without_a_socket(cache: Cache, moment: dict[int, int]) -> None:
    moments = Moments(lambda: moment)
    assert sample_of(cache, moments) == {}
    assert moments.reads <= MAX_READS


def test_a_socket_that_stays_without_an_owner_is_sampled_twice(cache: Cache) -> None:
    moments = Moments(lambda: {999: 0})
    assert sample_of(cache, moments) == {}
    assert moments.reads == 2


inodes = st.integers(100, 104)
trees = st.dictionaries(
    st.integers(1, 8),
    st.tuples(st.integers(0, 8), st.dictionaries(st.integers(3, 5), inodes), st.sampled_from("ps")),
    max_size=6,
)
lookups_of = st.lists(st.sets(inodes, min_size=1), min_size=1, max_size=5)


def add_process(fake: FakeProc, pid: int, shape: tuple[int, dict[int, int], str]) -> None:
    parent, sockets, kind = shape
    command = b"systemd" if kind == "s" else b"program"
    fake.process(pid, parent=parent, command=command, sockets=sockets)


def find_until_complete(cache: Cache, requested: Collection[int]) -> dict[int, int]:
    """Repeat a lookup until nothing is deferred."""
    for _ in range(50):
        before = cache.fds.deferred
        found = cache.find(*requested)
        if cache.fds.deferred == before:
            return found
    raise AssertionError("deferred too often")


@settings(max_examples=60)
@given(tree=trees, requested=lookups_of, max_fds=st.sampled_from([1, 7, 100_000]))
def test_earlier_lookups_do_not_change_the_result(
    tmp_path_factory: pytest.TempPathFactory,
    tree: dict[int, tuple[int, dict[int, int], str]],
    requested: list[set[int]],
    max_fds: int,
) -> None:
    fake = FakeProc(tmp_path_factory.mktemp("any") / "proc")
    for pid, shape in tree.items():
        add_process(fake, pid, shape)
    cache = Cache(fake, max_fds=max_fds)
    truth = Cache(fake).find(*range(100, 105))
    for wanted in requested:
        expected = {inode: pid for inode, pid in truth.items() if inode in wanted}
        assert find_until_complete(cache, wanted) == expected


@settings(max_examples=60)
@given(before=trees, after=trees, requested=lookups_of, max_fds=st.sampled_from([1, 100_000]))
def test_a_changed_tree_gives_the_same_result_as_an_empty_cache(
    tmp_path_factory: pytest.TempPathFactory,
    before: dict[int, tuple[int, dict[int, int], str]],
    after: dict[int, tuple[int, dict[int, int], str]],
    requested: list[set[int]],
    max_fds: int,
) -> None:
    fake = FakeProc(tmp_path_factory.mktemp("any") / "proc")
    for pid, shape in before.items():
        add_process(fake, pid, shape)
    cache = Cache(fake, max_fds=max_fds)
    for wanted in requested:
        find_until_complete(cache, wanted)
    for pid in before:
        shutil.rmtree(fake.root / str(pid))
    for pid, shape in after.items():
        add_process(fake, pid, shape)
    truth = Cache(fake).find(*range(100, 105))
    assert find_until_complete(cache, range(100, 105)) == truth


@pytest.fixture
def many_active(fake: FakeProc, cache: Cache) -> Cache:
    """Forty processes with a socket each, all active; those with odd pids are in RED."""
    for pid in range(100, 140):
        fake.process(pid, sockets={3: pid})
        fake.enter(pid, RED if pid % 2 else OWN)
    cache.processes.refresh(0.0)
    cache.find(*range(100, 140))
    cache.pause = 0.0  # no refresh is due: what is not at a likely fd is not found
    return cache


def test_new_sockets_of_a_container_are_found_beside_many_active_processes(
    fake: FakeProc, many_active: Cache
) -> None:
    for pid in range(100, 140):
        fake.process(pid, sockets={3: pid, 4: 1000 + pid})
        fake.enter(pid, RED if pid % 2 else OWN)
    here, inside = range(1100, 1140, 2), range(1101, 1140, 2)
    found = many_active.find(*inside, namespace=RED) | many_active.find(*here)
    assert len(found) == 2 * 16, "the bound is one of each namespace"
    assert all(inode == 1000 + pid for inode, pid in found.items())


def test_an_idle_process_of_a_container_is_likely_too(fake: FakeProc, many_active: Cache) -> None:
    fake.process(200)
    fake.enter(200, 3)
    many_active.processes.refresh(0.1)
    many_active.pause = 1.0
    many_active.find(*range(100, 140))
    many_active.pause = 0.0
    fake.process(200, sockets={1: 2000})
    fake.enter(200, 3)
    assert many_active.find(2000, namespace=3) == {2000: 200}
    assert many_active.cost(2000, namespace=3) == 1


def test_a_process_of_an_unknown_namespace_is_likely_for_each(fake: FakeProc, cache: Cache) -> None:
    fake.process(10, sockets={3: 100})
    cache.find(100)
    cache.pause = 0.0
    fake.process(10, sockets={3: 100, 4: 101})
    assert cache.find(101, namespace=RED) == {101: 10}


def test_a_socket_of_this_namespace_in_an_active_process_of_a_container_is_found(
    fake: FakeProc, cache: Cache
) -> None:
    fake.process(10, sockets={3: 100})
    fake.enter(10, RED)
    cache.processes.refresh(0.0)
    cache.find(100)
    cache.pause = 0.0
    fake.process(10, sockets={3: 100, 4: 101})
    assert cache.find(101) == {101: 10}

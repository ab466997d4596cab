"""Who holds a socket, and how little of /proc is read to know."""

import shutil
from pathlib import Path

import pytest
from support.fake_proc import FakeProc

from hogpipe.attribution.fd_cache import FdCache, Holder
from hogpipe.attribution.procfs import Procfs


@pytest.fixture
def fake(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path / "proc")


@pytest.fixture
def fds(fake: FakeProc) -> FdCache:
    return FdCache(Procfs(fake.root))


def test_a_holder_is_found_and_an_unheld_inode_is_absent(fake: FakeProc, fds: FdCache) -> None:
    fake.process(10, start=5, sockets={3: 100, 4: 101})
    assert fds.find({101, 999}) == {101: Holder(10, 5, 4)}


def test_nothing_is_read_for_no_inodes(fake: FakeProc, fds: FdCache) -> None:
    fake.process(10, sockets={3: 100})
    assert fds.find(set()) == {}
    assert (fds.walks, fds.fds_read) == (0, 0)


def test_what_was_met_on_a_walk_needs_no_other(fake: FakeProc, fds: FdCache) -> None:
    fake.process(10, start=5, sockets={3: 100, 4: 101})
    fds.find({100})
    assert (fds.walks, fds.fds_read) == (1, 3 + 1)  # and a look at the parent
    assert fds.find({101}) == {101: Holder(10, 5, 4)}
    assert (fds.walks, fds.fds_read) == (1, 4 + 2)


def test_a_walk_ends_when_all_is_found(fake: FakeProc, fds: FdCache) -> None:
    fake.process(10, sockets=dict(enumerate(range(1000, 1050), start=3)))
    fake.process(20, parent=1, sockets={3: 100})
    fds.find({100})
    assert fds.fds_read == 2 + 1


def test_the_lately_useful_come_first_and_then_the_new(fake: FakeProc, fds: FdCache) -> None:
    fake.process(10, sockets={3: 100})
    fake.process(20)
    fds.find({100})
    fake.process(10, sockets={4: 101})
    fake.process(30)
    before = fds.fds_read
    assert fds.find({101}).keys() == {101}
    assert fds.fds_read - before == 2 + 1  # nothing of 20 and 30
    fake.process(40, sockets={3: 102})
    before = fds.fds_read
    assert fds.find({102}).keys() == {102}
    assert fds.fds_read - before == 2 + 2 + 1  # 10, 40 and its parent; nothing of 20 and 30


def test_a_socket_that_was_closed_has_no_holder_any_more(fake: FakeProc, fds: FdCache) -> None:
    fake.process(10, sockets={3: 100})
    fds.find({100})
    fake.process(10)
    assert fds.find({100}) == {}


def test_an_fd_that_now_is_another_socket_is_seen(fake: FakeProc, fds: FdCache) -> None:
    fake.process(10, start=5, sockets={3: 100})
    fds.find({100})
    fake.process(10, start=5, sockets={3: 101})
    assert fds.find({100, 101}) == {101: Holder(10, 5, 3)}


def test_a_socket_that_moved_to_another_fd_is_found_again(fake: FakeProc, fds: FdCache) -> None:
    fake.process(10, start=5, sockets={3: 100})
    fds.find({100})
    fake.process(10, start=5, sockets={7: 100})
    assert fds.find({100}) == {100: Holder(10, 5, 7)}


def test_a_pid_that_was_given_away_is_another_process(fake: FakeProc, fds: FdCache) -> None:
    fake.process(10, start=5, sockets={3: 100})
    fds.find({100})
    fake.process(10, start=6, sockets={3: 100})
    assert fds.find({100}) == {100: Holder(10, 6, 3)}


def test_a_socket_survives_its_first_holder(fake: FakeProc, fds: FdCache) -> None:
    fake.process(20, start=5, sockets={3: 100})
    fake.process(10, start=4, sockets={9: 100})
    assert fds.find({100}) == {100: Holder(20, 5, 3)}
    shutil.rmtree(fake.root / "20")
    assert fds.find({100}) == {100: Holder(10, 4, 9)}


def test_the_dead_are_forgotten(fake: FakeProc, fds: FdCache) -> None:
    fake.process(10, sockets={3: 100, 4: 101})
    fds.find({100})
    shutil.rmtree(fake.root / "10")
    fds.find({999})
    assert (fds._holders, fds._sockets, fds._useful) == ({}, {}, {})


def test_an_inherited_socket_belongs_to_the_eldest_that_holds_it(
    fake: FakeProc, fds: FdCache
) -> None:
    fake.process(1, start=0)
    fake.process(10, start=1, parent=1, sockets={3: 100})
    fake.process(11, start=2, parent=10, sockets={3: 100})
    fake.process(12, start=3, parent=11, sockets={3: 100})
    assert fds.find({100}) == {100: Holder(10, 1, 3)}


def test_a_parent_that_holds_it_elsewhere_only_handed_it_over(fake: FakeProc, fds: FdCache) -> None:
    fake.process(1, start=0, sockets={42: 100})
    fake.process(10, start=1, parent=1, sockets={3: 100})
    assert fds.find({100}) == {100: Holder(10, 1, 3)}


def test_parents_that_seem_to_go_round_end_the_climb(fake: FakeProc, fds: FdCache) -> None:
    fake.process(10, start=1, parent=11, sockets={3: 100})
    fake.process(11, start=2, parent=10, sockets={3: 100})
    assert fds.find({100})[100].pid in {10, 11}

"""Who owns what several processes share."""

from pathlib import Path

import pytest
from support.fake_proc import FakeProc

from hogpipe.attribution.procfs.shared_sockets import (
    SharedSocketRules,
)
from hogpipe.linux.procfs import ProcessIdentity, Procfs


class Family:
    """Processes on a fake tree that start in the order of their pids."""

    def __init__(self, fake: FakeProc) -> None:
        self.fake = fake

    def put(self, pid: int, parent: int, command: bytes = b"app", program: bytes = b"/app") -> None:
        self.fake.process(pid, start=pid, parent=parent, command=command, executable=program)

    def owner_of_socket(self, *pids: int) -> int | None:
        owner = SharedSocketRules(Procfs(self.fake.root)).owner_of_socket(pids)
        assert owner is None or owner.start == owner.pid
        return owner and owner.pid

    def owner_of_port(self, *pids: int) -> int | None:
        owners = frozenset(ProcessIdentity(pid, pid) for pid in pids)
        owner = SharedSocketRules(Procfs(self.fake.root)).owner_of_port(owners)
        return owner and owner.pid


@pytest.fixture
def family(tmp_path: Path) -> Family:
    """A manager, a server with two workers and a helper of one of them, and a stranger."""
    family = Family(FakeProc(tmp_path / "proc"))
    family.put(1, 0, b"systemd", b"/systemd")
    family.put(10, 1)
    family.put(11, 10)
    family.put(12, 10)
    family.put(13, 11)
    family.put(20, 1, b"other", b"/other")
    return family


def test_the_only_holder_is_the_owner(family: Family) -> None:
    assert family.owner_of_socket(13) == 13
    assert family.owner_of_port(13) == 13


def test_the_holder_that_is_an_ancestor_of_all_others_is_the_owner(family: Family) -> None:
    assert family.owner_of_socket(13, 12, 11, 10) == 10
    assert family.owner_of_port(11, 12, 10) == 10


def test_the_ancestor_may_be_distant(family: Family) -> None:
    assert family.owner_of_socket(13, 10) == 10


def test_unrelated_holders_leave_no_owner(family: Family) -> None:
    assert family.owner_of_socket(10, 20) is None
    assert family.owner_of_socket(10, 11, 20) is None


def test_siblings_without_their_parent_leave_no_owner(family: Family) -> None:
    assert family.owner_of_socket(11, 12) is None


def test_a_service_owns_the_socket_that_systemd_bound(family: Family) -> None:
    assert family.owner_of_socket(1, 10) == 10
    assert family.owner_of_socket(1, 10, 11, 12) == 10


def test_systemd_owns_a_socket_that_it_alone_holds(family: Family) -> None:
    assert family.owner_of_socket(1) == 1


def test_the_systemd_of_a_user_counts_too(family: Family) -> None:
    family.put(30, 1, b"systemd", b"/systemd")
    family.put(31, 30)
    assert family.owner_of_socket(30, 31) == 31


def test_two_services_that_share_a_socket_of_systemd_leave_no_owner(family: Family) -> None:
    assert family.owner_of_socket(1, 10, 20) is None


def test_process_1_of_a_container_may_be_the_server(family: Family) -> None:
    family.put(1, 0, b"gunicorn", b"/app")
    assert family.owner_of_socket(1, 10) == 1
    assert family.owner_of_socket(1, 10, 20) == 1


def test_a_cycle_of_parents_leaves_no_owner(family: Family) -> None:
    family.put(40, 41)
    family.put(41, 40)
    assert family.owner_of_socket(40, 41) is None
    assert family.owner_of_socket(40) == 40


def test_a_holder_that_has_exited_owns_nothing(family: Family) -> None:
    assert family.owner_of_socket(99) is None
    assert family.owner_of_socket() is None


def test_a_parent_owns_the_port_of_its_workers(family: Family) -> None:
    assert family.owner_of_port(11, 12) == 10


def test_children_that_run_another_program_are_not_workers(family: Family) -> None:
    family.put(50, 1, b"sh", b"/sh")
    family.put(51, 50)
    family.put(52, 50)
    assert family.owner_of_port(51, 52) is None


def test_children_of_different_programs_are_not_workers(family: Family) -> None:
    family.put(14, 10, program=b"/other")
    assert family.owner_of_port(11, 14) is None


def test_children_whose_program_cannot_be_read_are_not_workers(family: Family) -> None:
    for pid in (10, 11, 12):
        (family.fake.root / str(pid) / "exe").unlink()
    assert family.owner_of_port(11, 12) is None


def test_services_of_systemd_on_one_port_leave_no_owner(family: Family) -> None:
    family.put(21, 1)
    assert family.owner_of_port(10, 21) is None


def test_systemd_and_a_service_on_one_port_leave_no_owner(family: Family) -> None:
    assert family.owner_of_port(1, 10) is None


def test_a_process_is_read_once_in_a_lookup(family: Family) -> None:
    rules = SharedSocketRules(Procfs(family.fake.root))
    before = rules.read_stat(10)
    family.fake.process(10, start=77)
    assert rules.read_stat(10) is before

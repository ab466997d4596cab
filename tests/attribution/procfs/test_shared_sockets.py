"""The owner of sockets and ports that several processes share."""

from pathlib import Path

import pytest
from support.fake_proc import FakeProc

from hogpipe.attribution.procfs.shared_sockets import SharedSocketRules
from hogpipe.linux.procfs import ProcessIdentity, Procfs


class ProcessTree:
    """Processes of a fake tree; the start times follow the pids."""

    def __init__(self, fake: FakeProc) -> None:
        self.fake = fake

    def add(self, pid: int, parent: int, command: bytes = b"app", program: bytes = b"/app") -> None:
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
def tree(tmp_path: Path) -> ProcessTree:
    """systemd, a server with two workers, a child of one worker, and an unrelated process."""
    tree = ProcessTree(FakeProc(tmp_path / "proc"))
    tree.add(1, 0, b"systemd", b"/systemd")
    tree.add(10, 1)
    tree.add(11, 10)
    tree.add(12, 10)
    tree.add(13, 11)
    tree.add(20, 1, b"other", b"/other")
    return tree


def test_the_only_holder_is_the_owner(tree: ProcessTree) -> None:
    assert tree.owner_of_socket(13) == 13
    assert tree.owner_of_port(13) == 13


def test_the_holder_that_is_an_ancestor_of_all_others_is_the_owner(tree: ProcessTree) -> None:
    assert tree.owner_of_socket(13, 12, 11, 10) == 10
    assert tree.owner_of_port(11, 12, 10) == 10


def test_the_ancestor_may_be_distant(tree: ProcessTree) -> None:
    assert tree.owner_of_socket(13, 10) == 10


def test_unrelated_holders_leave_no_owner(tree: ProcessTree) -> None:
    assert tree.owner_of_socket(10, 20) is None
    assert tree.owner_of_socket(10, 11, 20) is None


def test_siblings_without_their_parent_leave_no_owner(tree: ProcessTree) -> None:
    assert tree.owner_of_socket(11, 12) is None


def test_a_service_owns_the_socket_that_systemd_bound(tree: ProcessTree) -> None:
    assert tree.owner_of_socket(1, 10) == 10
    assert tree.owner_of_socket(1, 10, 11, 12) == 10


def test_systemd_owns_a_socket_that_it_alone_holds(tree: ProcessTree) -> None:
    assert tree.owner_of_socket(1) == 1


def test_the_systemd_of_a_user_counts_too(tree: ProcessTree) -> None:
    tree.add(30, 1, b"systemd", b"/systemd")
    tree.add(31, 30)
    assert tree.owner_of_socket(30, 31) == 31


def test_two_services_that_share_a_socket_of_systemd_leave_no_owner(tree: ProcessTree) -> None:
    assert tree.owner_of_socket(1, 10, 20) is None


def test_process_1_of_a_container_may_be_the_server(tree: ProcessTree) -> None:
    tree.add(1, 0, b"gunicorn", b"/app")
    assert tree.owner_of_socket(1, 10) == 1
    assert tree.owner_of_socket(1, 10, 20) == 1


def test_a_cycle_of_parents_leaves_no_owner(tree: ProcessTree) -> None:
    tree.add(40, 41)
    tree.add(41, 40)
    assert tree.owner_of_socket(40, 41) is None
    assert tree.owner_of_socket(40) == 40


def test_a_holder_that_has_exited_owns_nothing(tree: ProcessTree) -> None:
    assert tree.owner_of_socket(99) is None
    assert tree.owner_of_socket() is None


def test_a_parent_owns_the_port_of_its_workers(tree: ProcessTree) -> None:
    assert tree.owner_of_port(11, 12) == 10


def test_children_that_run_another_program_are_not_workers(tree: ProcessTree) -> None:
    tree.add(50, 1, b"sh", b"/sh")
    tree.add(51, 50)
    tree.add(52, 50)
    assert tree.owner_of_port(51, 52) is None


def test_children_of_different_programs_are_not_workers(tree: ProcessTree) -> None:
    tree.add(14, 10, program=b"/other")
    assert tree.owner_of_port(11, 14) is None


def test_children_whose_program_cannot_be_read_are_not_workers(tree: ProcessTree) -> None:
    for pid in (10, 11, 12):
        (tree.fake.root / str(pid) / "exe").unlink()
    assert tree.owner_of_port(11, 12) is None


def test_services_of_systemd_on_one_port_leave_no_owner(tree: ProcessTree) -> None:
    tree.add(21, 1)
    assert tree.owner_of_port(10, 21) is None


def test_systemd_and_a_service_on_one_port_leave_no_owner(tree: ProcessTree) -> None:
    assert tree.owner_of_port(1, 10) is None


def test_a_process_is_read_once_in_a_lookup(tree: ProcessTree) -> None:
    rules = SharedSocketRules(Procfs(tree.fake.root))
    before = rules.read_stat(10)
    tree.fake.process(10, start=77)
    assert rules.read_stat(10) is before

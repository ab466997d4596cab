"""The descendants of a process, from forks."""

from hogpipe.linux.fork_messages import Fork
from hogpipe.measuring.process_tree import ProcessTree


def grow(*forks: Fork, children: bool = True, max_pids: int = 100) -> ProcessTree:
    tree = ProcessTree([10], children=children, is_alive=lambda pid: pid < 20, max_pids=max_pids)
    for fork in forks:
        tree.ingest(fork)
    return tree


def test_descendants_belong_to_it_from_their_fork_on() -> None:
    tree = grow(Fork(10, 11, 100), Fork(11, 12, 200), Fork(7, 13, 200))
    assert tree.includes(10, 0)
    assert tree.includes(12, 200)
    assert not tree.includes(12, 199)
    assert not tree.includes(13, 300)


def test_without_children_it_is_one_process() -> None:
    assert not grow(Fork(10, 11, 100), children=False).includes(11, 200)


def test_a_reused_pid_belongs_to_it_until_another_process_gets_it() -> None:
    tree = grow(Fork(10, 11, 100), Fork(7, 11, 500))
    assert tree.includes(11, 499)
    assert not tree.includes(11, 500)
    tree.ingest(Fork(10, 11, 900))
    assert [tree.includes(11, now) for now in (100, 700, 900)] == [True, False, True]


def test_a_pid_that_another_process_has_is_none_of_a_member() -> None:
    tree = grow(Fork(10, 11, 100), Fork(10, 12, 100), Fork(7, 11, 500))
    assert sorted(tree.pids) == [10, 12]
    assert tree.knows(11)
    tree.ingest(Fork(12, 11, 900))
    assert sorted(tree.pids) == [10, 11, 12]


def test_children_of_a_process_that_reused_a_pid_do_not_belong_to_it() -> None:
    assert not grow(Fork(10, 11, 100), Fork(7, 11, 500), Fork(11, 12, 600)).includes(12, 700)


def test_processes_that_ended_are_evicted_once_there_are_too_many() -> None:
    tree = grow(*(Fork(10, pid, 100) for pid in (11, 21, 22, 23)), max_pids=4)
    assert sorted(tree.pids) == [10, 11]

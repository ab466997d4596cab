"""Connections that this kernel tracks in other network namespaces: which of these are asked."""

import errno
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.namespaces import namespace, require
from support.running import inhabitant

from hogpipe.attribution.tracked_connections import Connections, TrackedConnections
from hogpipe.linux.ctnetlink_messages import Connection, ConnectionTuple
from hogpipe.linux.netns.namespace_processes import NamespaceProcesses, read_own_namespace
from hogpipe.model import OWN_NAMESPACE

ASKED = ConnectionTuple(6, bytes([127, 0, 0, 1]), 1, bytes([127, 0, 0, 1]), 2)
FOUND = Connection(ASKED, ASKED._replace(source_port=2, destination_port=1))
REMOVED = 1  # an inode that no namespace has


class Kernel:
    """Tracks the same connection everywhere, and records in which namespaces it is asked."""

    def __init__(self) -> None:
        self.asked_in: list[int | None] = []
        self.error: OSError | None = None

    def read(self, tuples: Sequence[ConnectionTuple]) -> Connections:
        self.asked_in.append(read_own_namespace())
        if self.error is not None:
            raise self.error
        return [FOUND for _ in tuples]


@pytest.fixture
def others() -> Iterator[list[int]]:
    """Three namespaces with a process each, by inode."""
    require("ip")
    with ExitStack() as stack:
        inodes = []
        for _ in range(3):
            made = stack.enter_context(namespace())
            stack.enter_context(inhabitant(made))
            inodes.append(Path(f"/run/netns/{made.name}").stat().st_ino)
        yield inodes


def make_connections(kernel: Kernel, max_entered: int = 32) -> TrackedConnections:
    processes = NamespaceProcesses(Path("/proc"), read_own_namespace())
    return TrackedConnections(Path("/proc"), processes, read=kernel.read, max_entered=max_entered)


def test_each_namespace_is_asked_about_its_own_tuples(others: list[int]) -> None:
    kernel = Kernel()
    tuples = {OWN_NAMESPACE: [ASKED], others[0]: [ASKED, ASKED]}
    found = make_connections(kernel).find(tuples)
    assert found == {OWN_NAMESPACE: [FOUND], others[0]: [FOUND, FOUND]}
    assert set(kernel.asked_in) == {read_own_namespace(), others[0]}


def test_a_namespace_without_a_process_has_no_connections() -> None:
    kernel = Kernel()
    assert make_connections(kernel).find({REMOVED: [ASKED]}) == {REMOVED: [None]}
    assert kernel.asked_in == []


def test_a_lookup_enters_a_bounded_number_of_namespaces_and_the_others_come_next(
    others: list[int],
) -> None:
    kernel = Kernel()
    connections = make_connections(kernel, max_entered=1)
    tuples = {inode: [ASKED] for inode in (OWN_NAMESPACE, *others)}
    for _ in others:
        found = connections.find(tuples)
        assert len(found) == 2
        assert found[OWN_NAMESPACE] == [FOUND]
    assert set(kernel.asked_in) == {read_own_namespace(), *others}


def test_without_the_right_to_ask_there_are_no_connections_and_the_log_says_so_once(
    others: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    kernel = Kernel()
    kernel.error = PermissionError(errno.EPERM, "Operation not permitted", "conntrack")
    connections = make_connections(kernel)
    tuples = {inode: [ASKED] for inode in (OWN_NAMESPACE, *others)}
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert connections.find(tuples) == {inode: [None] for inode in tuples}
    own, other = sorted(caplog.messages)
    assert own.startswith("conntrack cannot be asked (CAP_NET_ADMIN is needed)")
    assert other.startswith("conntrack of containers cannot be asked (CAP_SYS_ADMIN and")
    kernel.error = None
    assert connections.find(tuples) == {inode: [FOUND] for inode in tuples}

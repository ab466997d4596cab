"""Connections that were closed here first: what comes after that, asked of a real kernel."""

import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from support.namespaces import Namespace
from support.running import wait_until

from hogpipe.capture.ebpf.time_wait import TimeWaitTracker
from hogpipe.linux.bpf.shapes import TIMESTAMPS, TRAFFIC_ROW
from hogpipe.linux.bpf.traffic_rows import Rows, encode_endpoints
from hogpipe.linux.netns.cookies import read_own_cookie
from hogpipe.linux.netns.network_namespaces import NetworkNamespaces
from hogpipe.linux.sock_diag import read_socket_states

TCP, SO_COOKIE = 6, 57
FIN_WAIT2 = 5
LOCALHOST = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
BARE = {socket.AF_INET: 40, socket.AF_INET6: 60}
RESETS = struct.pack("=ii", 1, 0)


@pytest.fixture
def farewells() -> TimeWaitTracker:
    return TimeWaitTracker(NetworkNamespaces(Path("/proc")))


def close_here(
    family: socket.AddressFamily = socket.AF_INET, flags: int = 0
) -> tuple[Rows, socket.socket]:
    """Close one end of a connection; return it as the kernel tells of it, and the other end."""
    with socket.create_server((LOCALHOST[family], 0), family=family) as listener:
        here = socket.create_connection(listener.getsockname()[:2])
        there, _ = listener.accept()
    (cookie,) = struct.unpack("=Q", here.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))
    (local, local_port, *_), (remote, remote_port, *_) = here.getsockname(), here.getpeername()
    ends = (
        socket.inet_pton(family, local),
        local_port,
        socket.inet_pton(family, remote),
        remote_port,
    )
    entries = np.zeros(1, TRAFFIC_ROW)
    entries["cookie"], entries["namespace"], entries["flags"] = cookie, read_own_cookie(), flags
    entries["endpoints"] = np.frombuffer(encode_endpoints(*ends, TCP), np.uint64)
    here.close()
    wait_until(lambda: read_socket_states([ends]) == [(cookie, FIN_WAIT2)])
    return entries, there


@contextmanager
def living_in(where: Namespace) -> Iterator[None]:
    """Have a process in a namespace, as there is in a container's."""
    with where.popen("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as inside:
        assert inside.stdin is not None
        assert inside.stdout is not None
        print("here", file=inside.stdin, flush=True)
        assert inside.stdout.readline() == "here\n"
        yield
        inside.stdin.close()


@pytest.mark.parametrize("family", LOCALHOST)
@pytest.mark.parametrize(("flags", "options"), [(0, 0), (TIMESTAMPS, 12)])
def test_two_packets_are_told_once_when_the_peer_has_closed(
    farewells: TimeWaitTracker, family: socket.AddressFamily, flags: int, options: int
) -> None:
    entries, there = close_here(family, flags)
    farewells.note(entries, 0.0)
    assert not len(farewells.find_ended(0.0))
    there.close()
    assert not len(farewells.find_ended(0.4))  # it was asked for just now
    (ended,) = farewells.find_ended(0.5)
    size = BARE[family] + options
    assert ended["counts"].tolist() == [size, 1, size, 1]
    assert ended["cookie"] == entries["cookie"][0]
    assert not len(farewells.find_ended(60.0, last=True))


def test_nothing_is_told_of_a_peer_that_resets(farewells: TimeWaitTracker) -> None:
    entries, there = close_here()
    farewells.note(entries, 0.0)
    there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETS)
    there.close()
    assert not len(farewells.find_ended(0.0))
    assert not len(farewells.find_ended(60.0, last=True))


def test_another_connection_of_the_same_ends_is_not_taken_for_it(
    farewells: TimeWaitTracker,
) -> None:
    entries, there = close_here()
    there.close()
    entries["cookie"] += 1
    farewells.note(entries, 0.0)
    assert not len(farewells.find_ended(0.0))


def test_who_closes_at_the_last_moment_is_asked_for_at_the_end(farewells: TimeWaitTracker) -> None:
    entries, there = close_here()
    farewells.note(entries, 0.0)
    farewells.find_ended(0.0)
    there.close()
    assert not len(farewells.find_ended(0.1))
    assert len(farewells.find_ended(0.1, last=True)) == 1


def test_the_kernel_is_asked_where_the_connection_is(
    farewells: TimeWaitTracker, netns: Namespace
) -> None:
    entries, there = netns.call(close_here)
    there.close()
    farewells.note(entries, 0.0)
    assert not len(farewells.find_ended(0.0))  # nobody is in there to go in by
    with living_in(netns):
        assert len(farewells.find_ended(2.0)) == 1


def test_a_namespace_that_nobody_is_in_is_asked_for_a_minute(
    farewells: TimeWaitTracker, netns: Namespace
) -> None:
    entries, there = netns.call(close_here)
    there.close()
    farewells.note(entries, 0.0)
    farewells.find_ended(61.0)
    with living_in(netns):
        assert not len(farewells.find_ended(70.0, last=True))


def test_of_too_many_the_oldest_are_forgotten() -> None:
    farewells = TimeWaitTracker(NetworkNamespaces(Path("/proc")), most=2)
    all_of_them = [close_here() for _ in range(3)]
    for entries, there in all_of_them:
        farewells.note(entries, 0.0)
        there.close()
    told = farewells.find_ended(0.0)["cookie"].tolist()
    assert told == [entries["cookie"][0] for entries, _ in all_of_them[1:]]

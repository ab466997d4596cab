"""Connections that were closed here first: their last two packets, on the running kernel."""

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
def tracker() -> TimeWaitTracker:
    return TimeWaitTracker(NetworkNamespaces(Path("/proc")))


def close_here(
    family: socket.AddressFamily = socket.AF_INET, flags: int = 0
) -> tuple[Rows, socket.socket]:
    """Close one end of a connection; return its row as of the traffic maps, and the other end."""
    with socket.create_server((LOCALHOST[family], 0), family=family) as listener:
        here = socket.create_connection(listener.getsockname()[:2])
        there, _ = listener.accept()
    (cookie,) = struct.unpack("=Q", here.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))
    (local, local_port, *_), (remote, remote_port, *_) = here.getsockname(), here.getpeername()
    endpoints = (
        socket.inet_pton(family, local),
        local_port,
        socket.inet_pton(family, remote),
        remote_port,
    )
    rows = np.zeros(1, TRAFFIC_ROW)
    rows["cookie"], rows["namespace"], rows["flags"] = cookie, read_own_cookie(), flags
    rows["endpoints"] = np.frombuffer(encode_endpoints(*endpoints, TCP), np.uint64)
    here.close()
    wait_until(lambda: read_socket_states([endpoints]) == [(cookie, FIN_WAIT2)])
    return rows, there


@contextmanager
def process_in(where: Namespace) -> Iterator[None]:
    """Run a process in a namespace, as there is in a container's."""
    with where.popen("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as inside:
        assert inside.stdin is not None
        assert inside.stdout is not None
        print("here", file=inside.stdin, flush=True)
        assert inside.stdout.readline() == "here\n"
        yield
        inside.stdin.close()


@pytest.mark.parametrize("family", LOCALHOST)
@pytest.mark.parametrize(("flags", "options"), [(0, 0), (TIMESTAMPS, 12)])
def test_two_packets_are_counted_once_when_the_peer_has_closed(
    tracker: TimeWaitTracker, family: socket.AddressFamily, flags: int, options: int
) -> None:
    rows, there = close_here(family, flags)
    tracker.add(rows, 0.0)
    assert not len(tracker.take_closed(0.0))
    there.close()
    assert not len(tracker.take_closed(0.4))  # it was queried just now
    (closed,) = tracker.take_closed(0.5)
    size = BARE[family] + options
    assert closed["counts"].tolist() == [size, 1, size, 1]
    assert closed["cookie"] == rows["cookie"][0]
    assert not len(tracker.take_closed(60.0, last=True))


def test_nothing_is_counted_for_a_peer_that_resets(tracker: TimeWaitTracker) -> None:
    rows, there = close_here()
    tracker.add(rows, 0.0)
    there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETS)
    there.close()
    assert not len(tracker.take_closed(0.0))
    assert not len(tracker.take_closed(60.0, last=True))


def test_another_connection_of_the_same_endpoints_is_not_counted(
    tracker: TimeWaitTracker,
) -> None:
    rows, there = close_here()
    there.close()
    rows["cookie"] += 1
    tracker.add(rows, 0.0)
    assert not len(tracker.take_closed(0.0))


def test_all_connections_are_queried_in_the_last_epoch(tracker: TimeWaitTracker) -> None:
    rows, there = close_here()
    tracker.add(rows, 0.0)
    tracker.take_closed(0.0)
    there.close()
    assert not len(tracker.take_closed(0.1))
    assert len(tracker.take_closed(0.1, last=True)) == 1


def test_a_connection_is_queried_in_its_own_namespace(
    tracker: TimeWaitTracker, netns: Namespace
) -> None:
    rows, there = netns.call(close_here)
    there.close()
    tracker.add(rows, 0.0)
    assert not len(tracker.take_closed(0.0))  # no process is in there to enter it by
    with process_in(netns):
        assert len(tracker.take_closed(2.0)) == 1


def test_a_namespace_without_a_process_is_tried_for_a_minute(
    tracker: TimeWaitTracker, netns: Namespace
) -> None:
    rows, there = netns.call(close_here)
    there.close()
    tracker.add(rows, 0.0)
    tracker.take_closed(61.0)
    with process_in(netns):
        assert not len(tracker.take_closed(70.0, last=True))


def test_the_oldest_of_too_many_are_evicted() -> None:
    tracker = TimeWaitTracker(NetworkNamespaces(Path("/proc")), max_connections=2)
    all_of_them = [close_here() for _ in range(3)]
    for rows, there in all_of_them:
        tracker.add(rows, 0.0)
        there.close()
    closed = tracker.take_closed(0.0)["cookie"].tolist()
    assert closed == [rows["cookie"][0] for rows, _ in all_of_them[1:]]

"""What the kernel counts at sockets, compared with what processes sent."""

import ctypes
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.bpf import require_bpf
from support.namespaces import Namespace

from hogpipe.linux.bpf.programs import attach_traffic_programs
from hogpipe.linux.bpf.shapes import RELEASED
from hogpipe.linux.bpf.traffic_maps import TrafficMaps
from hogpipe.linux.bpf.traffic_rows import Rows, TrafficRow, decode_rows

TCP, UDP = 6, 17
LOCALHOST = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
HEADERS = {socket.AF_INET: 28, socket.AF_INET6: 48}


@contextmanager
def counting(max_flows: int = 8192, max_processes: int = 4096) -> Iterator[TrafficMaps]:
    require_bpf()
    programs = attach_traffic_programs(max_flows=max_flows, max_processes=max_processes)
    maps = TrafficMaps(programs, max_flows)
    try:
        yield maps
    finally:
        maps.close()


@pytest.fixture
def traffic() -> Iterator[TrafficMaps]:
    with counting() as maps:
        yield maps


def take(traffic: TrafficMaps, port: int) -> tuple[list[TrafficRow], list[TrafficRow]]:
    """Return the rows of a port, of other flows and of connections: the whole host is counted."""
    traffic.begin_epoch()
    return of_port(traffic.take_other_flows(), port), of_port(traffic.take_connections().rows, port)


def of_port(rows: Rows, port: int) -> list[TrafficRow]:
    return [
        one
        for one in decode_rows(rows)
        if port in {one.endpoints.local_port, one.endpoints.remote_port}
    ]


@pytest.mark.parametrize("family", LOCALHOST)
def test_datagrams_are_counted_once_at_each_side(
    family: socket.AddressFamily, netns: Namespace, traffic: TrafficMaps
) -> None:
    server = netns.call(lambda: socket.socket(family, socket.SOCK_DGRAM))
    client = netns.call(lambda: socket.socket(family, socket.SOCK_DGRAM))
    with server, client:
        server.bind((LOCALHOST[family], 0))
        port = server.getsockname()[1]
        for _ in range(10):
            client.sendto(b"x" * 100, (LOCALHOST[family], port))
            server.sendto(b"y" * 50, server.recvfrom(200)[1])
            client.recv(200)
        peer = client.getsockname()[1]
        other_flows, connections = take(traffic, port)
        found = {one.endpoints.local_port: one for one in other_flows}
        assert found.keys() == {port, peer}
        assert connections == []
        sent, answered = 10 * (100 + HEADERS[family]), 10 * (50 + HEADERS[family])
        out, into = found[peer], found[port]
        assert (out.counts.transmit_bytes, out.counts.transmit_packets) == (sent, 10)
        assert (out.counts.receive_bytes, out.counts.receive_packets) == (answered, 10)
        assert (into.counts.transmit_bytes, into.counts.receive_bytes) == (answered, sent)
        assert out.owner.pid == into.owner.pid == os.getpid()
        assert not out.owner.by_listener
        assert out.endpoints.protocol == UDP
        assert out.endpoints.local_address == socket.inet_pton(family, LOCALHOST[family])
        assert take(traffic, port) == ([], [])
        assert traffic.read_losses().packets == 0


@pytest.mark.parametrize("family", LOCALHOST)
def test_a_connection_has_the_bytes_of_all_its_packets(
    family: socket.AddressFamily, netns: Namespace, traffic: TrafficMaps
) -> None:
    host = LOCALHOST[family]
    with netns.call(lambda: socket.create_server((host, 0), family=family)) as listener:
        port = listener.getsockname()[1]
        client = netns.call(lambda: socket.create_connection((host, port)))
        served, _ = listener.accept()
        with served, client:
            client.sendall(b"x" * 100_000)
            client.shutdown(socket.SHUT_WR)
            while served.recv(65536):
                pass
            served.close()  # its FIN comes while the client is still there
            client.recv(1)
    handshakes, connections = take(traffic, port)
    (out,) = (one for one in connections if one.endpoints.remote_port == port)
    (into,) = (one for one in connections if one.endpoints.local_port == port)
    (at_listener,) = handshakes
    assert at_listener.owner.by_listener
    assert out.counts.transmit_bytes > 100_000
    assert out.counts.transmit_bytes == into.counts.receive_bytes + at_listener.counts.receive_bytes
    assert (
        out.counts.receive_bytes == into.counts.transmit_bytes + at_listener.counts.transmit_bytes
    )
    assert {one.owner.pid for one in (out, into, at_listener)} == {os.getpid()}


def test_an_open_connection_is_its_listeners_until_the_process_that_served_it_closes_it(
    netns: Namespace, traffic: TrafficMaps
) -> None:
    serve = "import socket; socket.socket(fileno=0).close()"
    with netns.call(lambda: socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        with netns.call(lambda: socket.create_connection(("127.0.0.1", port))) as client:
            served, _ = listener.accept()
            client.send(b"x")
            (open_one,) = (
                one for one in take(traffic, port)[1] if one.endpoints.local_port == port
            )
            assert open_one.owner.by_listener
            assert open_one.owner.pid == os.getpid()
            client.send(b"y")
            worker = subprocess.Popen([sys.executable, "-c", serve], stdin=served)
            served.close()
            assert worker.wait() == 0
    (closed,) = (one for one in take(traffic, port)[1] if one.endpoints.local_port == port)
    assert not closed.owner.by_listener
    assert closed.owner.pid == worker.pid


def test_a_socket_from_before_the_programs_has_no_owner_until_it_is_closed(
    netns: Namespace,
) -> None:
    with netns.call(lambda: socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        with counting() as traffic:
            client = netns.call(lambda: socket.create_connection(("127.0.0.1", port)))
            served, _ = listener.accept()
            client.send(b"x")
            handshakes, connections = take(traffic, port)
            assert [one.owner.pid for one in handshakes] == [0]
            (open_one,) = (one for one in connections if one.endpoints.local_port == port)
            assert open_one.owner.pid == 0
            assert open_one.owner.namespace
            client.close()
            served.close()
            (closed,) = (one for one in take(traffic, port)[1] if one.endpoints.local_port == port)
            assert closed.owner.pid == os.getpid()


def test_a_socket_with_many_peers_has_a_row_for_each_of_them_in_each_epoch(
    netns: Namespace, traffic: TrafficMaps
) -> None:
    ports = range(20000, 23000)  # more than is mapped at first
    for _ in range(3):
        with netns.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            for _again in range(2):
                for port in ports:
                    sender.sendto(b"x", ("127.0.0.1", port))
        traffic.begin_epoch()
        own = [
            one for one in decode_rows(traffic.take_other_flows())
            if one.owner.pid == os.getpid() and one.endpoints.remote_port in ports
        ]  # fmt: skip
        assert sorted(one.endpoints.remote_port for one in own) == [*ports]
        assert {(one.counts.transmit_packets, one.counts.transmit_bytes) for one in own} == {
            (2, 58)
        }
        assert len([one for one in own if one.owner.flags & RELEASED]) == 1
    assert traffic.read_losses().packets == 0


def test_traffic_beyond_the_maps_size_is_counted_for_its_process(netns: Namespace) -> None:
    with counting(max_flows=4, max_processes=64) as traffic:
        for _ in range(3):  # the rows are free again in each epoch
            with netns.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
                for port in range(20000, 20100):
                    sender.sendto(b"x", ("127.0.0.1", port))
            traffic.begin_epoch()
            rows = [
                *decode_rows(traffic.take_other_flows()),
                *decode_rows(traffic.take_overflow()),
            ]
            assert any(not one.endpoints.local_address for one in rows)
            own = [one for one in rows if one.owner.pid == os.getpid()]
            assert sum(one.counts.transmit_bytes for one in own) == 100 * 29
            assert traffic.read_losses().packets == 0


def test_no_more_rows_are_taken_than_the_map_has(netns: Namespace) -> None:
    """Else their number would wrap at last, and rows in use be overwritten."""
    rows = 4
    with (
        counting(max_flows=rows) as traffic,
        netns.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender,
    ):
        for port in range(20000, 20100):
            sender.sendto(b"x", ("127.0.0.1", port))
        taken = int(traffic._rows_used.rows(2)["other_flows"].max())
        assert rows <= taken <= rows + 2 * (os.cpu_count() or 1)


def test_a_busy_hash_map_is_asked_for_the_rest(
    netns: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = range(20000, 20100)
    with counting(max_flows=64) as traffic:
        monkeypatch.setattr(traffic, "_library", Busy(traffic._library))
        for _ in range(3):
            with netns.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
                for port in ports:
                    sender.sendto(b"x", ("127.0.0.1", port))
            traffic.begin_epoch()
            rows = [
                *decode_rows(traffic.take_other_flows()),
                *decode_rows(traffic.take_overflow()),
            ]
            own = [one for one in rows if one.owner.pid == os.getpid()]
            assert sum(one.counts.transmit_packets for one in own) == len(ports)


class Busy:
    """libbpf, where every other batch ends at a locked bucket."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._is_busy = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._library, name)

    def bpf_map_delete_batch(
        self, table: int, keys: int, count_by_reference: Any, options: None
    ) -> int:
        count: ctypes.c_uint32 = count_by_reference._obj
        self._is_busy = not self._is_busy
        if self._is_busy:
            count.value = (count.value + 1) // 2
        code = int(self._library.bpf_map_delete_batch(table, keys, ctypes.byref(count), options))
        return code or -errno.EBUSY * self._is_busy


def test_packets_beyond_all_maps_are_counted_as_lost(netns: Namespace) -> None:
    send = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "for port in range(20000, 20010): s.sendto(b'x', ('127.0.0.1', port))"
    )
    with counting(max_flows=1, max_processes=1) as traffic:
        senders = [netns.popen(sys.executable, "-c", send) for _ in range(3)]
        assert [one.wait() for one in senders] == [0, 0, 0]
        traffic.begin_epoch()
        pids = {one.pid for one in senders}
        rows = [*decode_rows(traffic.take_other_flows()), *decode_rows(traffic.take_overflow())]
        counted = sum(one.counts.transmit_packets for one in rows if one.owner.pid in pids)
        assert counted < 30 <= counted + traffic.read_losses().packets

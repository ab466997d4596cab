"""What the kernel counts at sockets, held against what processes sent."""

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
from hogpipe.linux.bpf.traffic_maps import TrafficMaps
from hogpipe.linux.bpf.traffic_rows import RELEASED, Entries, SocketTraffic, describe

TCP, UDP = 6, 17
LOCALHOST = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
HEADERS = {socket.AF_INET: 28, socket.AF_INET6: 48}


@contextmanager
def counting(max_flows: int = 8192, max_processes: int = 4096) -> Iterator[TrafficMaps]:
    require_bpf()
    programs = attach_traffic_programs(max_flows=max_flows, max_processes=max_processes)
    tables = TrafficMaps(programs, max_flows)
    try:
        yield tables
    finally:
        tables.close()


@pytest.fixture
def traffic() -> Iterator[TrafficMaps]:
    with counting() as tables:
        yield tables


def drain(traffic: TrafficMaps, port: int) -> tuple[list[SocketTraffic], list[SocketTraffic]]:
    """Return exchanges and connections of a port; the whole host is counted, others too."""
    traffic.take_turns()
    return of_port(traffic.exchanges(), port), of_port(traffic.connections()[0], port)


def of_port(entries: Entries, port: int) -> list[SocketTraffic]:
    return [one for one in describe(entries) if port in {one.ends.local_port, one.ends.remote_port}]


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
        exchanges, connections = drain(traffic, port)
        found = {one.ends.local_port: one for one in exchanges}
        assert found.keys() == {port, peer}
        assert connections == []
        sent, answered = 10 * (100 + HEADERS[family]), 10 * (50 + HEADERS[family])
        out, into = found[peer], found[port]
        assert (out.counts.transmit_bytes, out.counts.transmit_packets) == (sent, 10)
        assert (out.counts.receive_bytes, out.counts.receive_packets) == (answered, 10)
        assert (into.counts.transmit_bytes, into.counts.receive_bytes) == (answered, sent)
        assert out.holder.pid == into.holder.pid == os.getpid()
        assert not out.holder.by_listener
        assert out.ends.protocol == UDP
        assert out.ends.local_address == socket.inet_pton(family, LOCALHOST[family])
        assert drain(traffic, port) == ([], [])
        assert traffic.losses().packets == 0


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
    handshakes, connections = drain(traffic, port)
    (out,) = (one for one in connections if one.ends.remote_port == port)
    (into,) = (one for one in connections if one.ends.local_port == port)
    (at_listener,) = handshakes
    assert at_listener.holder.by_listener
    assert out.counts.transmit_bytes > 100_000
    assert out.counts.transmit_bytes == into.counts.receive_bytes + at_listener.counts.receive_bytes
    assert (
        out.counts.receive_bytes == into.counts.transmit_bytes + at_listener.counts.transmit_bytes
    )
    assert {one.holder.pid for one in (out, into, at_listener)} == {os.getpid()}


def test_an_open_connection_is_its_listeners_until_who_served_it_lets_go(
    netns: Namespace, traffic: TrafficMaps
) -> None:
    serve = "import socket; socket.socket(fileno=0).close()"
    with netns.call(lambda: socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        with netns.call(lambda: socket.create_connection(("127.0.0.1", port))) as client:
            served, _ = listener.accept()
            client.send(b"x")
            (open_one,) = (one for one in drain(traffic, port)[1] if one.ends.local_port == port)
            assert open_one.holder.by_listener
            assert open_one.holder.pid == os.getpid()
            client.send(b"y")
            worker = subprocess.Popen([sys.executable, "-c", serve], stdin=served)
            served.close()
            assert worker.wait() == 0
    (closed,) = (one for one in drain(traffic, port)[1] if one.ends.local_port == port)
    assert not closed.holder.by_listener
    assert closed.holder.pid == worker.pid


def test_a_socket_from_before_belongs_to_nobody_until_it_is_let_go(netns: Namespace) -> None:
    with netns.call(lambda: socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        with counting() as traffic:
            client = netns.call(lambda: socket.create_connection(("127.0.0.1", port)))
            served, _ = listener.accept()
            client.send(b"x")
            handshakes, connections = drain(traffic, port)
            assert [one.holder.pid for one in handshakes] == [0]
            (open_one,) = (one for one in connections if one.ends.local_port == port)
            assert open_one.holder.pid == 0
            assert open_one.holder.namespace
            client.close()
            served.close()
            (closed,) = (one for one in drain(traffic, port)[1] if one.ends.local_port == port)
            assert closed.holder.pid == os.getpid()


def test_a_socket_that_talks_to_many_is_counted_for_each_in_each_turn(
    netns: Namespace, traffic: TrafficMaps
) -> None:
    ports = range(20000, 23000)  # more than is mapped at first
    for _ in range(3):
        with netns.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            for _again in range(2):
                for port in ports:
                    sender.sendto(b"x", ("127.0.0.1", port))
        traffic.take_turns()
        own = [
            one for one in describe(traffic.exchanges())
            if one.holder.pid == os.getpid() and one.ends.remote_port in ports
        ]  # fmt: skip
        assert sorted(one.ends.remote_port for one in own) == [*ports]
        assert {(one.counts.transmit_packets, one.counts.transmit_bytes) for one in own} == {
            (2, 58)
        }
        assert len([one for one in own if one.holder.flags & RELEASED]) == 1
    assert traffic.losses().packets == 0


def test_a_process_is_told_when_it_first_uses_a_socket(
    netns: Namespace, traffic: TrafficMaps
) -> None:
    traffic.read_processes()
    program = "import socket; [socket.socket() for _ in range(50)]"
    done = netns.popen(sys.executable, "-c", program)
    assert done.wait() == 0
    assert [one.pid for one in traffic.read_processes()].count(done.pid) == 1


def test_what_finds_its_table_full_is_counted_for_its_process(netns: Namespace) -> None:
    with counting(max_flows=4, max_processes=64) as traffic:
        for _ in range(3):  # each turn has room again
            with netns.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
                for port in range(20000, 20100):
                    sender.sendto(b"x", ("127.0.0.1", port))
            traffic.take_turns()
            entries = [*describe(traffic.exchanges()), *describe(traffic.overflow())]
            assert any(not one.ends.local_address for one in entries)
            own = [one for one in entries if one.holder.pid == os.getpid()]
            assert sum(one.counts.transmit_bytes for one in own) == 100 * 29
            assert traffic.losses().packets == 0


def test_rows_are_given_out_no_further_than_the_table_goes(netns: Namespace) -> None:
    """Else their number would come round at last, and what is in them be lost."""
    rows = 4
    with (
        counting(max_flows=rows) as traffic,
        netns.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender,
    ):
        for port in range(20000, 20100):
            sender.sendto(b"x", ("127.0.0.1", port))
        given = int(traffic._fills.rows(2)["exchanges"].max())
        assert rows <= given <= rows + 2 * (os.cpu_count() or 1)


def test_a_table_that_is_busy_is_asked_for_the_rest(
    netns: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = range(20000, 20100)
    with counting(max_flows=64) as traffic:
        monkeypatch.setattr(traffic, "_library", Busy(traffic._library))
        for _ in range(3):
            with netns.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
                for port in ports:
                    sender.sendto(b"x", ("127.0.0.1", port))
            traffic.take_turns()
            entries = [*describe(traffic.exchanges()), *describe(traffic.overflow())]
            own = [one for one in entries if one.holder.pid == os.getpid()]
            assert sum(one.counts.transmit_packets for one in own) == len(ports)


class Busy:
    """libbpf, where every other batch meets a lock that is held."""

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


def test_what_finds_no_place_at_all_is_counted_in_packets(netns: Namespace) -> None:
    send = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "for port in range(20000, 20010): s.sendto(b'x', ('127.0.0.1', port))"
    )
    with counting(max_flows=1, max_processes=1) as traffic:
        senders = [netns.popen(sys.executable, "-c", send) for _ in range(3)]
        assert [one.wait() for one in senders] == [0, 0, 0]
        traffic.take_turns()
        pids = {one.pid for one in senders}
        entries = [*describe(traffic.exchanges()), *describe(traffic.overflow())]
        counted = sum(one.counts.transmit_packets for one in entries if one.holder.pid in pids)
        assert counted < 30 <= counted + traffic.losses().packets

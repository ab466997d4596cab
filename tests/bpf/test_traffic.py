"""What the kernel counts at sockets, held against what processes sent."""

import os
import socket
from collections.abc import Iterator

import pytest
from support.bpf import require_bpf
from support.namespaces import Namespace

from hogpipe.bpf.loader import AttachedPrograms
from hogpipe.bpf.programs import attach_programs
from hogpipe.bpf.traffic import SocketTraffic, TrafficTables

UDP = 17
LOCALHOST = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
HEADERS = {socket.AF_INET: 28, socket.AF_INET6: 48}


@pytest.fixture
def programs() -> Iterator[AttachedPrograms]:
    require_bpf()
    made = attach_programs(traffic_entries=1024)
    try:
        yield made
    finally:
        made.close()


def udp(traffic: TrafficTables, port: int) -> list[SocketTraffic]:
    return [one for one in traffic.drain() if port in {one.local_port, one.remote_port}]


@pytest.mark.parametrize("family", LOCALHOST)
def test_datagrams_are_counted_once_at_each_side(
    family: socket.AddressFamily, netns: Namespace, programs: AttachedPrograms
) -> None:
    traffic = TrafficTables(programs)
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
        found = {one.local_port: one for one in udp(traffic, port)}
        assert found.keys() == {port, peer}
        sent, answered = 10 * (100 + HEADERS[family]), 10 * (50 + HEADERS[family])
        out, into = found[peer], found[port]
        assert (out.transmit_bytes, out.transmit_packets) == (sent, 10)
        assert (out.receive_bytes, out.receive_packets) == (answered, 10)
        assert (into.transmit_bytes, into.receive_bytes) == (answered, sent)
        assert out.pid == into.pid == os.getpid()
        assert out.protocol == UDP
        assert out.local_address == socket.inet_pton(family, LOCALHOST[family])
        assert udp(traffic, port) == []
        assert traffic.counts() == (0, 0)


def test_a_connection_has_the_bytes_of_all_its_packets(
    netns: Namespace, programs: AttachedPrograms
) -> None:
    traffic = TrafficTables(programs)
    with netns.call(lambda: socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        client = netns.call(lambda: socket.create_connection(("127.0.0.1", port)))
        served, _ = listener.accept()
        with served, client:
            client.sendall(b"x" * 100_000)
            client.shutdown(socket.SHUT_WR)
            while served.recv(65536):
                pass
            served.close()  # its FIN comes while the client is still there
            client.recv(1)
    rows = udp(traffic, port)
    out = [one for one in rows if one.remote_port == port]
    into = [one for one in rows if one.local_port == port]
    assert sum(one.transmit_bytes for one in out) > 100_000
    assert sum(one.transmit_bytes for one in out) == sum(one.receive_bytes for one in into)
    assert sum(one.receive_bytes for one in out) == sum(one.transmit_bytes for one in into)


def test_what_finds_its_table_full_is_counted(netns: Namespace) -> None:
    require_bpf()
    programs = attach_programs(traffic_entries=4)
    try:
        traffic = TrafficTables(programs)
        with netns.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            for port in range(20000, 20100):
                sender.sendto(b"x", ("127.0.0.1", port))
        kept = [one for one in traffic.drain() if 20000 <= one.remote_port < 20100]
        assert len(kept) < 100
        overflowed, lost = traffic.counts()
        assert overflowed >= 100 - len(kept)
        assert lost == 0
    finally:
        programs.close()

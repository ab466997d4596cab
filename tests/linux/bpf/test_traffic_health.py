"""The health of connections, compared with what peers, `ss -ti` and a lossy wire count."""

import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.lossy_wire import RIGHT, LossyWire, drop_each, lossy_wire
from support.namespaces import Namespace, require

from hogpipe.flows.health_columns import decode_health
from hogpipe.linux.bpf.connection_maps import ConnectionMaps
from hogpipe.linux.bpf.programs import attach_health_programs, attach_traffic_programs
from hogpipe.linux.bpf.traffic_maps import TrafficMaps
from hogpipe.linux.bpf.traffic_rows import decode_endpoints
from hogpipe.model import TcpHealth

LOCALHOST = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
IPPROTO_MPTCP = 262  # include/uapi/linux/in.h
# include/uapi/linux/in.h, include/linux/socket.h, include/uapi/linux/mptcp.h
IPPROTO_MPTCP, SOL_MPTCP, MPTCP_INFO = 262, 284, 1


def open_traffic() -> ConnectionMaps:
    return TrafficMaps(attach_traffic_programs(max_flows=8192), 8192)


def open_health() -> ConnectionMaps:
    return ConnectionMaps(attach_health_programs(max_connections=8192), 8192)


OpenMaps = Callable[[], ConnectionMaps]
BOTH_SETS = pytest.mark.parametrize("open_maps", [open_traffic, open_health])


@pytest.fixture(params=[open_traffic, open_health])
def traffic(request: pytest.FixtureRequest) -> Iterator[ConnectionMaps]:
    """The programs that count packets, and those for health alone."""
    require("ip", "ss", "nft")
    maps: ConnectionMaps = request.param()
    try:
        yield maps
    finally:
        maps.close()


class Healths:
    """What the kernel counted of connections with one port, in all epochs that were taken."""

    def __init__(self, traffic: ConnectionMaps, port: int) -> None:
        self.here, self.there = TcpHealth(), TcpHealth()
        """Of the end with that port, and of the others."""
        self._traffic = traffic
        self._port = port

    def take(self) -> "Healths":
        """Add another epoch."""
        self._traffic.begin_epoch()
        rows, _, health = self._traffic.take_connections()
        ends = decode_endpoints(rows)
        for one, found in zip(ends, decode_health(health.health.tolist()), strict=True):
            if found is not None and one.local_port == self._port:
                self.here.add(found)
            elif found is not None and one.remote_port == self._port:
                self.there.add(found)
        return self

    def wait_for(self, is_there: Callable[[], bool]) -> None:
        """Take epochs until something is there."""
        deadline = time.monotonic() + 30
        while not is_there():
            assert time.monotonic() < deadline, (self.here, self.there)
            time.sleep(0.01)
            self.take()


@contextmanager
def connected(
    netns: Namespace, family: socket.AddressFamily = socket.AF_INET
) -> Iterator[tuple[int, socket.socket, socket.socket]]:
    """Return the port of a server, the client and the accepted socket."""
    host = LOCALHOST[family]
    with ExitStack() as stack:
        listener = netns.call(lambda: socket.create_server((host, 0), family=family))
        stack.enter_context(listener)
        port = listener.getsockname()[1]
        client = stack.enter_context(netns.call(lambda: socket.create_connection((host, port))))
        served, _ = listener.accept()
        yield port, client, stack.enter_context(served)


def receive_all(one: socket.socket) -> int:
    size = 0
    while data := one.recv(65536):
        size += len(data)
    return size


@pytest.mark.parametrize("family", LOCALHOST)
@pytest.mark.parametrize("sizes", [(0, 0), (1, 0), (0, 1), (100_000, 3_000_000)])
@pytest.mark.parametrize("client_first", [True, False])
def test_payload_is_what_the_peers_exchanged(
    netns: Namespace,
    traffic: ConnectionMaps,
    family: socket.AddressFamily,
    sizes: tuple[int, int],
    *,
    client_first: bool,
) -> None:
    """Whichever end closes first, also after the other one closed its direction."""
    with connected(netns, family) as (port, client, served):
        first, second = (client, served) if client_first else (served, client)
        received: list[int] = []
        thread = threading.Thread(target=lambda: received.append(receive_all(second)))
        thread.start()
        first.sendall(b"x" * sizes[0])
        first.shutdown(socket.SHUT_WR)
        thread.join()
        sender = threading.Thread(target=lambda: (second.sendall(b"y" * sizes[1]), second.close()))
        sender.start()
        received.append(receive_all(first))
        sender.join()
        first.close()
    assert received == [*sizes]
    found = Healths(traffic, port)
    found.wait_for(lambda: found.here.closed == found.there.closed == 1)
    one, other = (found.there, found.here) if client_first else (found.here, found.there)
    assert (one.transmit_payload_bytes, one.receive_payload_bytes) == sizes
    assert (other.receive_payload_bytes, other.transmit_payload_bytes) == sizes
    assert (found.there.opened, found.here.accepted) == (1, 1)
    assert (found.there.accepted, found.here.opened) == (0, 0)
    for end in (one, other):
        assert (end.reset, end.timed_out, end.retransmits) == (0, 0, 0)
        assert 0 < end.rtt_min_us <= end.rtt_sum_us / end.rtt_samples
        assert end.lifetime_us > 0
    assert found.there.opening_us > 0


def test_payload_is_counted_in_the_epoch_in_which_it_moves(
    netns: Namespace, traffic: ConnectionMaps
) -> None:
    with connected(netns) as (port, client, served):
        found = Healths(traffic, port).take()
        total = 0
        for size in (1000, 20_000):
            total += size
            client.sendall(b"x" * size)
            assert len(served.recv(size, socket.MSG_WAITALL)) == size
            served.send(b"y")  # with the acknowledgement of the rest
            client.recv(1)
            found.wait_for(lambda: found.here.receive_payload_bytes == total)  # noqa: B023
            assert found.there.transmit_payload_bytes == total


@BOTH_SETS
def test_a_connection_from_before_counts_what_it_moves_from_then_on(
    netns: Namespace, open_maps: OpenMaps
) -> None:
    require("ip")
    with connected(netns) as (port, client, served):
        client.sendall(b"x" * 5000)
        assert len(served.recv(5000, socket.MSG_WAITALL)) == 5000
        maps = open_maps()
        try:
            found = Healths(maps, port)
            for _ in range(4):
                client.sendall(b"x" * 100)
                assert len(served.recv(100, socket.MSG_WAITALL)) == 100
                served.sendall(b"y")
                client.recv(1)
                found.take()
        finally:
            maps.close()
    # What moved before the first packet that is counted is not known to be new.
    assert 200 <= found.there.transmit_payload_bytes <= 400
    assert 200 <= found.here.receive_payload_bytes <= 400
    assert found.there.rtt_samples >= 4
    assert found.there.opened == found.here.accepted == found.there.closed == 0


def test_a_refused_attempt_of_a_socket_that_connects_again(
    netns: Namespace, traffic: ConnectionMaps
) -> None:
    with netns.call(socket.socket) as client:
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                client.connect(("127.0.0.1", 9))
    found = Healths(traffic, 9).take()
    assert found.there == TcpHealth(refused=3)


def test_unread_data_at_a_close_resets_the_connection(
    netns: Namespace, traffic: ConnectionMaps
) -> None:
    with connected(netns) as (port, client, served):
        client.send(b"abc")
        found = Healths(traffic, port)
        found.wait_for(lambda: found.there.transmit_payload_bytes == 3)
        served.close()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    found.wait_for(lambda: found.there.closed == found.here.closed == 1)
    assert (found.there.reset, found.here.reset) == (1, 1)
    assert found.here.receive_payload_bytes == 3


def drop_syns(netns: Namespace, verdict: str) -> None:
    rules = f"""table inet t {{ chain input {{
        type filter hook input priority 0; tcp dport 9 {verdict}; }}; }}"""
    netns.call(lambda: subprocess.run(["nft", rules], check=True))


def test_an_attempt_that_is_not_answered_times_out_with_its_retries(
    netns: Namespace, traffic: ConnectionMaps
) -> None:
    drop_syns(netns, "drop")
    with netns.call(socket.socket) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1500)
        with pytest.raises(TimeoutError):
            client.connect(("127.0.0.1", 9))
    found = Healths(traffic, 9).take()
    assert found.there.timed_out == 1
    assert found.there.retransmits >= 1
    assert found.there.refused == found.there.abandoned == found.there.unreachable == 0


def test_an_attempt_that_its_process_closes_is_abandoned(
    netns: Namespace, traffic: ConnectionMaps
) -> None:
    drop_syns(netns, "drop")
    with netns.call(socket.socket) as client:
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.connect(("127.0.0.1", 9))
    assert Healths(traffic, 9).take().there == TcpHealth(abandoned=1)


def test_an_attempt_that_icmp_ends_is_unreachable(
    netns: Namespace, traffic: ConnectionMaps
) -> None:
    drop_syns(netns, "reject with icmp type host-unreachable")
    with netns.call(socket.socket) as client, pytest.raises(OSError, match="No route to host"):
        client.connect(("127.0.0.1", 9))
    found = Healths(traffic, 9).take().there
    # TCP ignores an error that comes while connect() is at work: the next SYN has another.
    assert found == TcpHealth(unreachable=1, retransmits=found.retransmits)


def test_a_simultaneous_open_is_opened_by_both_ends(
    netns: Namespace, traffic: ConnectionMaps
) -> None:
    """A socket that connects to itself is both."""
    with netns.call(socket.socket) as client:
        client.bind(("127.0.0.1", 0))
        client.connect(client.getsockname())
        client.send(b"x" * 10)
        client.recv(10)
        port = client.getsockname()[1]
    found = Healths(traffic, port).take()
    assert (found.here.opened, found.here.accepted) == (1, 0)
    assert found.here.transmit_payload_bytes == found.here.receive_payload_bytes == 10


def send_over(wire: LossyWire, size: int, *, port: int = 5001) -> str:
    """Send bytes from left to right; return what `ss -ti` shows of the sender before it closes."""
    with wire.right.call(lambda: socket.create_server((RIGHT, port))) as listener:
        client = wire.left.call(lambda: socket.create_connection((RIGHT, port)))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)  # no queue overflows
        served, _ = listener.accept()
        with client, served:
            received: list[int] = []
            thread = threading.Thread(target=lambda: received.append(receive_all(served)))
            thread.start()
            client.sendall(b"x" * size)
            shown = show_acknowledged(wire, port)
            client.shutdown(socket.SHUT_WR)
            thread.join()
            served.close()
            client.recv(1)
    assert received == [size]
    return shown


def show_acknowledged(wire: LossyWire, port: int) -> str:
    """Return what `ss -ti` shows once all is acknowledged."""
    command = wire.left.command("ss", "-Hti", "dst", f"{RIGHT}:{port}")
    while True:
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        if "unacked" not in shown and shown.split()[2] == "0":
            return shown


def test_retransmits_are_what_the_wire_dropped(traffic: ConnectionMaps) -> None:
    with lossy_wire(0.005, drop_each(40)) as wire:
        shown = send_over(wire, 12_000_000)
        dropped = wire.dropped
        found = Healths(traffic, 5001)
        found.wait_for(lambda: found.there.closed == found.here.closed == 1)
    assert dropped > 150
    assert abs(found.there.retransmits - dropped) <= max(0.01 * dropped, 2)
    assert found.here.retransmits == 0
    assert found.there.transmit_payload_bytes == found.here.receive_payload_bytes == 12_000_000
    total = re.search(r"retrans:\d+/(\d+)", shown)
    assert total is not None
    assert found.there.retransmits == int(total[1])


def test_the_round_trip_time_is_that_of_ss(traffic: ConnectionMaps) -> None:
    delay, port = 0.01, 5001
    with (
        lossy_wire(delay) as wire,
        wire.right.call(lambda: socket.create_server((RIGHT, port))) as listener,
        wire.left.call(lambda: socket.create_connection((RIGHT, port))) as client,
        listener.accept()[0] as served,
    ):
        for number in range(20):
            if number == 19:  # what follows has the last sample alone, which `ss` shows
                earlier = Healths(traffic, port).take().there
            client.sendall(b"x" * 1000)
            served.recv(1000, socket.MSG_WAITALL)
            served.send(b"y")
            client.recv(1)
        shown = show_acknowledged(wire, port)
        found = Healths(traffic, port).take().there
    rtt, least = (float(re.search(rf"\b{name}:([\d.]+)", shown)[1]) for name in ("rtt", "minrtt"))  # type: ignore[index]
    assert earlier.rtt_samples >= 19
    assert found.rtt_samples == 1
    assert found.rtt_sum_us / found.rtt_samples / 1000 == pytest.approx(rtt, rel=0.05)
    assert found.rtt_min_us / 1000 == pytest.approx(least, rel=0.05)
    assert found.rtt_min_us >= 2 * delay * 1e6
    assert earlier.opening_us >= 2 * delay * 1e6


@contextmanager
def serve_multipath(netns: Namespace) -> Iterator[tuple[int, socket.socket, socket.socket]]:
    """Return the port of a server, and both ends of an MPTCP connection."""
    with ExitStack() as stack:
        listener, client = (
            stack.enter_context(
                netns.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP))
            )
            for _ in range(2)
        )
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())
        served = stack.enter_context(listener.accept()[0])
        yield listener.getsockname()[1], client, served


def test_a_subflow_of_mptcp_has_the_health_of_its_connection(
    netns: Namespace, traffic: ConnectionMaps
) -> None:
    if not Path("/proc/sys/net/mptcp/enabled").exists():
        pytest.skip("this kernel has no MPTCP")
    with serve_multipath(netns) as (port, client, served):
        found = Healths(traffic, port)
        assert client.getsockopt(SOL_MPTCP, MPTCP_INFO, 64), "it fell back to TCP"
        client.sendall(b"x" * 10_000)
        assert len(served.recv(10_000, socket.MSG_WAITALL)) == 10_000
        served.sendall(b"y" * 500)
        assert len(client.recv(500, socket.MSG_WAITALL)) == 500
        client.shutdown(socket.SHUT_WR)
        assert served.recv(1) == b""
        served.close()
        assert client.recv(1) == b""
    found.wait_for(lambda: found.here.closed == found.there.closed == 1)
    assert (found.there.opened, found.here.accepted) == (1, 1)
    assert (found.there.transmit_payload_bytes, found.there.receive_payload_bytes) == (10_000, 500)
    assert (found.here.receive_payload_bytes, found.here.transmit_payload_bytes) == (10_000, 500)
    assert found.there.rtt_samples
    assert found.there.retransmits == found.here.retransmits == 0

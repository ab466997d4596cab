"""What other processes and control groups move, compared with what their peers counted."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.bpf import control_group, require_bpf
from support.namespaces import Namespace

import hogpipe
from hogpipe.linux.bpf.obstacles import BpfUnavailableError, Obstacle
from hogpipe.linux.procfs import Procfs
from hogpipe.measuring import packet_meter
from hogpipe.measuring.scope import TreeScope
from hogpipe.measuring.socket_meter import SocketMeter
from hogpipe.measuring.watch import Watch

SEND = """
import os, socket, sys
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for line in sys.stdin:
    who, port, size = line.split()
    if who == "self" or os.fork() == 0:
        one.sendto(b"x" * int(size), ("127.0.0.1", int(port)))
        if who == "child":
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(
                b"y" * int(size), ("127.0.0.1", int(port)))
            os._exit(0)
    print(flush=True)
"""


class Sender:
    """A process that sends datagrams, and the peer that counts them."""

    def __init__(self, *prefix: str) -> None:
        self.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.peer.bind(("127.0.0.1", 0))
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-c", SEND],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def send(self, size: int, who: str = "self") -> int:
        """Send a datagram; a child sends two, the first with its parent's socket."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{who} {self.peer.getsockname()[1]} {size}\n")
        self.process.stdin.flush()
        self.process.stdout.readline()
        return sum(len(self.peer.recv(1 << 16)) for _ in range(1 if who == "self" else 2))

    def end(self) -> None:
        self.process.communicate()
        self.peer.close()


@contextmanager
def sending(*prefix: str) -> Iterator[Sender]:
    require_bpf()
    sender = Sender(*prefix)
    try:
        yield sender
    finally:
        sender.end()


def test_a_process_and_its_children_count_and_no_other() -> None:
    with sending() as sender, sending() as other:
        sender.send(1)
        with hogpipe.watch(sender.process) as watch:
            got = sender.send(100) + sender.send(30, "child")
            other.send(5000)
            traffic = watch.read()
        assert traffic.totals.transmit_payload_bytes == got == 160
        assert {(one.address, one.protocol) for one in traffic.peers} == {("127.0.0.1", "udp")}
        assert traffic.is_running


def test_without_children_only_the_process_counts() -> None:
    with sending() as sender:
        with hogpipe.watch(sender.process.pid, children=False) as watch:
            sender.send(100)
            sender.send(30, "child")
        # What a child sends with a socket of its parent is the parent's.
        assert watch.totals.transmit_payload_bytes == 130


def test_a_process_that_ends_meanwhile_stays_measured() -> None:
    with sending() as sender:
        with hogpipe.watch(sender.process) as watch:
            sender.send(100)
            assert watch.read().is_running
            sender.process.communicate()
        assert watch.totals.transmit_payload_bytes == 100
        assert not watch.traffic.is_running


def test_a_process_that_has_ended_or_not_begun_cannot_be_watched(root: None) -> None:
    del root
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(ProcessLookupError), hogpipe.watch(process):
        pass

    class NotStarted:
        pid = None

    with pytest.raises(ProcessLookupError, match="not been started"), hogpipe.watch(NotStarted()):
        pass


def test_a_thread_and_a_number_that_is_no_pid_are_no_processes(root: None) -> None:
    del root
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        for number in (thread.native_id, 2**40):
            assert number is not None
            with pytest.raises(ProcessLookupError, match=f"with the pid {number}"):
                hogpipe.watch(number).__enter__()
    finally:
        end.set()
        thread.join()


class BrokenMeter:
    """A meter whose readings fail."""

    is_closed = False

    def read(self) -> hogpipe.Traffic:
        raise hogpipe.CaptureError("broken")

    def restart(self) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True


def test_what_the_block_raises_goes_before_a_reading_that_fails() -> None:
    meter = BrokenMeter()
    with pytest.raises(ValueError, match="its own"), Watch(lambda: meter):
        raise ValueError("its own")
    assert meter.is_closed
    with pytest.raises(hogpipe.CaptureError, match="broken"), Watch(lambda: meter):
        pass


async def test_another_entry_leaves_the_measurement_as_it_is() -> None:
    meter = BrokenMeter()
    watch = Watch(lambda: meter)
    await watch.__aenter__()
    with pytest.raises(RuntimeError, match="entered once"):
        await watch.__aenter__()
    assert not meter.is_closed


def test_why_packets_are_captured_instead_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_find_scope: object) -> None:
        raise BpfUnavailableError(Obstacle.PRIVILEGES, "eBPF: not permitted")

    monkeypatch.setattr("hogpipe.measuring.watch._open_socket_meter", refuse)
    monkeypatch.setattr(packet_meter, "PacketMeter", lambda _scope: BrokenMeter())
    caplog.set_level("INFO", "hogpipe")
    hogpipe.watch(os.getpid(), children=False).__enter__()
    assert "packets are captured instead: eBPF: not permitted" in caplog.text


def test_a_reading_in_another_thread_after_the_end_is_an_error() -> None:
    require_bpf()
    meter = SocketMeter(TreeScope(os.getpid(), Procfs(Path("/proc")), children=False))
    meter.close()
    with pytest.raises(hogpipe.CaptureError, match="is over"):
        meter.read()
    meter.close()


def test_a_control_group_counts_with_those_below_it() -> None:
    require_bpf()
    join = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"']
    with control_group() as group:
        with sending(*join, str(group)) as sender, sending() as other:
            sender.send(1)
            other_path = f"{group.name}/../{group.name}/"
            with hogpipe.watch(group) as watch, hogpipe.watch(other_path) as same:
                got = sender.send(100) + sender.send(30, "child")
                other.send(5000)
            assert watch.totals.transmit_payload_bytes == got == 160
            assert same.totals == watch.totals
        with hogpipe.watch(group) as empty:
            pass
        assert not empty.traffic.is_running


def test_a_control_group_that_is_removed_meanwhile_counts() -> None:
    require_bpf()
    join = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"']
    with control_group() as group:
        inner = group / "inner"
        inner.mkdir()
        with hogpipe.watch(group) as watch:
            with sending(*join, str(inner)) as sender:
                sender.send(100)
            inner.rmdir()
            assert watch.read().totals.transmit_payload_bytes == 100


def test_a_control_group_that_does_not_exist_cannot_be_watched() -> None:
    require_bpf()
    with (
        pytest.raises(FileNotFoundError, match="no control group /missing"),
        hogpipe.watch(Path("/missing")),
    ):
        pass


def test_a_process_in_another_network_namespace_counts(netns: Namespace) -> None:
    require_bpf()
    program = netns.enter(sys.executable, "-c", SERVE_AND_ANSWER)
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        address = "127.0.0.1", int(process.stdout.readline())
        with hogpipe.watch(process) as watch, netns.call(lambda: connect(address)) as client:
            client.sendall(b"x" * 12_345)
            got = len(client.recv(7000, socket.MSG_WAITALL))
            traffic = watch.read()
        process.communicate()
    assert traffic.totals.receive_payload_bytes == 12_345
    assert traffic.totals.transmit_payload_bytes == got == 6789
    (peer,) = traffic.peers
    assert (peer.address, peer.local_port) == address


SERVE_AND_ANSWER = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
served, _ = listener.accept()
served.recv(12345, socket.MSG_WAITALL)
served.sendall(b"y" * 6789)
served.shutdown(socket.SHUT_WR)
sys.stdin.read()
"""


def connect(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address)


def test_rates_are_those_since_the_last_reading() -> None:
    with sending() as sender, hogpipe.watch(sender.process) as watch:
        sender.send(50_000)
        assert watch.read().rates.transmit_bytes > 0
        assert watch.read().rates == hogpipe.Rates()
        watch.restart()
        assert watch.read().totals == hogpipe.Totals()


def test_captured_packets_have_the_same_bytes_without_payload() -> None:
    with sending() as sender:
        sender.send(1)
        port = sender.peer.getsockname()[1]
        with hogpipe.watch(sender.process, source="pcap") as watch:
            sender.send(1000)
            sender.send(2000)
    traffic = watch.traffic
    (peer,) = traffic.peers
    assert traffic.source == "pcap"
    assert (traffic.totals.transmit_bytes, traffic.totals.transmit_packets) == (3056, 2)
    assert (peer.address, peer.protocol) == ("127.0.0.1", "udp")
    # Both ports are ephemeral, so that either may be taken for that of the service.
    assert peer.port == port or peer.local_port
    assert traffic.totals.transmit_payload_bytes is None

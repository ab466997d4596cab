"""Each packet is counted once, while epochs change and all CPUs transmit."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from support.bpf import require_bpf
from support.namespaces import Namespace
from support.running import wait_until

from hogpipe.linux.bpf.programs import attach_traffic_programs
from hogpipe.linux.bpf.traffic_maps import TrafficMaps
from hogpipe.linux.bpf.traffic_rows import Rows, decode_rows, join_rows

UDP = 17
EPOCHS, SENDERS = 40, 4
# Child processes that send datagrams from a socket of their own and from a shared one, to receivers
# that they share, and use a TCP connection, until their input ends. Then each prints how many
# datagrams it sent. All sockets stay open until the parent process ends.
TALKERS = f"""
import os, select, socket
HOST, PAYLOAD = "127.0.0.1", b"x" * 72
def make_datagrams():
    end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    end.bind((HOST, 0))
    return end
shared, receivers = make_datagrams(), [make_datagrams() for _ in range(16)]
here, held = os.pipe()
for _ in range({SENDERS}):
    if os.fork():
        continue
    os.close(held)
    senders, sent = [shared, make_datagrams()], 0
    with socket.create_server((HOST, 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    while not select.select([0], [], [], 0)[0]:
        for receiver in receivers:
            for sender in senders:
                sender.sendto(PAYLOAD, receiver.getsockname())
                sent += 1
        near.sendall(PAYLOAD)
        far.sendall(far.recv(1000))
        near.recv(1000)
        if sent == 2 * len(receivers):
            os.write(1, b"ready\\n")
    os.write(1, b"%d %d\\n" % (os.getpid(), sent))
    os.read(here, 1)
    os._exit(0)
os.wait()
"""


@contextmanager
def counting(max_flows: int) -> Iterator[TrafficMaps]:
    require_bpf()
    maps = TrafficMaps(attach_traffic_programs(max_flows=max_flows), max_flows)
    try:
        yield maps
    finally:
        maps.close()


@contextmanager
def talking(where: Namespace) -> Iterator["subprocess.Popen[str]"]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with where.popen(sys.executable, "-c", TALKERS, **pipes) as process:
        try:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(SENDERS)] == ["ready\n"] * SENDERS
            yield process
        finally:
            process.kill()


def stop(process: "subprocess.Popen[str]") -> dict[int, int]:
    """Return how many datagrams each process sent, by pid; the parent sent none."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    lines = [process.stdout.readline().split() for _ in range(SENDERS)]
    return {process.pid: 0} | {int(pid): int(sent) for pid, sent in lines}


def take_epoch(traffic: TrafficMaps) -> Rows:
    traffic.begin_epoch()
    connections = traffic.take_connections().rows
    return join_rows(connections, traffic.take_other_flows(), traffic.take_overflow())


@pytest.mark.parametrize("max_flows", [4096, 8])
def test_packets_over_loopback_are_counted_once_as_transmitted_and_once_as_received(
    netns: Namespace, max_flows: int
) -> None:
    with counting(max_flows) as traffic, talking(netns) as process:
        epochs = [take_epoch(traffic) for _ in range(EPOCHS)]
        sent = stop(process)

        def counted() -> Rows:
            rows = join_rows(*epochs)
            return rows[np.isin(rows["pid"], [*sent])]

        def is_conserved() -> bool:
            """True as soon as the last ACKs have been received."""
            epochs.append(take_epoch(traffic))
            counts = counted()["counts"].sum(axis=0)
            return counts[:2].tolist() == counts[2:].tolist()

        wait_until(is_conserved)
        assert traffic.read_losses().packets == 0
        assert counted()["counts"].sum(axis=0)[1] > sum(sent.values()) > 0
        if max_flows > len(epochs):
            datagrams = [one for one in decode_rows(counted()) if one.endpoints.protocol == UDP]
            assert sum(one.counts.transmit_packets for one in datagrams) == sum(sent.values())

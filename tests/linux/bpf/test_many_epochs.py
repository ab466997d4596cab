"""What the kernel counts while turns change and all CPUs are at work: each packet, and once."""

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
from hogpipe.linux.bpf.traffic_rows import Entries, describe, join

UDP = 17
TURNS, SENDERS = 40, 4
# Processes that send datagrams from a socket of their own and from one that they share, to sockets
# that all of them send to, and talk over a connection, until their input ends. Each tells then how
# many datagrams it sent. All sockets are there until the first process is gone.
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
    tables = TrafficMaps(attach_traffic_programs(max_flows=max_flows), max_flows)
    try:
        yield tables
    finally:
        tables.close()


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
    """Return how many datagrams each process sent; the first one, which has receivers, none."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    lines = [process.stdout.readline().split() for _ in range(SENDERS)]
    return {process.pid: 0} | {int(pid): int(sent) for pid, sent in lines}


def take_turn(traffic: TrafficMaps) -> Entries:
    traffic.take_turns()
    connections, _ = traffic.connections()
    return join(connections, traffic.exchanges(), traffic.overflow())


@pytest.mark.parametrize("max_flows", [4096, 8])
def test_what_passes_over_loopback_is_told_once_as_sent_and_once_as_received(
    netns: Namespace, max_flows: int
) -> None:
    with counting(max_flows) as traffic, talking(netns) as process:
        turns = [take_turn(traffic) for _ in range(TURNS)]
        sent = stop(process)

        def told() -> Entries:
            entries = join(*turns)
            return entries[np.isin(entries["pid"], [*sent])]

        def is_conserved() -> bool:
            """It is when the last ACKs have passed."""
            turns.append(take_turn(traffic))
            counts = told()["counts"].sum(axis=0)
            return counts[:2].tolist() == counts[2:].tolist()

        wait_until(is_conserved)
        assert traffic.losses().packets == 0
        assert told()["counts"].sum(axis=0)[1] > sum(sent.values()) > 0
        if max_flows > len(turns):
            datagrams = [one for one in describe(told()) if one.ends.protocol == UDP]
            assert sum(one.counts.transmit_packets for one in datagrams) == sum(sent.values())

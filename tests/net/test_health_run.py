"""`hogpipe run` on packets, with the ledger: the health of the connections that it captures.

One run in the namespace `left` of a wire with known losses; this process is all owners. The records
are compared with what the wire dropped, what `ss -ti` shows and what the peers exchanged.
"""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.bpf import require_bpf
from support.lossy_wire import RIGHT, LossyWire, drop_each, lossy_wire
from support.namespaces import Namespace, require
from support.running import (
    assert_conserved,
    inhabitant,
    read_records,
    running,
    stats_of,
    traffic_of,
    wait_until,
    write_config,
)

from hogpipe.model import TcpHealth, join_health
from hogpipe.records.tcp_health import parse_tcp

DELAY, DROPPED_EACH = 0.005, 60
UPLOAD, DOWNLOAD, STREAM, SHORT, REFUSED, UNREAD = 5001, 5002, 5003, 5004, 9, 5006
SENT = 3_000_000
RTT_OFFSET = 68  # of struct tcp_info, include/uapi/linux/tcp.h
CONNECTIONS = 20
READY = {"pcap": ["network namespaces at captured"], "ebpf": []}
CONFIGURATION = """
[capture]
interfaces = ["wire0"]
[attribution]
ledger = "on"
[aggregation]
interval = 0.4
group_by = ["process", "flow"]
[[sinks]]
type = "jsonl"
path = "records.jsonl"
"""


class Truth(NamedTuple):
    """What is known of the traffic without hogpipe."""

    dropped: int
    streamed: int
    shown: str
    """What `ss -ti` showed of the upload before it closed."""
    records: list[dict[str, Any]]


def receive(one: socket.socket) -> int:
    size = 0
    while data := one.recv(65536):
        size += len(data)
    return size


def connect(wire: LossyWire, port: int) -> tuple[socket.socket, socket.socket]:
    """Return the ends of a connection from left to right."""
    with wire.right.call(lambda: socket.create_server((RIGHT, port))) as listener:
        client = wire.left.call(lambda: socket.create_connection((RIGHT, port)))
        return client, listener.accept()[0]


def transfer(wire: LossyWire, port: int, *, upload: bool) -> tuple[str, int]:
    """Move SENT bytes over one connection; return what `ss -ti` shows at the left end.

    And the smoothed round-trip time of the end that sent, in microseconds, as it ended.
    """
    client, served = connect(wire, port)
    with client, served:
        sender, receiver = (client, served) if upload else (served, client)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)  # no queue overflows
        received: list[int] = []
        thread = threading.Thread(target=lambda: received.append(receive(receiver)))
        thread.start()
        sender.sendall(b"x" * SENT)
        command = wire.left.command("ss", "-Hti", "dst", f"{RIGHT}:{port}")
        shown = "unacked"
        while "unacked" in shown or (upload and shown.split()[2] != "0"):
            shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        sender.shutdown(socket.SHUT_WR)
        thread.join()
        receiver.close()
        sender.recv(1)
        info = sender.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, RTT_OFFSET + 4)
    assert received == [SENT]
    return shown, int.from_bytes(info[RTT_OFFSET:], sys.byteorder)


def stream(wire: LossyWire, seconds: float) -> int:
    """Receive for some time without transmitting; return the bytes."""
    client, served = connect(wire, STREAM)
    with client, served:
        total, ends = 0, time.monotonic() + seconds
        while time.monotonic() < ends:
            served.sendall(b"x" * 1000)
            total += len(client.recv(1000, socket.MSG_WAITALL))
            time.sleep(0.02)
        return total


def open_and_close(wire: LossyWire) -> None:
    for _ in range(CONNECTIONS):
        client, served = connect(wire, SHORT)
        with client, served:
            client.sendall(b"x" * 10)
            served.recv(10)
            served.sendall(b"y" * 20)
            client.recv(20)
            client.close()
            served.recv(1)
        with wire.left.call(socket.socket) as refused, pytest.raises(ConnectionRefusedError):
            refused.connect((RIGHT, REFUSED))


def reset(wire: LossyWire) -> None:
    """Close the right end with an unread byte, and an attempt before its answer."""
    client, served = connect(wire, UNREAD)
    with client, served:
        client.sendall(b"abc")
        wait_until(lambda: len(served.recv(3, socket.MSG_PEEK)) == 3)
        served.close()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with wire.left.call(socket.socket) as attempt:
        attempt.setblocking(False)
        with pytest.raises(BlockingIOError):
            attempt.connect((RIGHT, UNREAD))


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    require_bpf()
    require("ip", "ss")
    folder = tmp_path_factory.mktemp("health")
    config = write_config(folder, CONFIGURATION)
    with lossy_wire(DELAY, drop_each(DROPPED_EACH)) as wire:
        words = wire.left.enter(sys.executable, "-m", "hogpipe", "-v", "run", config)
        with running(None, *words) as run:
            run.wait_for_each("owners come from the ledger", "capturing on wire0")
            shown, _ = transfer(wire, UPLOAD, upload=True)
            dropped = wire.dropped
            transfer(wire, DOWNLOAD, upload=False)
            streamed = stream(wire, 1.2)
            open_and_close(wire)
            reset(wire)
            path = folder / "records.jsonl"
            wait_until(lambda: '"abandoned"' in path.read_text())
            assert run.end() == 0, run.errors
        return Truth(dropped, streamed, shown, read_records(folder / "records.jsonl"))


def list_healths(records: list[dict[str, Any]], end: str, port: int) -> list[TcpHealth]:
    """Return the health in each window of this process's connections with this port at an end."""
    return [
        health
        for record in traffic_of(records)
        if record["network"].get(end, {}).get("port") == port
        and record.get("process", {}).get("pid") == os.getpid()
        and (health := parse_tcp(record["network"])) is not None
    ]


def sum_healths(records: list[dict[str, Any]], end: str, port: int) -> TcpHealth:
    return reduce(join_health, list_healths(records, end, port), None) or TcpHealth()


def test_retransmits_and_round_trips_are_those_of_the_wire(truth: Truth) -> None:
    found = sum_healths(truth.records, "peer", UPLOAD)
    assert truth.dropped > 20
    assert abs(found.retransmits - truth.dropped) <= max(0.01 * truth.dropped, 2)
    total = re.search(r"retrans:\d+/(\d+)", truth.shown)
    assert total is not None
    assert found.retransmits == int(total[1])
    assert found.transmit_payload_bytes == SENT
    assert (found.opened, found.closed, found.reset) == (1, 1, 0)
    least = re.search(r"\bminrtt:([\d.]+)", truth.shown)
    assert least is not None
    assert found.rtt_min_us / 1000 == pytest.approx(float(least[1]), rel=0.05)
    assert found.rtt_min_us >= 2 * DELAY * 1e6


def test_what_is_received_counts_once_whatever_is_lost(truth: Truth) -> None:
    found = sum_healths(truth.records, "peer", DOWNLOAD)
    assert (found.receive_payload_bytes, found.transmit_payload_bytes) == (SENT, 0)


def test_what_is_received_without_a_transmission_counts_in_its_windows(truth: Truth) -> None:
    windows = list_healths(truth.records, "peer", STREAM)
    received = [one.receive_payload_bytes for one in windows]
    assert sum(received) == truth.streamed
    assert sum(size > 0 for size in received) >= 3
    assert max(received) < 0.8 * truth.streamed


def test_each_connection_counts_once(truth: Truth) -> None:
    found, refused = (
        sum_healths(truth.records, "peer", SHORT),
        sum_healths(truth.records, "peer", REFUSED),
    )
    assert (found.opened, found.closed, found.accepted) == (CONNECTIONS, CONNECTIONS, 0)
    assert found.transmit_payload_bytes == 10 * CONNECTIONS
    assert found.receive_payload_bytes == 20 * CONNECTIONS
    assert found.opening_us >= CONNECTIONS * 2 * DELAY * 1e6
    assert found.rtt_sum_us >= found.rtt_samples * 2 * DELAY * 1e6
    assert refused == TcpHealth(refused=CONNECTIONS)


def test_resets_and_abandoned_attempts_are_distinguished(truth: Truth) -> None:
    found = sum_healths(truth.records, "peer", UNREAD)
    assert (found.opened, found.closed, found.reset, found.abandoned) == (1, 1, 1, 1)
    assert found.transmit_payload_bytes == 3


def test_nothing_was_lost(truth: Truth) -> None:
    assert_conserved(truth.records)
    assert all(one["capture"]["health_lost"] == 0 for one in stats_of(truth.records))


@pytest.mark.parametrize("source", ["pcap", "ebpf"])
def test_both_sides_of_a_container_have_the_health_of_their_ends(
    container_veth: tuple[Namespace, Namespace], tmp_path: Path, source: str
) -> None:
    require_bpf()
    host, container = container_veth
    config = write_config(tmp_path, CONFIGURATION.replace("wire0", "left"))
    options = ("--set", f"capture.source={source}")
    words = host.enter(sys.executable, "-m", "hogpipe", "-v", "run", config, *options)
    with inhabitant(container), running(None, *words) as run:
        run.wait_for_each("owners come from", *READY[source])
        with host.call(lambda: socket.create_server(("10.77.0.1", SHORT))) as listener:
            for _ in range(CONNECTIONS):
                with container.call(lambda: socket.create_connection(("10.77.0.1", SHORT))) as one:
                    served, _ = listener.accept()
                    one.sendall(b"x" * 10)
                    served.recv(10, socket.MSG_WAITALL)
                    served.sendall(b"y" * 20)
                    one.recv(20, socket.MSG_WAITALL)
                    served.close()
        assert run.end() == 0, run.errors
    records = traffic_of(read_records(tmp_path / "records.jsonl"))
    connecting = sum_healths(records, "peer", SHORT)
    accepting = sum_healths(records, "local", SHORT)
    assert (connecting.opened, connecting.accepted) == (CONNECTIONS, 0)
    assert (accepting.opened, accepting.accepted) == (0, CONNECTIONS)
    for one, transmitted, received in ((connecting, 10, 20), (accepting, 20, 10)):
        assert one.closed == CONNECTIONS
        assert one.transmit_payload_bytes == transmitted * CONNECTIONS
        assert one.receive_payload_bytes == received * CONNECTIONS


def test_without_the_ledger_health_is_that_of_the_last_moment_of_a_connection(
    tmp_path: Path,
) -> None:
    require("ip", "ss")
    config = write_config(tmp_path, CONFIGURATION)
    options = ("--set", "attribution.ledger=off")
    with lossy_wire(DELAY, drop_each(DROPPED_EACH)) as wire:
        older = connect(wire, STREAM)
        older[0].sendall(b"x" * 1000)
        words = wire.left.enter(sys.executable, "-m", "hogpipe", "-v", "run", config, *options)
        with running(None, *words) as run:
            run.wait_for("capturing on wire0")
            shown, smoothed = transfer(wire, UPLOAD, upload=True)
            for one in reversed(older):
                one.close()
            path = tmp_path / "records.jsonl"
            wait_until(lambda: path.exists() and '"rtt"' in path.read_text())
            assert run.end() == 0, run.errors
    records = read_records(tmp_path / "records.jsonl")
    found = sum_healths(records, "peer", UPLOAD)
    total = re.search(r"retrans:\d+/(\d+)", shown)
    least = re.search(r"\bminrtt:([\d.]+)", shown)
    assert total is not None
    assert least is not None
    assert found.retransmits == int(total[1])
    assert (found.transmit_payload_bytes, found.receive_payload_bytes) == (SENT, 0)
    assert found.rtt_samples == 1
    assert found.rtt_sum_us == pytest.approx(smoothed, rel=0.05)
    assert found.rtt_min_us / 1000 == pytest.approx(float(least[1]), rel=0.05)
    # What is not known is absent: beginnings and ends, and what is of before the run.
    assert all("connections" not in one["network"].get("tcp", {}) for one in traffic_of(records))
    assert list_healths(records, "peer", STREAM) == []

"""`hogpipe capture` on a live interface: the packets of one program, and of no other."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.bpf import require_bpf
from support.captures import Captured, read_pcap
from support.disks import tiny_disk
from support.namespaces import Namespace, namespace, require
from support.packet_files import PacketFileContent, parse_packet_file, read_packet_file
from support.running import Running, hogpipe, running, tcpdump, wait_until

EXCHANGES = 60
MANY_BYTES = 6 * EXCHANGES * 250  # of some ten packets for each connection
# Echoes on TCP until it is killed.
SERVER = """
import socket
with socket.create_server(("127.0.0.1", 7550), backlog=1024) as listener:
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(connection.recv(100))
"""
# For each line of its input, so many short connections; prints their local ports.
CLIENT = """
import json, os, socket, sys
print(os.getpid(), flush=True)
for line in sys.stdin:
    ports = []
    for _ in range(int(line)):
        with socket.create_connection(("127.0.0.1", 7550)) as end:
            end.sendall(b"x" * 20)
            ports.append(end.getsockname()[1])
            assert end.recv(100) and not end.recv(100)
    print(json.dumps(ports), flush=True)
"""
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}


def read_line(run: Running) -> Any:
    assert run.process.stdout is not None
    return json.loads(run.process.stdout.readline())


def ask(run: Running, count: int = EXCHANGES) -> None:
    assert run.process.stdin is not None
    run.process.stdin.write(f"{count}\n")
    run.process.stdin.flush()


class Site(NamedTuple):
    """Two clients of one server, on the loopback interface of a namespace."""

    netns: Namespace
    chosen: Running
    other: Running
    chosen_pid: int

    def exchange(self) -> list[int]:
        """Let both talk at the same time; return the ports of the chosen one."""
        ask(self.chosen)
        ask(self.other)
        read_line(self.other)
        return read_line(self.chosen)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    require("ip", "tcpdump")
    require_bpf()
    with ExitStack() as stack:
        netns = stack.enter_context(namespace())
        server = stack.enter_context(running(netns, sys.executable, "-Sc", SERVER, **PIPES))
        assert server.process.stdout is not None
        assert server.process.stdout.readline() == "ready\n"
        clients = [
            stack.enter_context(running(netns, sys.executable, "-Sc", CLIENT, **PIPES))
            for _ in range(2)
        ]
        pids = [read_line(one) for one in clients]
        yield Site(netns, *clients, pids[0])


class Capture(NamedTuple):
    """One capture of the chosen client, beside tcpdump."""

    content: PacketFileContent
    truth: Sequence[Captured]
    """All frames on the interface."""
    ports: set[int]
    errors: str


@pytest.fixture(scope="module")
def capture(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Capture:
    folder = tmp_path_factory.mktemp("capture")
    path, truth = folder / "chosen.pcapng", folder / "truth.pcap"
    words = ("-v", "capture", "-i", "lo", "-w", path, "--only", f"pid:{site.chosen_pid}")
    with tcpdump(site.netns, "lo", truth) as dump, hogpipe(site.netns, *words) as run:
        run.wait_for("owners come from the ledger")
        ports = site.exchange()
        assert run.end(signal.SIGTERM) == 0, run.errors
        assert dump.end() == 0
    return Capture(read_packet_file(path), read_pcap(truth), {*ports}, "".join(run.errors))


def ports_of(frame: bytes) -> set[int]:
    return {int.from_bytes(frame[34:36]), int.from_bytes(frame[36:38])}


def test_exactly_the_packets_of_the_program_are_written_in_order(capture: Capture) -> None:
    expected = [frame for _, frame, _ in capture.truth if ports_of(frame) & capture.ports]
    assert [one.frame for one in capture.content.packets] == expected
    assert len(expected) > 8 * EXCHANGES
    assert len(capture.truth) > 1.5 * len(expected)


def test_each_packet_has_the_process_and_the_quality(capture: Capture, site: Site) -> None:
    assert {one.pid for one in capture.content.packets} == {site.chosen_pid}
    for packet in capture.content.packets:
        assert len(packet.comments) == 2
        assert any(f"pid {site.chosen_pid}," in text for text in packet.comments)
        assert all(text.endswith("; exact") for text in packet.comments)


def test_the_statistics_are_those_of_the_interface(capture: Capture) -> None:
    [options] = capture.content.statistics
    numbers = [int.from_bytes(options[code][0], "little") for code in (4, 7, 8)]
    captured, dropped, delivered = numbers
    assert captured + dropped >= len(capture.truth)
    assert delivered == len(capture.content.packets)
    others = captured - delivered
    assert (
        options[1][0]
        .decode()
        .startswith(f"{captured} captured, {delivered} matched, {others} not matched, 0 dropped, ")
    )
    assert f"{delivered} packets written of" in capture.errors


def test_a_moved_file_is_reopened_and_a_killed_capture_leaves_a_readable_file(
    site: Site, tmp_path: Path
) -> None:
    path, moved = tmp_path / "trace.pcapng", tmp_path / "moved.pcapng"
    only = f"pid:{site.chosen_pid}"
    with hogpipe(site.netns, "capture", "-i", "lo", "-w", path, "--only", only) as run:
        run.wait_for("owners come from the ledger")
        site.exchange()
        wait_until(lambda: path.stat().st_size > MANY_BYTES)
        path.rename(moved)
        run.process.send_signal(signal.SIGHUP)
        wait_until(path.exists)
        site.exchange()
        wait_until(lambda: path.stat().st_size > MANY_BYTES)
        assert run.end(signal.SIGKILL) == -signal.SIGKILL
    assert len(read_packet_file(moved).statistics) == 1
    left = read_packet_file(path, may_be_cut=True)  # by the kill alone
    assert left.statistics == []
    assert len(left.packets) > 4 * EXCHANGES
    assert {one.pid for one in left.packets} == {site.chosen_pid}


def test_a_full_disk_ends_the_capture_with_whole_packets(site: Site, tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk") as disk:
        path = disk / "trace.pcapng"
        with hogpipe(site.netns, "capture", "-i", "lo", "-w", path) as run:
            run.wait_for("owners come from the ledger")
            site.exchange()
            assert run.wait() == 1
        content = read_packet_file(path)
    assert len(content.packets) > EXCHANGES
    assert f"No space left on device; {len(content.packets)} packets were written" in "".join(
        run.errors
    )


def test_a_reader_of_the_standard_output_that_goes_ends_the_capture_quietly(site: Site) -> None:
    words = ("capture", "-i", "lo", "-w", "-", "--only", f"pid:{site.chosen_pid}")
    with hogpipe(site.netns, *words, **PIPES) as run:
        run.wait_for("owners come from the ledger")
        output = run.process.stdout
        assert output is not None
        first = output.buffer.read1(1 << 16)
        assert parse_packet_file(first).sections == 1
        site.exchange()
        assert output.buffer.read1(1 << 16)
        output.close()
        site.exchange()
        assert run.wait() == 0
    assert not any("rror" in line for line in run.errors)

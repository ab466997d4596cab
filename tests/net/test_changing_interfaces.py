"""Interfaces that come, go and change during a run: each packet counts once, where it passed."""

import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.measured_run import TAIL, configure
from support.namespaces import Namespace, namespace
from support.running import PATIENCE, Running, assert_conserved, hogpipe, read_records
from support.wire import sum_by_interface

IP_AND_UDP = 28
BURST = 500


def join(left: Namespace, right: Namespace, name: str, address: str, far: str) -> None:
    """Join the two by one more veth, `name` on the left."""
    far_name = f"{name}-far"
    left.batch(
        f"link add {name} type veth peer name {far_name} netns {right.name}",
        f"address add {address} dev {name}",
        f"link set {name} up",
    )
    right.batch(f"address add {far} dev {far_name}", f"link set {far_name} up")


class Traffic:
    """Datagrams from `left` to `right` by a socket of this process, and what was transmitted."""

    def __init__(self, left: Namespace, right: Namespace, run: Running, path: Path) -> None:
        self.left = left
        self.right = right
        self._run = run
        self._path = path
        self._socket = left.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._socket.bind(("", 0))
        self.transmitted: Counter[str] = Counter()
        """Bytes by the interface that they passed."""

    def send(self, through: str, to: str = "10.77.0.2", packets: int = 20, size: int = 100) -> None:
        for _number in range(packets):
            self._socket.sendto(bytes(size), (to, 9))
        self.transmitted[through] += packets * (size + IP_AND_UDP)

    def deliver(self, through: str, to: str = "10.77.0.2", packets: int = 20) -> None:
        """Send, and wait until all that was transmitted is in records."""
        self.send(through, to, packets)
        self.wait()

    def send_uncaptured(self, to: str) -> None:
        self._socket.sendto(bytes(100), (to, 9))

    def wait(self) -> None:
        """Wait until all that was transmitted is in records."""
        patience = time.monotonic() + PATIENCE
        while self.recorded() != self.transmitted and time.monotonic() < patience:
            time.sleep(0.05)
        assert self.recorded() == self.transmitted

    def recorded(self) -> dict[str, int]:
        """Return the transmitted bytes in records, by interface."""
        text = self._path.read_text() if self._path.exists() else ""
        records = [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]
        moved = sum_by_interface(records, os.getpid())
        return {name: one.transmit_bytes for name, one in moved.items()}

    def wait_for_capture(self, name: str) -> None:
        """Wait until hogpipe has opened the interface, once for each call."""
        self._run.wait_for(f"capturing on {name}$")

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop hogpipe, so that it reads nothing meanwhile."""
        self._run.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._run.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self._socket.close()


@contextmanager
def traffic(veth: tuple[Namespace, Namespace], folder: Path, *interfaces: str) -> Iterator[Traffic]:
    """Run hogpipe on the left; at the end all that was transmitted is in records, exactly once."""
    left, right = veth
    path = folder / "records.jsonl"
    with hogpipe(left, "-v", "run", configure(folder, *interfaces or ("auto",))) as run:
        passing = Traffic(left, right, run, path)
        try:
            passing.wait_for_capture("left")
            yield passing
            passing.wait()
        finally:
            passing.close()
        assert run.end() == 0
    assert_conserved(read_records(path))
    assert passing.recorded() == passing.transmitted


@pytest.fixture
def silent(veth: tuple[Namespace, Namespace]) -> tuple[Namespace, Namespace]:
    """Two joined namespaces without traffic of their own: no IPv6."""
    for where in veth:
        where.call(lambda: Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1"))
    return veth


def test_an_interface_that_appears_and_vanishes_is_followed(
    silent: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    with traffic(silent, tmp_path) as passing:
        passing.send("left")
        for _time in range(2):
            join(*silent, "late", "10.80.0.1/24", "10.80.0.2/24")
            passing.wait_for_capture("late")
            passing.deliver("late", "10.80.0.2")
            passing.left.ip("link", "delete", "late")
        passing.send("left")


def test_packets_right_before_an_interface_vanishes_are_counted(
    silent: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    with traffic(silent, tmp_path) as passing:
        join(*silent, "late", "10.80.0.1/24", "10.80.0.2/24")
        passing.wait_for_capture("late")
        passing.deliver("late", "10.80.0.2", packets=1)
        with passing.stopped():
            passing.send("late", "10.80.0.2", packets=BURST)
            passing.left.ip("link", "delete", "late")


def test_packets_right_before_an_interface_goes_down_are_counted(
    silent: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    with traffic(silent, tmp_path) as passing:
        passing.deliver("left", packets=1)
        with passing.stopped():
            passing.send("left", packets=BURST)
            passing.left.ip("link", "set", "left", "down")
        passing.wait()
        passing.left.ip("link", "set", "left", "up")
        passing.wait_for_capture("left")
        passing.send("left")


def test_packets_right_before_an_interface_is_down_for_a_moment_are_counted(
    silent: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    with traffic(silent, tmp_path) as passing:
        passing.deliver("left", packets=1)
        with passing.stopped():
            passing.send("left", packets=BURST)
            passing.left.batch("link set left down", "link set left up")
        passing.wait_for_capture("left")
        passing.send("left")


def test_a_renamed_interface_is_recorded_by_its_new_name(
    silent: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    with traffic(silent, tmp_path) as passing:
        passing.deliver("left")
        passing.left.ip("link", "set", "left", "name", "renamed")
        time.sleep(TAIL)
        passing.deliver("renamed")
        passing.left.ip("link", "set", "renamed", "name", "left")
        time.sleep(TAIL)
        passing.send("left")


def test_an_address_that_is_added_during_a_run_is_local_from_then_on(
    silent: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    silent[1].ip("route", "add", "10.78.0.1", "via", "10.77.0.1")
    with traffic(silent, tmp_path) as passing:
        passing.send("left")
        passing.left.batch(
            "address add 10.78.0.1/32 dev left",
            "route change 10.77.0.0/24 dev left src 10.78.0.1",
        )
        time.sleep(TAIL)
        passing.deliver("left")
        passing.left.batch(
            "route change 10.77.0.0/24 dev left src 10.77.0.1",
            "address delete 10.78.0.1/32 dev left",
        )
        passing.send("left")


def test_an_interface_that_moves_to_another_namespace_is_gone_until_it_comes_back(
    silent: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    with namespace() as away, traffic(silent, tmp_path) as passing:
        join(*silent, "moved", "10.80.0.1/24", "10.80.0.2/24")
        passing.wait_for_capture("moved")
        passing.deliver("moved", "10.80.0.2")
        passing.left.ip("link", "set", "moved", "netns", away.name)
        passing.send("left")
        away.ip("link", "set", "moved", "netns", passing.left.name)
        passing.left.batch("address add 10.80.0.1/24 dev moved", "link set moved up")
        passing.wait_for_capture("moved")
        passing.send("moved", "10.80.0.2")


def test_a_glob_selects_the_interfaces_that_match_it_by_now_and_no_others(
    silent: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    with traffic(silent, tmp_path, "le*", "late-[0-9]") as passing:
        for name, third in (("late-1", 80), ("later", 81)):
            join(*silent, name, f"10.{third}.0.1/24", f"10.{third}.0.2/24")
        passing.wait_for_capture("late-1")
        passing.deliver("late-1", "10.80.0.2")
        passing.left.ip("link", "set", "later", "name", "late-2")
        passing.wait_for_capture("late-2")
        passing.deliver("late-2", "10.81.0.2")
        passing.left.ip("link", "set", "late-2", "name", "later")
        time.sleep(TAIL)
        passing.send_uncaptured("10.81.0.2")
        passing.send("left")


def test_a_port_that_leaves_its_bridge_is_captured_itself(
    silent: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    with traffic(silent, tmp_path) as passing:
        passing.deliver("left")
        passing.left.batch(
            "link add name br0 type bridge",
            "address flush dev left",
            "address add 10.77.0.1/24 dev br0",
            "link set left master br0",
            "link set br0 up",
        )
        passing.wait_for_capture("br0")
        passing.deliver("br0")
        passing.left.batch("link delete br0", "address add 10.77.0.1/24 dev left")
        time.sleep(TAIL)
        passing.send("left")

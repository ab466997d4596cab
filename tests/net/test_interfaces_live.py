"""Stacks of interfaces, and interfaces that change during a run: each packet counts once."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.namespaces import Namespace, namespace, require
from support.running import (
    PATIENCE,
    Running,
    assert_conserved,
    hogpipe,
    peer,
    read_records,
    running,
    tcpdump,
    traffic_of,
    write_config,
)
from support.wire import Moved, count, read_packets

SIZE = "200000"
TAIL = 0.3  # seconds for the last packets to pass before the captures are ended
IP_AND_UDP = 28
Stack = Callable[[Namespace, Namespace], None]
HOST = socket.inet_aton("10.77.0.1")


def config(folder: Path, *interfaces: str) -> Path:
    return write_config(
        folder,
        f"""
        [capture]
        interfaces = {json.dumps(interfaces)}
        [aggregation]
        interval = 0.1
        group_by = ["process", "interface"]
        [[sinks]]
        type = "jsonl"
        path = "records.jsonl"
        """,
    )


def told_of(records: Sequence[dict[str, Any]], pid: int | None) -> dict[str, Moved]:
    """Return what a process, or what has none, is told to have moved, by interface."""
    totals: dict[str, Counter[str]] = {}
    for record in traffic_of(records):
        if record.get("process", {}).get("pid") == pid:
            total = totals.setdefault(record["network"]["interface"]["name"], Counter())
            for way in ("transmit", "receive"):
                for unit in ("bytes", "packets"):
                    total[way + unit] += record["network"]["io"][way][unit]
    keys = ("transmitbytes", "transmitpackets", "receivebytes", "receivepackets")
    return {name: Moved(*[total[key] for key in keys]) for name, total in totals.items()}


def summed(told: dict[str, Moved]) -> Moved:
    return Moved(*[sum(moved[at] for moved in told.values()) for at in range(4)])


def join(left: Namespace, right: Namespace, name: str, address: str, far: str) -> None:
    """Join the two by one more veth, `name` on the left."""
    far_name = f"{name}-far"
    left.batch(
        f"link add {name} type veth peer name {far_name} netns {right.name}",
        f"address add {address} dev {name}",
        f"link set {name} up",
    )
    right.batch(f"address add {far} dev {far_name}", f"link set {far_name} up")


def bridge(left: Namespace, _right: Namespace) -> None:
    left.batch(
        "link add name br0 type bridge",
        "link set left master br0",
        "link set br0 up",
        "address flush dev left",
        "address add 10.77.0.1/24 dev br0",
        "address add fd77::1/64 dev br0 nodad",
    )


def bridge_and_free_end(left: Namespace, right: Namespace) -> None:
    bridge(left, right)
    left.batch(
        "address flush dev br0",
        "link add port type veth peer name end",
        "link set port master br0 up",
        "address add 10.77.0.1/24 dev end",
        "address add fd77::1/64 dev end nodad",
        "link set end up",
    )


def two_bridges(left: Namespace, right: Namespace) -> None:
    bridge(left, right)
    left.batch(
        "address flush dev br0",
        "link add port type veth peer name other",
        "link add name br1 type bridge",
        "link set port master br0 up",
        "link set other master br1 up",
        "link set br1 up",
        "address add 10.77.0.1/24 dev br1",
        "address add fd77::1/64 dev br1 nodad",
    )


def macvlan(left: Namespace, _right: Namespace) -> None:
    left.batch(
        "address flush dev left",
        "link add link left name upon type macvlan mode bridge",
        "address add 10.77.0.1/24 dev upon",
        "address add fd77::1/64 dev upon nodad",
        "link set upon up",
    )


def vxlan(left: Namespace, right: Namespace) -> None:
    for where, own, far in ((left, "left", "2"), (right, "right", "1")):
        near = {"1": "2", "2": "1"}[far]
        where.batch(
            f"address flush dev {own}",
            f"address add 10.70.0.{near}/24 dev {own}",
            f"link add tunnel type vxlan id 7 dev {own} remote 10.70.0.{far} dstport 4789",
            f"address add 10.77.0.{near}/24 dev tunnel",
            f"address add fd77::{near}/64 dev tunnel nodad",
            "link set tunnel up",
        )


@pytest.mark.parametrize(
    ("stack", "counted_on", "far"),
    [
        (bridge, ("br0",), "right"),
        # This host answers on any link for each of its addresses, so that either may get a packet.
        (bridge_and_free_end, ("br0", "end"), "right"),
        (two_bridges, ("br0", "br1"), "right"),
        (macvlan, ("left",), "right"),
        (vxlan, ("tunnel",), "tunnel"),
    ],
)
def test_auto_counts_what_a_process_moves_through_a_stack_exactly_once(
    veth: tuple[Namespace, Namespace],
    tmp_path: Path,
    stack: Any,
    counted_on: tuple[str, ...],
    far: str,
) -> None:
    require("ip", "tcpdump")
    left, right = veth
    stack(left, right)
    time.sleep(TAIL)  # for a bridge's ports to forward
    with (
        tcpdump(right, far, tmp_path / "wire.pcap") as dump,
        hogpipe(left, "-v", "run", config(tmp_path, "auto")) as run,
    ):
        run.wait_for_each(*(f"capturing on {name}$" for name in counted_on))
        with (
            peer(left, "serve", "10.77.0.1", "fd77::1") as server,
            peer(right, "talk", SIZE, json.dumps(server["servers"])),
        ):
            time.sleep(TAIL)
        time.sleep(TAIL)
        assert run.end() == 0
        dump.end()
    records = read_records(tmp_path / "records.jsonl")
    truth = count(list(read_packets(tmp_path / "wire.pcap")), server["ports"])
    assert truth.transmit_bytes > 2 * int(SIZE)
    told = told_of(records, server["pid"])
    assert set(told) <= set(counted_on)
    assert summed(told) == truth
    assert_conserved(records)
    if stack is vxlan:  # what is around those packets is the kernel's own: no process has it
        around = told_of(records, None)["left"]
        assert around.transmit_bytes > truth.transmit_bytes
        assert around.receive_bytes > truth.receive_bytes


def test_stacked_interfaces_that_are_named_each_count_what_passes_them_under_their_name(
    veth: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    require("ip", "tcpdump")
    left, right = veth
    bridge(left, right)
    time.sleep(TAIL)
    with (
        tcpdump(left, "br0", tmp_path / "wire.pcap") as dump,
        hogpipe(left, "-v", "run", config(tmp_path, "br*", "left")) as run,
    ):
        run.wait_for_each("capturing on br0$", "capturing on left$")
        with (
            peer(left, "serve", "10.77.0.1", "fd77::1") as server,
            peer(right, "talk", SIZE, json.dumps(server["servers"])),
        ):
            time.sleep(TAIL)
        time.sleep(TAIL)
        assert run.end() == 0
        dump.end()
    records = read_records(tmp_path / "records.jsonl")
    truth = count(list(read_packets(tmp_path / "wire.pcap")), server["ports"])
    told = told_of(records, server["pid"])
    assert told.keys() == {"br0", "left"}
    assert told["br0"] == truth
    # A port may show what the bridge has cut into segments, or the other way round: not its bytes
    # but its payload is the same, so that only the whole is compared.
    assert told["left"].transmit_bytes >= truth.transmit_bytes
    assert_conserved(records)


BROADCAST = """
import socket, sys
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
for number in range(20):
    made.sendto(bytes(100), ("10.77.0.255", 9))
print("sent", file=sys.stderr, flush=True)
sys.stdin.read()
"""


def add_guest(host: Namespace, guest: Namespace, name: str, address: str) -> None:
    """Join a namespace to the bridge of `host`, by a port `name`."""
    host.batch(
        f"link add {name} type veth peer name inside netns {guest.name}",
        f"link set {name} master br0 up",
    )
    guest.batch(f"address add {address} dev inside", "link set inside up")


def test_this_host_and_two_guests_on_one_bridge_are_each_told_what_they_moved_exactly_once(
    veth: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    require("ip", "tcpdump")
    left, right = veth
    bridge(left, right)
    with (
        namespace() as one,
        namespace() as two,
        tcpdump(right, "right", tmp_path / "right.pcap") as right_dump,
    ):
        add_guest(left, one, "one", "10.77.0.3/24")
        add_guest(left, two, "two", "10.77.0.4/24")
        time.sleep(TAIL)
        with (
            tcpdump(one, "inside", tmp_path / "one.pcap") as one_dump,
            tcpdump(two, "inside", tmp_path / "two.pcap") as two_dump,
            peer(left, "serve", "10.77.0.1") as host,
            peer(one, "serve", "10.77.0.3") as guest,
            running(two, "sleep", "60"),  # an empty guest is known only when it is sought
            hogpipe(left, "-v", "run", config(tmp_path, "auto")) as run,
        ):
            run.wait_for_each(*(f"capturing on {name}$" for name in ("br0", "one", "two")))
            with (
                peer(right, "talk", SIZE, json.dumps(host["servers"])),
                peer(right, "talk", SIZE, json.dumps(guest["servers"])),
                peer(one, "talk", SIZE, json.dumps(host["servers"])) as to_host,
                peer(two, "talk", SIZE, json.dumps(guest["servers"])) as to_guest,
                running(
                    left, sys.executable, "-c", BROADCAST, stdin=subprocess.PIPE
                ) as broadcaster,
            ):
                broadcaster.wait_for("sent")
                time.sleep(2 * TAIL)
            time.sleep(TAIL)
            assert run.end() == 0
            for dump in (right_dump, one_dump, two_dump):
                dump.end()
    packets = {
        name: list(read_packets(tmp_path / f"{name}.pcap")) for name in ("right", "one", "two")
    }
    of_host = [
        packet
        for packet in packets["right"] + packets["one"]
        if HOST in {packet.source, packet.destination}
    ]
    records = read_records(tmp_path / "records.jsonl")
    for process, seen, interface in (
        (host, of_host, "br0"),
        (guest, packets["one"], "one"),
        (to_host, packets["one"], "one"),
        (to_guest, packets["two"], "two"),
    ):
        truth = count(seen, process["ports"])
        assert truth.transmit_bytes > int(SIZE)
        assert told_of(records, process["pid"]) == {interface: truth}
    # Each of them passed the bridge and all three of its ports.
    broadcasts = 20 * (100 + IP_AND_UDP)
    assert told_of(records, broadcaster.process.pid) == {"br0": Moved(broadcasts, 20, 0, 0)}
    assert_conserved(records)


class Traffic:
    """Datagrams from the left to the right by sockets of this process, and what was sent."""

    def __init__(self, left: Namespace, run: Running, path: Path) -> None:
        self._left = left
        self._run = run
        self._path = path
        self._socket = left.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._socket.bind(("", 0))
        self.sent: Counter[str] = Counter()

    def send(self, through: str, to: str, packets: int = 20, size: int = 100) -> None:
        for _number in range(packets):
            self._socket.sendto(bytes(size), (to, 9))
        self.sent[through] += packets * (size + IP_AND_UDP)

    def send_unseen(self, to: str) -> None:
        self._socket.sendto(bytes(100), (to, 9))

    def wait(self) -> None:
        """Wait until all that was sent is told."""
        patience = time.monotonic() + PATIENCE
        while self.told() != self.sent and time.monotonic() < patience:
            time.sleep(0.05)
        assert self.told() == self.sent

    def told(self) -> dict[str, int]:
        text = self._path.read_text() if self._path.exists() else ""
        records = [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]
        return {name: moved.transmit_bytes for name, moved in told_of(records, os.getpid()).items()}

    def captures(self, name: str) -> None:
        self._run.wait_for(f"capturing on {name}$")

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Let hogpipe read nothing meanwhile."""
        self._run.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._run.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self._socket.close()


@contextmanager
def traffic(left: Namespace, folder: Path, *interfaces: str) -> Iterator[Traffic]:
    """Run hogpipe on the left; at the end all that was sent must be told, exactly once."""
    path = folder / "records.jsonl"
    with hogpipe(left, "-v", "run", config(folder, *interfaces)) as run:
        made = Traffic(left, run, path)
        try:
            made.captures("left")
            yield made
            made.wait()
        finally:
            made.close()
        assert run.end() == 0
    records = read_records(path)
    assert_conserved(records)
    assert made.told() == made.sent


@pytest.fixture
def silent(veth: tuple[Namespace, Namespace]) -> tuple[Namespace, Namespace]:
    """Two joined namespaces, with no answer to datagrams that nobody waits for."""
    left, right = veth
    for where in veth:
        where.call(lambda: Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1"))
    return left, right


def test_an_interface_that_appears_and_vanishes_is_followed(
    silent: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    left, right = silent
    with traffic(left, tmp_path, "auto") as passing:
        passing.send("left", "10.77.0.2")
        for _time in range(2):
            join(left, right, "late", "10.80.0.1/24", "10.80.0.2/24")
            passing.captures("late")
            passing.send("late", "10.80.0.2")
            passing.wait()
            left.ip("link", "delete", "late")
        passing.send("left", "10.77.0.2")


def test_what_passes_right_before_an_interface_vanishes_is_counted(
    silent: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    left, right = silent
    with traffic(left, tmp_path, "auto") as passing:
        join(left, right, "late", "10.80.0.1/24", "10.80.0.2/24")
        passing.captures("late")
        passing.send("late", "10.80.0.2", packets=1)
        passing.wait()
        with passing.stalled():
            passing.send("late", "10.80.0.2", packets=500)
            left.ip("link", "delete", "late")


def test_what_passes_right_before_an_interface_goes_down_is_counted(
    silent: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    left, _right = silent
    with traffic(left, tmp_path, "auto") as passing:
        passing.send("left", "10.77.0.2", packets=1)
        passing.wait()
        with passing.stalled():
            passing.send("left", "10.77.0.2", packets=500)
            left.ip("link", "set", "left", "down")
        passing.wait()
        left.ip("link", "set", "left", "up")
        passing.captures("left")
        passing.send("left", "10.77.0.2")


def test_what_passes_right_before_an_interface_is_down_for_a_moment_is_counted(
    silent: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    left, _right = silent
    with traffic(left, tmp_path, "auto") as passing:
        passing.send("left", "10.77.0.2", packets=1)
        passing.wait()
        with passing.stalled():
            passing.send("left", "10.77.0.2", packets=500)
            left.batch("link set left down", "link set left up")
        passing.captures("left")
        passing.send("left", "10.77.0.2")


def test_an_interface_that_is_renamed_is_told_by_its_new_name(
    silent: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    left, _right = silent
    with traffic(left, tmp_path, "auto") as passing:
        passing.send("left", "10.77.0.2")
        passing.wait()
        left.ip("link", "set", "left", "name", "renamed")
        time.sleep(TAIL)
        passing.send("renamed", "10.77.0.2")
        passing.wait()
        left.ip("link", "set", "renamed", "name", "left")
        time.sleep(TAIL)
        passing.send("left", "10.77.0.2")


def test_an_address_that_is_given_during_a_run_is_local_from_then_on(
    silent: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    left, right = silent
    right.ip("route", "add", "10.78.0.1", "via", "10.77.0.1")
    with traffic(left, tmp_path, "auto") as passing:
        passing.send("left", "10.77.0.2")
        left.batch(
            "address add 10.78.0.1/32 dev left",
            "route change 10.77.0.0/24 dev left src 10.78.0.1",
        )
        time.sleep(TAIL)
        passing.send("left", "10.77.0.2")
        passing.wait()
        left.batch(
            "route change 10.77.0.0/24 dev left src 10.77.0.1",
            "address delete 10.78.0.1/32 dev left",
        )
        passing.send("left", "10.77.0.2")


def test_an_interface_that_moves_to_another_namespace_is_gone_until_it_comes_back(
    silent: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    left, right = silent
    with namespace() as away, traffic(left, tmp_path, "auto") as passing:
        join(left, right, "moved", "10.80.0.1/24", "10.80.0.2/24")
        passing.captures("moved")
        passing.send("moved", "10.80.0.2")
        passing.wait()
        left.ip("link", "set", "moved", "netns", away.name)
        passing.send("left", "10.77.0.2")
        away.ip("link", "set", "moved", "netns", left.name)
        left.batch("address add 10.80.0.1/24 dev moved", "link set moved up")
        passing.captures("moved")
        passing.send("moved", "10.80.0.2")


def test_a_glob_takes_what_comes_to_fit_it_and_nothing_else(
    silent: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    left, right = silent
    with traffic(left, tmp_path, "le*", "late-[0-9]") as passing:
        for name, third in (("late-1", 80), ("later", 81)):
            join(left, right, name, f"10.{third}.0.1/24", f"10.{third}.0.2/24")
        passing.captures("late-1")
        passing.send("late-1", "10.80.0.2")
        passing.wait()
        left.ip("link", "set", "later", "name", "late-2")
        passing.captures("late-2")
        passing.send("late-2", "10.81.0.2")
        passing.wait()
        left.ip("link", "set", "late-2", "name", "later")
        time.sleep(TAIL)
        passing.send_unseen("10.81.0.2")
        passing.send("left", "10.77.0.2")


def test_a_port_that_leaves_its_bridge_is_counted_by_itself(
    silent: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    left, _right = silent
    with traffic(left, tmp_path, "auto") as passing:
        passing.send("left", "10.77.0.2")
        passing.wait()
        left.batch(
            "link add name br0 type bridge",
            "address flush dev left",
            "address add 10.77.0.1/24 dev br0",
            "link set left master br0",
            "link set br0 up",
        )
        passing.captures("br0")
        passing.send("br0", "10.77.0.2")
        passing.wait()
        left.batch("link delete br0", "address add 10.77.0.1/24 dev left")
        time.sleep(TAIL)
        passing.send("left", "10.77.0.2")

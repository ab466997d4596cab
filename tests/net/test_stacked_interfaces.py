"""Stacks of interfaces (bridges, macvlans, tunnels, container ports): each packet counts once."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.measured_run import SIZE, TAIL, measured_run, read_conserved_records, talk
from support.namespaces import Namespace, namespace, require
from support.running import inhabitant, peer, running, tcpdump
from support.wire import Moved, count, read_packets, sum_by_interface, sum_moved

IP_AND_UDP = 28
HOST = b"\x0a\x4d\0\1"  # 10.77.0.1
Stack = Callable[[Namespace, Namespace], None]

pytestmark = pytest.mark.usefixtures("_programs")


@pytest.fixture
def _programs() -> None:
    require("ip", "tcpdump")


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
        # The host answers on any link for each of its addresses: either may get a packet.
        (bridge_and_free_end, ("br0", "end"), "right"),
        (two_bridges, ("br0", "br1"), "right"),
        (macvlan, ("left",), "right"),
        (vxlan, ("tunnel",), "tunnel"),
    ],
)
def test_auto_counts_what_a_process_moves_through_a_stack_exactly_once(
    veth: tuple[Namespace, Namespace],
    tmp_path: Path,
    stack: Stack,
    counted_on: tuple[str, ...],
    far: str,
) -> None:
    left, right = veth
    stack(left, right)
    time.sleep(TAIL)  # until the ports of a bridge forward
    captured = (*counted_on, "left") if stack is vxlan else counted_on
    with (
        measured_run(tmp_path, left, ["auto"], [(right, far)], captures=captured),
        peer(left, "serve", "10.77.0.1", "fd77::1") as server,
        talk(right, server),
    ):
        time.sleep(TAIL)
    records = read_conserved_records(tmp_path)
    truth = count(list(read_packets(tmp_path / f"{far}.pcap")), server["ports"])
    assert truth.transmit_bytes > 2 * SIZE
    assert set(sum_by_interface(records, server["pid"])) <= set(counted_on)
    assert sum_moved(records, server["pid"]) == truth
    if stack is vxlan:  # the kernel transmits the packets around those: they have no process
        around = sum_by_interface(records, None)["left"]
        assert around.transmit_bytes > truth.transmit_bytes
        assert around.receive_bytes > truth.receive_bytes


def test_stacked_interfaces_selected_by_name_each_count_what_passes_them(
    veth: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    left, right = veth
    bridge(left, right)
    time.sleep(TAIL)
    with (
        measured_run(tmp_path, left, ["br*", "left"], [(left, "br0")], captures=("br0", "left")),
        peer(left, "serve", "10.77.0.1", "fd77::1") as server,
        talk(right, server),
    ):
        time.sleep(TAIL)
    records = read_conserved_records(tmp_path)
    truth = count(list(read_packets(tmp_path / "br0.pcap")), server["ports"])
    moved = sum_by_interface(records, server["pid"])
    assert moved.keys() == {"br0", "left"}
    assert moved["br0"] == truth
    # A port may show segments of a packet that the bridge shows whole, or the other way round: the
    # payload is the same and the headers are not, so only a lower bound holds.
    assert moved["left"].transmit_bytes >= truth.transmit_bytes


BROADCAST = """
import socket, sys
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
for number in range(20):
    made.sendto(bytes(100), ("10.77.0.255", 9))
print("sent", file=sys.stderr, flush=True)
sys.stdin.read()
"""


def plug_in(host: Namespace, container: Namespace, port: str, address: str) -> None:
    """Join a container to the bridge of `host`."""
    host.batch(
        f"link add {port} type veth peer name inside netns {container.name}",
        f"link set {port} master br0 up",
    )
    container.batch(f"address add {address} dev inside", "link set inside up")


def test_a_host_and_two_containers_on_one_bridge_each_count_exactly_once(
    veth: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    left, right = veth
    bridge(left, right)
    with namespace() as one, namespace() as two:
        plug_in(left, one, "one", "10.77.0.3/24")
        plug_in(left, two, "two", "10.77.0.4/24")
        time.sleep(TAIL)
        with (
            tcpdump(one, "inside", tmp_path / "one.pcap") as one_dump,
            tcpdump(two, "inside", tmp_path / "two.pcap") as two_dump,
            peer(left, "serve", "10.77.0.1") as host,
            peer(one, "serve", "10.77.0.3") as container,
            inhabitant(two),  # a namespace without a process is no container
            measured_run(
                tmp_path, left, ["auto"], [(right, "right")], captures=("br0", "one", "two")
            ),
        ):
            with (
                talk(right, host),
                talk(right, container),
                talk(one, host) as to_host,
                talk(two, container) as to_container,
                running(
                    left, sys.executable, "-c", BROADCAST, stdin=subprocess.PIPE
                ) as broadcaster,
            ):
                broadcaster.wait_for("sent")
                time.sleep(2 * TAIL)
            time.sleep(TAIL)
            for dump in (one_dump, two_dump):
                dump.end()
    packets = {
        name: list(read_packets(tmp_path / f"{name}.pcap")) for name in ("right", "one", "two")
    }
    of_host = [
        packet
        for packet in packets["right"] + packets["one"]
        if HOST in {packet.source, packet.destination}
    ]
    records = read_conserved_records(tmp_path)
    for process, captured, interface in (
        (host, of_host, "br0"),
        (container, packets["one"], "one"),
        (to_host, packets["one"], "one"),
        (to_container, packets["two"], "two"),
    ):
        truth = count(captured, process["ports"])
        assert truth.transmit_bytes > SIZE
        assert sum_by_interface(records, process["pid"]) == {interface: truth}
    # Each broadcast passed the bridge and all three of its ports.
    broadcasts = Moved(20 * (100 + IP_AND_UDP), 20, 0, 0)
    assert sum_by_interface(records, broadcaster.process.pid) == {"br0": broadcasts}

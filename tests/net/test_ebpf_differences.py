"""Where the source `ebpf` counts other packets than a capture of the same traffic, as documented.

Both sources run at the same time, on one end of a veth pair.
"""

import json
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.bpf import require_bpf
from support.namespaces import Namespace, pair, require
from support.running import read_records, running, traffic_of, write_config

# No other test uses these addresses: all sockets of the host are counted.
HERE, THERE, UNUSED, GROUP = "10.79.0.1", "10.79.0.2", "10.79.0.3", "239.79.0.1"
CONFIG = """
[capture]
source = "{source}"
{interfaces}
[attribution]
hold = 0.3
[aggregation]
interval = 0.5
group_by = ["process", "flow"]
[[sinks]]
type = "jsonl"
path = "records.jsonl"
"""
PAYLOAD = b"x" * 72
TAIL = 0.5

PORTS = range(5001, 5007)
TO_CLOSED, FROM_CLOSED, MULTICAST, RAW, LINK_LAYER, DROPPED = PORTS


class Side(NamedTuple):
    """Packets transmitted and received at HERE, and how many of both had an owner."""

    transmitted: int
    received: int
    owned: int


class Seen:
    """The packets in a source's records, by the flows of HERE."""

    def __init__(self, folder: Path) -> None:
        self._packets: Counter[tuple[str, int | str, str]] = Counter()
        for record in traffic_of(read_records(folder / "records.jsonl")):
            network = record["network"]
            if network.get("local", {}).get("address") not in {HERE, GROUP}:
                continue
            name = network["transport"], self._name(network["local"], network["peer"])
            for way, moved in network["io"].items():
                self._packets[*name, way] += moved["packets"]
                self._packets[*name, "owned"] += moved["packets"] if "process" in record else 0

    def of(self, transport: str, name: int | str) -> Side:
        """Return the packets of one of PORTS, or with a remote address."""
        ways = ("transmit", "receive", "owned")
        return Side(*(self._packets[transport, name, way] for way in ways))

    @staticmethod
    def _name(local: Mapping[str, Any], peer: Mapping[str, Any]) -> int | str:
        known = {local.get("port"), peer.get("port")} & {*PORTS}
        return next(iter(known), peer["address"])


def datagrams(where: Namespace) -> socket.socket:
    return where.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))


def raw(where: Namespace, protocol: int) -> socket.socket:
    return where.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol))


def ask_closed_ports(here: Namespace, there: Namespace) -> None:
    with datagrams(here) as end:
        end.sendto(PAYLOAD, (THERE, TO_CLOSED))
    with datagrams(there) as end:
        end.sendto(PAYLOAD, (HERE, FROM_CLOSED))
    for where, address in ((here, (THERE, TO_CLOSED)), (there, (HERE, FROM_CLOSED))):
        with where.call(socket.socket) as end, pytest.raises(ConnectionRefusedError):
            end.connect(address)


def send_to_a_group(here: Namespace, there: Namespace) -> None:
    with ExitStack() as stack:
        members = [stack.enter_context(datagrams(here)) for _ in range(2)]
        for member in members:
            member.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            member.bind(("", MULTICAST))
            group = socket.inet_aton(GROUP) + socket.inet_aton(HERE)
            member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        sender = stack.enter_context(datagrams(there))
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(THERE))
        sender.sendto(PAYLOAD, (GROUP, MULTICAST))
        assert [member.recv(100) for member in members] == [PAYLOAD] * 2


def let_raw_sockets_listen(here: Namespace, there: Namespace) -> None:
    with ExitStack() as stack:
        listeners = [stack.enter_context(raw(here, socket.IPPROTO_UDP)) for _ in range(2)]
        receiver = stack.enter_context(datagrams(here))
        receiver.bind((HERE, RAW))
        stack.enter_context(datagrams(there)).sendto(PAYLOAD, (HERE, RAW))
        assert [len(one.recv(200)) for one in (*listeners, receiver)] == [100, 100, 72]


def ping(where: Namespace, address: str) -> None:
    echo = bytes([8]) + bytes(7) + PAYLOAD
    where.call(lambda: Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 100000"))
    with where.call(
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    ) as end:
        end.sendto(echo, (address, 0))
        assert end.recv(200)


def send_at_link_layer(here: Namespace, there: Namespace) -> None:
    header = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 28 + len(PAYLOAD), 1, 0, 64, socket.IPPROTO_UDP, 0,
        socket.inet_aton(HERE), socket.inet_aton(THERE),
    )  # fmt: skip
    total = sum(struct.unpack(">10H", header))
    checksum = ~(total % 0xFFFF) & 0xFFFF
    header = header[:10] + struct.pack(">H", checksum) + header[12:]
    ports = struct.pack(">HHHH", LINK_LAYER, LINK_LAYER, 8 + len(PAYLOAD), 0)
    to, sender = (read_mac(where, name) for where, name in ((there, "right"), (here, "left")))
    with (
        datagrams(there) as receiver,
        here.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)) as end,
    ):
        receiver.bind((THERE, LINK_LAYER))
        end.bind(("left", 0))
        end.send(to + sender + b"\x08\x00" + header + ports + PAYLOAD)
        assert receiver.recv(100) == PAYLOAD


def read_mac(where: Namespace, name: str) -> bytes:
    (link,) = json.loads(where.ip("-json", "link", "show", name))
    return bytes.fromhex(link["address"].replace(":", ""))


def send_to_unused_address(here: Namespace) -> None:
    with datagrams(here) as end:
        end.sendto(PAYLOAD, (UNUSED, DROPPED))


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    require("ip")
    require_bpf()
    folders = {source: tmp_path_factory.mktemp(source) for source in ("pcap", "ebpf")}
    with pair([(f"{HERE}/24", f"{THERE}/24")]) as (here, there), ExitStack() as stack:
        for source, folder in folders.items():
            interfaces = 'interfaces = ["left"]' if source == "pcap" else ""
            text = CONFIG.format(source=source, interfaces=interfaces)
            words = (sys.executable, "-m", "hogpipe", "-v", "run", write_config(folder, text))
            run = stack.enter_context(running(None, *here.enter(*words)))
            run.wait_for("capturing on left" if source == "pcap" else "owners come from")
            stack.callback(run.end)
        ask_closed_ports(here, there)
        send_to_a_group(here, there)
        let_raw_sockets_listen(here, there)
        ping(there, HERE)
        send_at_link_layer(here, there)
        send_to_unused_address(here)
        time.sleep(TAIL)
    return {source: Seen(folder) for source, folder in folders.items()}


def test_packets_to_a_closed_port_are_counted_by_a_capture_alone(seen: dict[str, Seen]) -> None:
    assert seen["pcap"].of("udp", FROM_CLOSED) == Side(0, 1, 0)
    assert seen["ebpf"].of("udp", FROM_CLOSED) == Side(0, 0, 0)
    for source in seen.values():
        assert source.of("udp", TO_CLOSED) == Side(1, 0, 1)


def test_packets_that_the_kernel_answers_with_are_counted_without_those_that_it_answers(
    seen: dict[str, Seen],
) -> None:
    """Resets, errors and echo replies: the packets before them reached no socket."""
    assert seen["pcap"].of("tcp", FROM_CLOSED) == Side(1, 1, 0)
    assert seen["ebpf"].of("tcp", FROM_CLOSED) == Side(1, 0, 0)
    assert seen["pcap"].of("icmp", THERE) == Side(2, 2, 0)
    assert seen["ebpf"].of("icmp", THERE) == Side(2, 0, 0)
    for source in seen.values():
        assert source.of("tcp", TO_CLOSED) == Side(1, 1, 2)


def test_igmp_reports_are_counted_by_a_capture_alone(seen: dict[str, Seen]) -> None:
    assert seen["pcap"].of("2", "224.0.0.22").transmitted > 0
    assert seen["ebpf"].of("2", "224.0.0.22") == Side(0, 0, 0)


def test_a_packet_for_several_sockets_is_counted_at_each(seen: dict[str, Seen]) -> None:
    for port, sockets in ((MULTICAST, 2), (RAW, 3)):
        assert seen["pcap"].of("udp", port) == Side(0, 1, 1)
        assert seen["ebpf"].of("udp", port) == Side(0, sockets, sockets)


def test_frames_of_a_packet_socket_are_counted_by_both_with_their_sender(
    seen: dict[str, Seen],
) -> None:
    for source in seen.values():
        assert source.of("udp", LINK_LAYER) == Side(1, 0, 1)


def test_a_packet_that_leaves_a_socket_but_no_interface_is_counted_at_the_socket(
    seen: dict[str, Seen],
) -> None:
    """Its neighbour's MAC address cannot be resolved, so the kernel drops it after a while."""
    assert seen["pcap"].of("udp", DROPPED) == Side(0, 0, 0)
    assert seen["ebpf"].of("udp", DROPPED) == Side(1, 0, 1)

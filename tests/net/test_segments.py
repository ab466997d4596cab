"""Packets of several segments: the source `ebpf` counts what the cable carries, offload or not."""

import fcntl
import os
import socket
import struct
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from support.bpf import require_bpf
from support.captures import read_pcap
from support.namespaces import Namespace, pair, require
from support.offloads import segment_in_kernel
from support.running import read_records, running, tcpdump, traffic_of, write_config

CONFIG = """
[capture]
source = "ebpf"
[aggregation]
interval = 0.5
group_by = ["flow"]
[[sinks]]
type = "jsonl"
path = "records.jsonl"
"""
ADDRESSES = [("10.80.0.1/24", "10.80.0.2/24"), ("fd80::1/64", "fd80::2/64")]
MACHINE = "10.81.0.1"
LOCAL = {one.partition("/")[0] for ends in ADDRESSES for one in ends} | {MACHINE}
FAR = {socket.AF_INET: "10.80.0.2", socket.AF_INET6: "fd80::2"}
SEGMENT = 1000  # bytes of payload, of datagrams and of TCP segments
WRITES = [50_000] * 8 + [SEGMENT * 3 + 1, 1]
UDP_SEGMENT = 103  # include/uapi/linux/udp.h
TAIL = 0.5
# include/uapi/linux/if_tun.h, include/uapi/linux/udp.h
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR, _UDP_GRO = 0x400454CA, 0x1, 0x1000, 0x4000, 104
TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP


class Case(NamedTuple):
    """One transfer, by its port."""

    port: int
    kind: socket.SocketKind
    family: socket.AddressFamily
    offloaded: bool


CASES = [
    Case(7510 + number, kind, family, offloaded)
    for number, (offloaded, kind, family) in enumerate(
        (offloaded, kind, family)
        for offloaded in (True, False)
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
        for family in FAR
    )
]


class FromMachine(NamedTuple):
    """A packet of a virtual machine, which says how long its segments are."""

    port: int
    protocol: int
    segment: int

    SIZE = 3_001

    @property
    def headers(self) -> int:
        return 40 if self.protocol == TCP else 28

    def packet(self) -> bytes:
        """Return the packet behind its struct virtio_net_hdr."""
        addresses = socket.inet_aton("10.81.0.2") + socket.inet_aton(MACHINE)
        length = self.headers + self.SIZE
        ip = struct.pack(">BBHHHBBH", 0x45, 0, length, 1, 0, 64, self.protocol, 0) + addresses
        checksum = ~(sum(struct.unpack(">10H", ip)) % 0xFFFF) & 0xFFFF
        pseudo = (sum(struct.unpack(">4H", addresses)) + self.protocol + length - 20) % 0xFFFF
        if self.protocol == TCP:
            gso, at = 1, 16
            head = struct.pack(">HHIIBBHHH", 9, self.port, 1, 1, 0x50, 0x10, 512, pseudo, 0)
        else:
            gso, at = 5, 6
            head = struct.pack(">HHHH", 9, self.port, length - 20, pseudo)
        virtio = struct.pack("=BBHHHH", 1, gso, self.headers, self.segment, 20, at)
        return virtio + ip[:10] + struct.pack(">H", checksum) + ip[12:] + head + bytes(self.SIZE)


FROM_A_MACHINE = [
    FromMachine(7501, UDP, 1_000),
    FromMachine(7502, TCP, 1_000),
    FromMachine(7503, TCP, 1),
]


class Moved(NamedTuple):
    """Bytes and packets."""

    bytes: int
    packets: int


PORTS = {one.port for one in (*CASES, *FROM_A_MACHINE)}


def transfer(case: Case, near: Namespace, far: Namespace) -> None:
    """Write WRITES at one end and read them at the other."""
    is_stream = case.kind == socket.SOCK_STREAM
    with ExitStack() as stack:
        receiver = far.call(lambda: stack.enter_context(socket.socket(case.family, case.kind)))
        sender = near.call(lambda: stack.enter_context(socket.socket(case.family, case.kind)))
        receiver.bind((FAR[case.family], case.port))
        if is_stream:
            receiver.listen()
            sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
        else:
            sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SEGMENT)
        sender.connect((FAR[case.family], case.port))
        end = stack.enter_context(receiver.accept()[0]) if is_stream else receiver
        for size in WRITES:
            sender.sendall(bytes(size))
            while size > 0:
                size -= len(end.recv(1 << 17))  # noqa: PLW2901
        # The sender closes first, so that no segment meets a TIME_WAIT socket of the receiver.
        sender.close()
        assert not is_stream or end.recv(1) == b""


def deliver_from_a_machine(where: Namespace) -> None:
    """Deliver packets through a tun device, as a virtual machine does: without a segment count."""
    with ExitStack() as stack:
        tun = where.call(lambda: os.open("/dev/net/tun", os.O_RDWR))
        stack.callback(os.close, tun)
        flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", b"machine", flags))
        where.ip("address", "add", f"{MACHINE}/24", "dev", "machine")
        where.ip("link", "set", "machine", "up")
        for one in FROM_A_MACHINE:
            kind = socket.SOCK_STREAM if one.protocol == TCP else socket.SOCK_DGRAM
            end = where.call(lambda kind=kind: socket.socket(socket.AF_INET, kind))
            stack.enter_context(end).bind((MACHINE, one.port))
            if one.protocol == TCP:
                end.listen()
            else:
                end.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
            os.write(tun, one.packet())


def read_wire(path: Path) -> dict[int, Moved]:
    """Return what the cable carried to each port; packets of several segments are taken apart."""
    sums: Counter[int] = Counter()
    packets: Counter[int] = Counter()
    for one in read_pcap(path):
        ip = one.frame[14:]
        if one.frame[12:14] == b"\x08\x00":
            size, protocol, at = *struct.unpack_from(">H", ip, 2), ip[9], (ip[0] & 15) * 4
        elif one.frame[12:14] == b"\x86\xdd":
            size, protocol, at = 40 + struct.unpack_from(">H", ip, 4)[0], ip[6], 40
        else:
            continue
        if protocol not in {6, 17}:
            continue
        (port,) = struct.unpack_from(">H", ip, at + 2)
        header = at + ((ip[at + 12] >> 4) * 4 if protocol == 6 else 8)
        payload = SEGMENT - (header - at - 20 if protocol == 6 else 0)
        segments = max(1, -(-(size - header) // payload))
        sums[port] += size + (segments - 1) * header
        packets[port] += segments
    return {port: Moved(sums[port], packets[port]) for port in sums}


class Seen(NamedTuple):
    """What the cable carried, and what is recorded as transmitted and received, by port."""

    wire: dict[int, Moved]
    transmitted: dict[int, Moved]
    received: dict[int, Moved]
    longest: dict[bool, int]
    """The longest frame at the tap, with offload and without."""


def read_records_by_port(folder: Path, way: str, end: str) -> dict[int, Moved]:
    sums: dict[int, Moved] = {}
    for record in traffic_of(read_records(folder / "records.jsonl")):
        network = record["network"]
        if network.get("local", {}).get("address") not in LOCAL:
            continue
        if (port := network[end].get("port")) in PORTS:
            moved, before = network["io"][way], sums.get(port, Moved(0, 0))
            sums[port] = Moved(before.bytes + moved["bytes"], before.packets + moved["packets"])
    return sums


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    require("ip", "tcpdump")
    require_bpf()
    folder = tmp_path_factory.mktemp("segments")
    words = (sys.executable, "-m", "hogpipe", "-v", "run", write_config(folder, CONFIG))
    wires = {True: folder / "offloaded.pcap", False: folder / "segmented.pcap"}
    with pair(ADDRESSES) as (near, far), running(None, *near.enter(*words)) as run:
        run.wait_for("owners come from")
        for offloaded, path in wires.items():
            if not offloaded:
                segment_in_kernel(near, "left")
            with tcpdump(near, "left", path) as dump:
                for case in CASES:
                    if case.offloaded == offloaded:
                        transfer(case, near, far)
                time.sleep(TAIL)
                dump.end()
        deliver_from_a_machine(near)
        time.sleep(TAIL)
        assert run.end() == 0, run.errors
    return Seen(
        read_wire(wires[True]) | read_wire(wires[False]),
        read_records_by_port(folder, "transmit", "peer"),
        read_records_by_port(folder, "receive", "local"),
        {
            offloaded: max(one.length for one in read_pcap(path))
            for offloaded, path in wires.items()
        },
    )


def test_the_tap_shows_segments_only_where_the_card_does_not_segment(seen: Seen) -> None:
    assert seen.longest[True] > 10 * SEGMENT
    assert seen.longest[False] < 2 * SEGMENT


@pytest.mark.parametrize("case", CASES)
def test_each_segment_counts_with_its_headers(seen: Seen, case: Case) -> None:
    wire = seen.wire[case.port]
    assert wire.packets >= sum(WRITES) // SEGMENT
    assert seen.transmitted[case.port] == wire
    assert seen.received[case.port] == wire


@pytest.mark.parametrize("packet", FROM_A_MACHINE[:2])
def test_segments_that_were_not_counted_are_counted_by_their_size(
    seen: Seen, packet: FromMachine
) -> None:
    size = packet.SIZE + 4 * packet.headers
    assert seen.received[packet.port] == Moved(size, 4)


def test_a_size_of_segments_that_no_stack_uses_is_not_believed(seen: Seen) -> None:
    packet = FROM_A_MACHINE[2]
    assert seen.received[packet.port] == Moved(packet.SIZE + packet.headers, 1)

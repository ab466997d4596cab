"""What processes write to packet sockets, as the programs at interfaces see it."""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support.bpf import require_bpf
from support.namespaces import Namespace, namespace
from support.running import wait_until

from hogpipe.capture.live.link_selection import choose_transmitting
from hogpipe.linux.bpf.loader import AttachedPrograms
from hogpipe.linux.bpf.packet_hooks import ChooseLinks, PacketHooks, choose_all
from hogpipe.linux.bpf.programs import attach_ledger_programs, attach_traffic_programs
from hogpipe.linux.bpf.sender_map import PacketSender, PacketSenderMap
from hogpipe.linux.bpf.shapes import PACKET_SOCKET, RELEASED
from hogpipe.linux.bpf.traffic_maps import TrafficMaps
from hogpipe.linux.bpf.traffic_rows import TrafficRow, decode_rows, encode_endpoints

PORT, UDP, VLAN = 900, 17, 0x8100
HERE, THERE = bytes([10, 9, 0, 1]), bytes([10, 9, 0, 2])
ETHERNET = bytes(12)
ALL, IPV4, IPV6, ARP = 0x0003, 0x0800, 0x86DD, 0x0806


def ip4(size: int = 100, claimed: int | None = None, port: int = PORT) -> bytes:
    length = 28 + size if claimed is None else claimed
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, length, 1, 0, 64, UDP, 0, HERE, THERE)
    return head + struct.pack("!HHHH", port, 53, 8 + size, 0) + bytes(size)


def ip6(size: int = 100) -> bytes:
    ends = HERE.rjust(16, b"\xfd"), THERE.rjust(16, b"\xfd")
    head = struct.pack("!IHBB16s16s", 6 << 28, 8 + size, UDP, 64, *ends)
    return head + struct.pack("!HHHH", PORT, 53, 8 + size, 0) + bytes(size)


def send(where: Namespace, frame: bytes, interface: str = "lo") -> None:
    with where.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)) as end:
        end.bind((interface, 0))
        end.send(frame)


def framed(packet: bytes, kind: int, tags: int = 0) -> bytes:
    tag = struct.pack("!HH", VLAN, 5) * tags
    return ETHERNET + tag + struct.pack("!H", kind) + packet


@contextmanager
def counting(where: Namespace) -> Iterator[TrafficMaps]:
    require_bpf()
    programs = attach_traffic_programs(max_flows=8192)
    maps = TrafficMaps(programs, 8192)
    try:
        with hooked(where, programs, choose_transmitting):
            yield maps
    finally:
        maps.close()


@contextmanager
def hooked(
    where: Namespace, programs: AttachedPrograms, choose: ChooseLinks = choose_all
) -> Iterator[None]:
    if not programs.has_interface_program:
        pytest.skip("the kernel does not name the sender at an interface")
    hooks = where.call(lambda: PacketHooks(programs, choose))
    try:
        yield
    finally:
        hooks.close()


@pytest.fixture(scope="module")
def host() -> Iterator[tuple[Namespace, TrafficMaps]]:
    """A namespace whose packet sockets are counted, for all tests that change nothing else."""
    require_bpf()
    with namespace() as made, counting(made) as maps:
        yield made, maps


def take(maps: TrafficMaps, port: int = PORT) -> list[TrafficRow]:
    maps.begin_epoch()
    rows = decode_rows(maps.take_other_flows())
    return [one for one in rows if one.endpoints.local_port == port and one.counts.transmit_packets]


@pytest.mark.parametrize(
    ("frame", "size"),
    [
        (framed(ip4(), IPV4), 128),
        (framed(ip4(), IPV4) + bytes(18), 128),
        (framed(ip6(), IPV6), 148),
        (framed(ip4(), IPV4, tags=1), 128),
        (framed(ip4(), IPV4, tags=2), 128),
    ],
    ids=["ipv4", "padded", "ipv6", "vlan", "two tags"],
)
def test_a_packet_counts_its_ip_length_for_the_process_that_writes_it(
    host: tuple[Namespace, TrafficMaps], frame: bytes, size: int
) -> None:
    where, maps = host
    for _ in range(3):
        send(where, frame)
    rows = take(maps)
    assert {one.owner.pid for one in rows} == {os.getpid()}
    assert sum(one.counts.transmit_bytes for one in rows) == 3 * size
    assert sum(one.counts.transmit_packets for one in rows) == 3
    flags = {one.owner.flags & (PACKET_SOCKET | RELEASED) for one in rows}
    assert flags == {PACKET_SOCKET | RELEASED}
    assert take(maps) == []


@pytest.mark.parametrize(
    "frame",
    [
        framed(ip4(claimed=1000), IPV4),
        framed(ip4(claimed=19), IPV4),
        framed(ip4()[:10], IPV4),
        framed(bytes(28), ARP),
        ETHERNET + b"\x08",
    ],
    ids=["longer than its frame", "shorter than its header", "torn", "not IP", "no type"],
)
def test_what_a_capture_would_not_decode_counts_nothing(
    host: tuple[Namespace, TrafficMaps], frame: bytes
) -> None:
    where, maps = host
    with suppress(OSError):  # the kernel refuses some frames
        send(where, frame)
    maps.begin_epoch()
    assert not any(maps.take_other_flows()["flags"] & PACKET_SOCKET)


def test_each_of_two_processes_that_share_a_socket_has_what_it_sends(
    host: tuple[Namespace, TrafficMaps],
) -> None:
    where, maps = host
    with where.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)) as end:
        end.sendto(ip4(), ("lo", IPV4))
        pid = os.fork()
        if not pid:
            end.sendto(ip4(), ("lo", IPV4))
            end.sendto(ip4(), ("lo", IPV4))
            os._exit(0)
        os.waitpid(pid, 0)
        moved = {one.owner.pid: one.counts.transmit_packets for one in take(maps)}
        assert moved == {os.getpid(): 1, pid: 2}
        end.sendto(ip4(), ("lo", IPV4))  # the next epoch begins with nothing in its index
        assert [one.counts.transmit_packets for one in take(maps)] == [1]


def test_a_packet_counts_once_however_many_interfaces_it_passes(netns: Namespace) -> None:
    netns.batch(
        "link add port type veth peer name far", "link add bridge0 type bridge",
        "link set port master bridge0", "link set port up", "link set far up",
        "link set bridge0 up",
    )  # fmt: skip
    with counting(netns) as maps:
        for _ in range(3):
            send(netns, framed(ip4(), IPV4), "bridge0")
        assert sum(one.counts.transmit_packets for one in take(maps)) == 3


def test_interfaces_that_come_later_are_hooked(netns: Namespace) -> None:
    with counting(netns) as maps:

        def is_counted() -> bool:
            send(netns, framed(ip4(), IPV4), "late")
            return bool(take(maps))

        for _ in range(2):
            netns.ip("link", "add", "late", "type", "bridge")
            netns.ip("link", "set", "late", "up")
            wait_until(is_counted)
            netns.ip("link", "delete", "late")


def test_no_hook_is_left_once_they_are_closed_though_a_child_lives(netns: Namespace) -> None:
    require_bpf()
    programs = attach_traffic_programs(max_flows=8192)
    maps = TrafficMaps(programs, 8192)
    reader, writer = os.pipe()
    try:
        with hooked(netns, programs, choose_transmitting):
            pid = os.fork()
            if not pid:  # it has the descriptors of the hooks until the test ends
                os.close(writer)
                os.read(reader, 1)
                os._exit(0)
        send(netns, framed(ip4(), IPV4))
        assert take(maps) == []
    finally:
        os.close(writer)
        os.close(reader)
        os.waitpid(pid, 0)
        maps.close()


@contextmanager
def recording(where: Namespace) -> Iterator[PacketSenderMap]:
    require_bpf()
    programs = attach_ledger_programs()
    try:
        with hooked(where, programs):
            yield PacketSenderMap(programs)
    finally:
        programs.close()


def find(senders: PacketSenderMap, local: int, remote: int, protocol: int) -> PacketSender | None:
    return senders.find(encode_endpoints(HERE, local, THERE, remote, protocol))


def test_the_ledger_records_who_sends_a_flow_and_that_another_one_does(netns: Namespace) -> None:
    with recording(netns) as senders:
        send(netns, framed(ip4(), IPV4))
        first = find(senders, PORT, 53, UDP)
        assert first is not None
        assert (first.pid, first.user_id, first.is_shared) == (os.getpid(), os.geteuid(), False)
        assert first.command == Path("/proc/self/comm").read_text().rstrip()
        assert not senders.is_empty()
        send(netns, framed(ip4(), IPV4))
        again = find(senders, PORT, 53, UDP)
        assert again is not None
        assert (again.boot_ns, again.cookie) == (first.boot_ns, first.cookie)
        assert again.last_ns > first.last_ns
        pid = os.fork()
        if not pid:
            send(netns, framed(ip4(), IPV4))
            os._exit(0)
        os.waitpid(pid, 0)
        other = find(senders, PORT, 53, UDP)
        assert other is not None
        assert (other.pid, other.is_shared) == (pid, True)
        assert other.boot_ns > again.last_ns


@pytest.mark.parametrize("protocol", [1, 253])
def test_the_ledger_records_the_owner_of_a_raw_socket_with_its_identifier(
    netns: Namespace, protocol: int
) -> None:
    netns.batch("address add 10.9.0.1/24 dev lo", "address add 10.9.0.2/32 dev lo")
    echo = struct.pack("!BBHHH", 8, 0, 0, 77, 1)
    with recording(netns) as senders:
        end = netns.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol))
        with end:
            end.bind(("10.9.0.1", 0))
            end.sendto(echo, ("10.9.0.2", 0))
        number = 77 if protocol == 1 else 0
        sender = find(senders, number, number, protocol)
        assert sender is not None
        assert sender.pid == os.getpid()

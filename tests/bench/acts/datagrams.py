"""Scenarios of datagrams, and of protocols other than TCP and UDP."""

import os
import socket
import struct
import time
from pathlib import Path

from scenario_peer import DISCARD, MPTCP, PAUSE, SIZE, UDPLITE

from acts.common import (
    ANY_PORT,
    GROUP,
    ICMP,
    NEAR4,
    PEER4,
    PEER6,
    PORT,
    RAW,
    ROUNDS,
    SHORT,
    TCP,
    UDP,
    Owners,
    datagram,
    exchange,
    fork,
    own,
    wait,
)

_ETH_P_IP = 0x0800


def _datagrams(protocol: int, number: int, address: str = PEER4, *, connects: bool) -> Owners:
    with datagram(protocol, address) as end:
        if connects:
            end.connect((address, PORT))
        for _ in range(ROUNDS):
            if connects:
                end.send(bytes(SIZE))
            else:
                end.sendto(bytes(SIZE), (address, PORT))
            end.recv(SIZE)
            time.sleep(PAUSE)
    return own(number, PORT)


def udp_connected() -> Owners:
    """A connected UDP socket."""
    return _datagrams(0, UDP, connects=True)


def udp_unconnected() -> Owners:
    """An unconnected UDP socket."""
    return _datagrams(0, UDP, connects=False)


def udp_v6() -> Owners:
    """An unconnected UDP socket, IPv6."""
    return _datagrams(0, UDP, PEER6, connects=False)


def udp_short() -> Owners:
    """300 exchanges of under a millisecond, each on a socket of its own."""
    for _ in range(SHORT):
        with datagram() as end:
            end.sendto(bytes(SIZE), (PEER4, PORT))
            end.recv(SIZE)
    return own(UDP, PORT)


def udp_tiny() -> Owners:
    """20,000 datagrams of one byte."""
    with datagram() as end:
        end.connect((PEER4, DISCARD[0]))
        for number in range(20_000):
            end.send(b"x")
            if number % 20 == 0:
                time.sleep(0.001)
    return own(UDP, DISCARD[0])


def udp_fragments() -> Owners:
    """Datagrams of 8 KB, in fragments."""
    with datagram() as end:
        end.connect((PEER4, DISCARD[0]))
        for _ in range(50):
            end.send(bytes(8000))
            time.sleep(PAUSE)
    return own(UDP, ANY_PORT)  # later fragments have no ports


def udplite() -> Owners:
    """UDP-Lite."""
    return _datagrams(UDPLITE, UDPLITE, connects=True)


def mptcp() -> Owners:
    """MPTCP."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP) as end:
        end.connect((PEER4, PORT + 200))
        exchange(end)
    return own(TCP, PORT + 200)


def ping() -> Owners:
    """ICMP echo requests, by a raw socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, ICMP) as end:
        end.settimeout(2)
        for number in range(50):
            body = struct.pack("!BBHHH", 8, 0, 0, os.getpid() & 0xFFFF, number) + bytes(56)
            end.sendto(body[:2] + struct.pack("!H", _checksum(body)) + body[4:], (PEER4, 0))
            end.recv(100)
            time.sleep(PAUSE)
    return own(ICMP, ANY_PORT)


def _checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def raw() -> Owners:
    """A raw socket, IP protocol 253."""
    port = PORT + 70
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, RAW) as end:
        for _ in range(50):
            end.sendto(struct.pack("!HH", 0, port) + bytes(SIZE), (PEER4, 0))
            time.sleep(PAUSE)
    return own(RAW, port)


def packet_socket() -> Owners:
    """UDP datagrams written to a packet socket, as by a packet generator."""
    port = DISCARD[5]
    hardware = _hardware_address(PEER4)
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP)) as end:
        udp = struct.pack("!HHHH", 40_000, port, 8 + SIZE, 0) + bytes(SIZE)
        ends = socket.inet_aton(NEAR4), socket.inet_aton(PEER4)
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, UDP, 0, *ends)
        head = head[:10] + struct.pack("!H", _checksum(head)) + head[12:]
        for _ in range(50):
            end.sendto(head + udp, ("left", _ETH_P_IP, 0, 0, hardware))
            time.sleep(PAUSE)
    return own(UDP, port)


def _hardware_address(address: str) -> bytes:
    """Return the hardware address of a neighbour, which the kernel asks for if it must."""

    def ask() -> None:
        with datagram() as end:
            end.sendto(b"", (address, DISCARD[9]))

    wait(fork(ask))
    for _ in range(100):
        for line in Path("/proc/net/arp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[0] == address and fields[2] != "0x0":
                return bytes.fromhex(fields[3].replace(":", ""))
        time.sleep(0.01)
    raise ChildProcessError(f"{address} does not answer")


def multicast_sender() -> Owners:
    """Datagrams to a multicast group."""
    port = DISCARD[6]
    with datagram() as end:
        end.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(NEAR4))
        for _ in range(ROUNDS):
            end.sendto(bytes(SIZE), (GROUP, port))
            time.sleep(PAUSE)
    return own(UDP, port)

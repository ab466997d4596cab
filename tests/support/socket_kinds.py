"""A process with one socket of every kind, which sends or answers on each until its input ends.

In: a role, `client` or `server`; the number of the first conversation; the kinds by name; and which
processes hold the sockets. Conversation number N is between 127.1.N.1, the client, and
127.1.N.2, the server, or fd00::N:1 and fd00::N:2. Out: two lines of JSON on the standard output:
the numbers of conversations whose kind the kernel does not have; and, after a line of input, the
pid.

A server opens its sockets, then waits for a line of input, by which time the clients are connected.
A client sends on each socket every `PAUSE` seconds.
"""

import contextlib
import ctypes
import json
import os
import platform
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

E = TypeVar("E")

PORT, PAUSE = 7000, 0.1
ACCEPT_SECONDS = 0.5  # the clients are connected already
MPTCP, UDPLITE, ICMP, ICMPV6, RAW = 262, 136, 1, 58, 255
PAYLOAD = b"x" * 200
V4, V6 = socket.AF_INET, socket.AF_INET6
STREAM, DATAGRAM, RAW_TYPE = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW
CLONE_FILES = 0x400
ETH_IP = 0x0800


@dataclass(frozen=True)
class Ends:
    """The addresses of a conversation."""

    number: int
    family: int

    @property
    def client(self) -> str:
        return f"127.1.{self.number}.1" if self.family == V4 else f"fd00::{self.number:x}:1"

    @property
    def server(self) -> str:
        return f"127.1.{self.number}.2" if self.family == V4 else f"fd00::{self.number:x}:2"

    @property
    def group(self) -> str:
        return f"239.1.{self.number}.1"

    @property
    def broadcast(self) -> str:
        return "127.255.255.255"


@dataclass(frozen=True)
class Kind:
    """A kind of socket, as both ends of a conversation use it."""

    family: int
    type: int
    protocol: int = 0
    client_connects: bool = True
    server_connects: bool = False
    reuse: bool = False
    """Whether the server is in a group of sockets on its port (SO_REUSEPORT)."""
    to: str = "server"
    """The name of the destination in `Ends`."""
    thread: str = ""
    """What is special of the client's thread."""
    mapped: bool = False
    """Whether the server has an IPv6 socket for the IPv4 conversation."""
    replies: bool = True

    @property
    def has_ports(self) -> bool:
        return self.type != RAW_TYPE and self.protocol not in (ICMP, ICMPV6)


KINDS = {
    "TCP": Kind(V4, STREAM),
    "TCP over IPv6": Kind(V6, STREAM),
    "TCP, an IPv6 socket serves IPv4": Kind(V4, STREAM, mapped=True),
    "TCP, a process whose first thread has exited": Kind(V4, STREAM, thread="exited leader"),
    "TCP, a thread with an fd table of its own": Kind(V4, STREAM, thread="own table"),
    "TCP, SO_REUSEPORT": Kind(V4, STREAM, reuse=True),
    "MPTCP": Kind(V4, STREAM, MPTCP),
    "MPTCP over IPv6": Kind(V6, STREAM, MPTCP),
    "UDP, connected": Kind(V4, DATAGRAM, server_connects=True),
    "UDP, server unconnected": Kind(V4, DATAGRAM),
    "UDP, unconnected": Kind(V4, DATAGRAM, client_connects=False),
    "UDP over IPv6, connected": Kind(V6, DATAGRAM, server_connects=True),
    "UDP over IPv6, unconnected": Kind(V6, DATAGRAM, client_connects=False),
    "UDP, an IPv6 socket serves IPv4": Kind(V4, DATAGRAM, mapped=True),
    "UDP, SO_REUSEPORT": Kind(V4, DATAGRAM, reuse=True),
    "UDP, multicast": Kind(
        V4, DATAGRAM, client_connects=False, to="group", reuse=True, replies=False
    ),
    "UDP, broadcast": Kind(
        V4, DATAGRAM, client_connects=False, to="broadcast", reuse=True, replies=False
    ),
    "UDP-Lite, connected": Kind(V4, DATAGRAM, UDPLITE, server_connects=True),
    "UDP-Lite, unconnected": Kind(V4, DATAGRAM, UDPLITE, client_connects=False),
    "UDP-Lite over IPv6, unconnected": Kind(V6, DATAGRAM, UDPLITE, client_connects=False),
    "raw, protocol 47, connected": Kind(V4, RAW_TYPE, 47, server_connects=True),
    "raw, protocol 47, unconnected": Kind(V4, RAW_TYPE, 47, client_connects=False),
    "raw, protocol 89, unconnected": Kind(V4, RAW_TYPE, 89, client_connects=False),
    "raw, protocol 253, connected": Kind(V4, RAW_TYPE, 253, server_connects=True),
    "raw, protocol 253, unconnected": Kind(V4, RAW_TYPE, 253, client_connects=False),
    "raw over IPv6, protocol 253, connected": Kind(V6, RAW_TYPE, 253, server_connects=True),
    "raw over IPv6, protocol 253, unconnected": Kind(V6, RAW_TYPE, 253, client_connects=False),
    "raw, header by the program (IPPROTO_RAW)": Kind(
        V4, RAW_TYPE, RAW, client_connects=False, replies=False
    ),
    "raw, ICMP echo": Kind(V4, RAW_TYPE, ICMP, client_connects=False),
    "raw, ICMPv6 echo": Kind(V6, RAW_TYPE, ICMPV6, client_connects=False),
    "ping, connected": Kind(V4, DATAGRAM, ICMP),
    "ping, unconnected": Kind(V4, DATAGRAM, ICMP, client_connects=False),
    "ping over IPv6, unconnected": Kind(V6, DATAGRAM, ICMPV6, client_connects=False),
    "packet socket": Kind(socket.AF_PACKET, RAW_TYPE, client_connects=False, replies=False),
}


def ends_of(name: str, number: int) -> Ends:
    """Return the addresses of a conversation of a kind."""
    return Ends(number, V6 if KINDS[name].family == V6 else V4)


def is_by_kernel(name: str) -> bool:
    """Return whether the kernel itself answers, so that there is no server."""
    return KINDS[name].protocol in (ICMP, ICMPV6)


class Server:
    """The serving end of a conversation."""

    def __init__(self, kind: Kind, ends: Ends) -> None:
        self.kind, self.ends = kind, ends
        family = kind.family
        if kind.family == socket.AF_PACKET:
            family, type_, protocol = V4, DATAGRAM, 0  # the kernel delivers to a UDP socket
        elif kind.protocol == RAW:
            family, type_, protocol = V4, RAW_TYPE, 254
        else:
            family, type_, protocol = kind.family, kind.type, kind.protocol
        address = ends.server if kind.to == "server" else getattr(ends, kind.to)
        if kind.mapped:
            family, address = V6, f"::ffff:{address}"
        self.socket = socket.socket(family, type_, protocol)
        if kind.reuse:
            option = socket.SO_REUSEPORT if kind.to == "server" else socket.SO_REUSEADDR
            self.socket.setsockopt(socket.SOL_SOCKET, option, 1)
        if kind.to == "group":
            join = socket.inet_aton(ends.group) + socket.inet_aton(ends.server)
            self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, join)
        port = PORT + (ends.number if kind.to == "broadcast" else 0)
        self.socket.bind((address, port if type_ != RAW_TYPE else 0))
        if type_ == STREAM:
            self.socket.listen()
        elif kind.server_connects:
            self.socket.connect((ends.client, PORT + 1 if kind.has_ports else 0))

    def is_in_use(self) -> bool:
        """Accept the connection; False if it went to another server of the group."""
        if self.kind.type == STREAM:
            self.listener = self.socket  # stays open, as that of a server does
            self.listener.settimeout(ACCEPT_SECONDS)
            try:
                self.socket, _ = self.listener.accept()
            except TimeoutError:
                return False
        return True

    def answer(self) -> None:
        if self.kind.type == STREAM:
            data, peer = self.socket.recv(65536), None
        else:
            data, peer = self.socket.recvfrom(65536)
        if not data or not self.kind.replies:
            return
        with contextlib.suppress(OSError):
            if self.kind.type == STREAM or self.kind.server_connects:
                self.socket.send(PAYLOAD)
            elif peer is not None:
                self.socket.sendto(PAYLOAD, peer)


class Client:
    """The calling end of a conversation."""

    def __init__(self, kind: Kind, ends: Ends) -> None:
        self.kind, self.ends = kind, ends
        protocol = socket.htons(ETH_IP) if kind.family == socket.AF_PACKET else kind.protocol
        self.socket = socket.socket(kind.family, kind.type, protocol)
        port = PORT + 1 if kind.has_ports and kind.type == DATAGRAM else 0
        if kind.family == socket.AF_PACKET:
            self.socket.bind(("lo", ETH_IP))
            return
        if kind.protocol in (ICMP, ICMPV6) and kind.type == DATAGRAM:
            port = ends.number  # the identifier
        self.socket.bind((ends.client, port))
        if kind.to == "group":
            address = socket.inet_aton(ends.client)
            self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, address)
        elif kind.to == "broadcast":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if kind.client_connects:
            self.socket.connect((ends.server, PORT if kind.has_ports else 0))

    def send(self) -> None:
        kind, ends = self.kind, self.ends
        payload = PAYLOAD
        if kind.protocol == ICMP:
            payload = _echo(8, ends.number)
        elif kind.protocol == ICMPV6:
            payload = _echo(128, ends.number)
        elif kind.protocol == RAW:
            payload = _ip_header(ends, 254, PAYLOAD)
        elif kind.family == socket.AF_PACKET:
            datagram = struct.pack("!HHHH", PORT + 1, PORT, 8 + len(PAYLOAD), 0) + PAYLOAD
            payload = bytes(12) + struct.pack("!H", ETH_IP) + _ip_header(ends, 17, datagram)
        with contextlib.suppress(OSError):
            if kind.client_connects or kind.family == socket.AF_PACKET:
                self.socket.send(payload)
            else:
                port = PORT + (ends.number if kind.to == "broadcast" else 0)
                port = port if kind.has_ports else 0
                self.socket.sendto(payload, (getattr(ends, kind.to), port))

    def drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.socket.recv(65536, socket.MSG_DONTWAIT):
                pass


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _echo(kind: int, identifier: int) -> bytes:
    message = struct.pack("!BBHHH", kind, 0, 0, identifier, 1) + PAYLOAD
    return message[:2] + struct.pack("!H", _checksum(message)) + message[4:]


def _ip_header(ends: Ends, protocol: int, payload: bytes) -> bytes:
    addresses = socket.inet_aton(ends.client) + socket.inet_aton(ends.server)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0)
    head += addresses
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + payload


def _say(value: object) -> None:
    print(json.dumps(value), flush=True)


def _hold(holders: str) -> int:
    """Let a child hold the sockets too, if so asked; return the pid of the one that uses them."""
    if holders == "one":
        return os.getpid()
    reading, writing = os.pipe()
    if not os.fork():
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    os.close(reading)
    return os.getpid()


def _open_ends(kind_of_end: Callable[[Kind, Ends], E], names: dict[int, str]) -> dict[int, E]:
    """Open an end of each conversation, by its number; say which cannot be, and wait for a line."""
    ends: dict[int, E] = {}
    missing = []
    for number, name in names.items():
        try:
            ends[number] = kind_of_end(KINDS[name], ends_of(name, number))
        except OSError:
            missing.append(number)
    _say(missing)
    sys.stdin.readline()
    return ends


def serve(conversations: dict[int, str], holders: str) -> None:
    servers = _open_ends(Server, conversations)
    in_use = [server for server in servers.values() if server.is_in_use()]
    _say(_hold(holders))
    by_fd = {server.socket.fileno(): server for server in in_use}
    while True:
        ready, _, _ = select.select([0, *by_fd], [], [])
        if 0 in ready:
            return
        for fd in ready:
            by_fd[fd].answer()


def call(conversations: dict[int, str], holders: str) -> None:
    clients = _open_ends(Client, conversations)
    _say(_hold(holders))
    while not select.select([0], [], [], PAUSE)[0]:
        for client in clients.values():
            client.send()
            client.drain()


def main() -> None:
    role, holders, thread, text = sys.argv[1:]
    conversations = {int(number): name for number, name in json.loads(text).items()}
    work = serve if role == "server" else call
    if not thread:
        work(conversations, holders)
        return
    libc = ctypes.CDLL(None)

    def in_thread() -> None:
        if thread == "own table":
            libc.unshare(CLONE_FILES)
        work(conversations, holders)
        os._exit(0)

    threading.Thread(target=in_thread).start()
    if thread == "exited leader":
        libc.syscall({"x86_64": 60}.get(platform.machine(), 93), 0)  # exit(2) of this thread alone
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()

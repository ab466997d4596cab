"""The kernel's socket tables over NETLINK_SOCK_DIAG (sock_diag(7)), without printing them as text.

A socket of netlink belongs to the network namespace of the thread that makes it, so one is made for
each conversation, which takes some microseconds: the tables are those of the calling thread.
"""

import os
import socket
import struct
from collections.abc import Collection

import msgspec

from hogpipe.attribution.sock_diag_messages import (
    Answer,
    build_dump,
    build_dump_towards,
    build_look_up,
    pack_ports,
    parse_answer,
)
from hogpipe.attribution.socket_table import SocketRow
from hogpipe.model import FlowKey

_NETLINK_SOCK_DIAG = 4
_PROTOCOLS = {
    "tcp": socket.IPPROTO_TCP,
    "udp": socket.IPPROTO_UDP,
    "udplite": socket.IPPROTO_UDPLITE,
}
# A datagram of a dump is 32 KiB at most (netlink_dump of net/netlink/af_netlink.c).
_RECEIVE_BYTES = 1 << 16
# The kernel answers before `send` returns, so this ends nothing but a wait for what was lost.
_PATIENCE = struct.pack("@ll", 2, 0)


class Dump(msgspec.Struct):
    """A table as it was dumped."""

    rows: list[SocketRow] = msgspec.field(default_factory=list)
    skipped: int = 0
    """Messages that could not be read."""
    interrupted: bool = False
    """The kernel says that sockets may be missing, because the table changed meanwhile."""


def read_dump(table: str, port_pairs: Collection[tuple[int, int]]) -> Dump:
    """Return the rows of a table by ports, named as in /proc/net, that have such a pair of ports.

    They are those of /proc/net but TIME_WAIT and SYN_RECV, which nobody holds. Raises OSError, with
    ENOENT where the kernel has no sock_diag for this protocol.
    """
    request = build_dump(*_describe(table), port_pairs)
    return _converse(table, request, pack_ports(port_pairs))


def read_dump_towards(table: str, remote_ports: Collection[int]) -> Dump:
    """Return the rows that talk to such a remote port (and maybe others), like `read_dump`."""
    return _converse(table, build_dump_towards(*_describe(table), remote_ports), None)


def _describe(table: str) -> tuple[int, int]:
    family = socket.AF_INET6 if table.endswith("6") else socket.AF_INET
    return family, _PROTOCOLS[table.removesuffix("6")]


def _converse(table: str, request: bytes, wanted: frozenset[bytes] | None) -> Dump:
    dump = Dump()
    with _open() as link:
        link.send(request)
        while True:
            answer = _receive(link, wanted)
            dump.rows += answer.rows
            dump.skipped += answer.skipped
            dump.interrupted |= answer.interrupted
            if answer.error:
                raise OSError(answer.error, os.strerror(answer.error), f"sock_diag {table}")
            if answer.done:
                return dump


def look_up(flows: Collection[FlowKey]) -> dict[FlowKey, SocketRow]:
    """Return the connected sockets of TCP flows, as far as the kernel finds them by their tuples.

    Not found are also those bound to a device, and those that nobody holds. Raises OSError.
    """
    found: dict[FlowKey, SocketRow] = {}
    with _open() as link:
        for flow in flows:
            ends = flow.local_address, flow.local_port, flow.remote_address, flow.remote_port
            link.send(build_look_up(socket.IPPROTO_TCP, *ends))
            for row in _receive(link).rows:
                # A listening socket has no remote port.
                if row.inode and row.remote_port == flow.remote_port:
                    found[flow] = row
    return found


def _open() -> socket.socket:
    link = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
    )
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _PATIENCE)
    return link


def _receive(link: socket.socket, wanted: frozenset[bytes] | None = None) -> Answer:
    return parse_answer(link.recv(_RECEIVE_BYTES), wanted)

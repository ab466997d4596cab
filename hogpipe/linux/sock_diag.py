"""The kernel's socket tables over NETLINK_SOCK_DIAG (sock_diag(7)), without printing them as text.

A socket of netlink belongs to the network namespace of the thread that makes it, so one is made for
each conversation, which takes some microseconds: the tables are those of the calling thread.
"""

import math
import os
import socket
import struct
from collections.abc import Collection, Iterator, Sequence

import msgspec

from hogpipe.linux.sock_diag_messages import (
    Answer,
    build_dump,
    build_dump_towards,
    build_listening_dump,
    build_look_up,
    build_tcp_dump,
    build_tcp_dump_towards,
    pack_ports,
    parse_answer,
)
from hogpipe.linux.socket_table import TCP_CLOSING, SocketRow
from hogpipe.model import FlowKey
from hogpipe.protocols import TCP, UDP, UDPLITE

_NETLINK_SOCK_DIAG = 4
_PROTOCOLS = {
    "tcp": TCP,
    "udp": UDP,
    "udplite": UDPLITE,
}
# A datagram of a dump is 32 KiB at most (netlink_dump of net/netlink/af_netlink.c).
_RECEIVE_BYTES = 1 << 16
# The answers must fit into the receive buffer, whose default is 208 KiB.
_ASKED_AT_ONCE = 64
# The kernel answers before `send` returns, so this ends nothing but a wait for what was lost.
_PATIENCE = struct.pack("@ll", 2, 0)


class Dump(msgspec.Struct):
    """A table as it was dumped."""

    rows: list[SocketRow] = msgspec.field(default_factory=list)
    cookies: list[int] = msgspec.field(default_factory=list)
    """The kernel's numbers of the same sockets, which it gives none twice (SO_COOKIE)."""
    skipped: int = 0
    """Messages that could not be read."""
    interrupted: bool = False
    """The kernel says that sockets may be missing, because the table changed meanwhile."""


class LookedUp(msgspec.Struct):
    """What the kernel knows of flows by their tuples.

    Of the others it may all the same have a socket: one that is bound to another device than the
    flow was seen on, or that listens.
    """

    found: dict[FlowKey, SocketRow] = msgspec.field(default_factory=dict)
    """Connected sockets that somebody holds."""
    closed: set[FlowKey] = msgspec.field(default_factory=set)
    """Connections that their process has closed, in TIME_WAIT or on the way there."""


def read_dump(table: str, port_pairs: Collection[tuple[int, int]]) -> Dump:
    """Return the rows of a table by ports, named as in /proc/net, that have such a pair of ports.

    "tcp" stands for tcp and tcp6, which the kernel keeps together. The rows are those of /proc/net
    but TIME_WAIT and SYN_RECV, which nobody holds. Raises OSError, with ENOENT where the kernel has
    no sock_diag for this protocol.
    """
    if table == "tcp":
        return _converse(table, build_tcp_dump(port_pairs), pack_ports(port_pairs))
    request = build_dump(*_describe(table), port_pairs)
    return _converse(table, request, pack_ports(port_pairs))


def read_whole_dump(table: str, most: int) -> Dump:
    """Return the rows of a table by ports, like `read_dump`, until there are `most` or some more.

    Of TCP the sockets that listen come first.
    """
    request = build_tcp_dump() if table == "tcp" else build_dump(*_describe(table))
    return _converse(table, request, None, most)


def read_dump_towards(table: str, remote_ports: Collection[int]) -> Dump:
    """Return the rows that talk to such a remote port (and maybe others), like `read_dump`."""
    if table == "tcp":
        return _converse(table, build_tcp_dump_towards(remote_ports), None)
    return _converse(table, build_dump_towards(*_describe(table), remote_ports), None)


def read_listening(local_ports: Collection[int]) -> Dump:
    """Return the TCP sockets, of both families, that listen on such a port.

    The kernel keeps them apart from the connected ones, so that this costs next to nothing.
    """
    ports = pack_ports([(port, 0) for port in local_ports])
    return _converse("tcp", build_listening_dump(), ports)


def _describe(table: str) -> tuple[int, int]:
    family = socket.AF_INET6 if table.endswith("6") else socket.AF_INET
    return family, _PROTOCOLS[table.removesuffix("6")]


def _converse(
    table: str, request: bytes, wanted: frozenset[bytes] | None, most: float = math.inf
) -> Dump:
    dump = Dump()
    with _open() as link:
        link.send(request)
        while True:
            answer = _receive(link, wanted)
            dump.rows += answer.rows
            dump.cookies += answer.cookies
            dump.skipped += answer.skipped
            dump.interrupted |= answer.interrupted
            if answer.error:
                raise OSError(answer.error, os.strerror(answer.error), f"sock_diag {table}")
            if answer.done or len(dump.rows) >= most:
                return dump


def look_up(flows: Collection[FlowKey]) -> LookedUp:
    """Ask for each of these TCP flows by its tuple. Raises OSError."""
    answer = LookedUp()
    asked = list(flows)
    devices = {name: _read_index(name) for name in {flow.interface for flow in asked}}
    requests = [_build_look_up(flow, devices[flow.interface]) for flow in asked]
    for flow, told in zip(asked, _ask_each(requests), strict=True):
        _note_answer(answer, flow, told.rows)
    return answer


def look_up_states(tuples: Collection[tuple[bytes, int, bytes, int]]) -> list[tuple[int, int]]:
    """Return cookie and state of the TCP socket of each tuple, zeros for none. Raises OSError.

    A tuple is local address and port, and remote ones. States are those of socket_table.py; what a
    process has closed tells for what it waits, FIN_WAIT2 or TIME_WAIT.
    """
    requests = [build_look_up(TCP, *one) for one in tuples]
    return [
        (told.cookies[0], told.rows[0].state) if told.rows else (0, 0)
        for told in _ask_each(requests)
    ]


def _ask_each(requests: Sequence[bytes]) -> Iterator[Answer]:
    with _open() as link:
        for start in range(0, len(requests), _ASKED_AT_ONCE):
            some = requests[start : start + _ASKED_AT_ONCE]
            link.send(b"".join(some))
            for _ in some:  # each is answered by a datagram of its own, in the same order
                yield _receive(link)


def _build_look_up(flow: FlowKey, device: int) -> bytes:
    ends = flow.local_address, flow.local_port, flow.remote_address, flow.remote_port
    return build_look_up(TCP, *ends, device=device)


def _read_index(interface: str) -> int:
    """Return the index of an interface, 0 if it is gone or none: then no device is asked for."""
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return 0


def _note_answer(answer: LookedUp, flow: FlowKey, rows: Collection[SocketRow]) -> None:
    for row in rows:
        # A listening socket has no remote port.
        if row.remote_port != flow.remote_port:
            continue
        if row.inode:
            answer.found[flow] = row
        elif row.state in TCP_CLOSING:
            answer.closed.add(flow)


def _open() -> socket.socket:
    link = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
    )
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _PATIENCE)
    return link


def _receive(link: socket.socket, wanted: frozenset[bytes] | None = None) -> Answer:
    return parse_answer(link.recv(_RECEIVE_BYTES), wanted)

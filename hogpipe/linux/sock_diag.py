"""Socket tables over NETLINK_SOCK_DIAG (sock_diag(7)), in binary form instead of text.

In: the table, ports or five-tuples asked for. Out: rows as of /proc/net, with socket cookies. Every
function may raise OSError, with ENOENT if the kernel has no sock_diag for the protocol.

A netlink socket, a link here, belongs to the network namespace of the thread that creates it. Each
function opens its own (some microseconds), so the tables are those of the calling thread's
namespace, unless the caller passes an `open_link` that opens links elsewhere.
"""

import math
import os
import socket
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager

import msgspec

from hogpipe.linux.sock_diag_messages import (
    Answer,
    WantedPorts,
    build_dump,
    build_dump_by_remote_port,
    build_listening_dump,
    build_lookup,
    build_tcp_dump,
    build_tcp_dump_by_remote_port,
    pack_ports,
    parse_answer,
)
from hogpipe.linux.socket_table import TCP_CLOSING, TCP_UNACCEPTED, SocketRow
from hogpipe.model import FlowKey
from hogpipe.protocols import TCP, UDP, UDPLITE

OpenLink = Callable[[], AbstractContextManager[socket.socket]]
"""Opens a link for the requests of one function. May raise OSError."""

ANY_DEVICE = 0

_NETLINK_SOCK_DIAG = 4
_PROTOCOLS = {
    "tcp": TCP,
    "udp": UDP,
    "udplite": UDPLITE,
}
# A datagram of a dump is 32 KiB at most (netlink_dump of net/netlink/af_netlink.c).
_RECEIVE_BYTES = 1 << 16
# All answers to a batch must fit into the receive buffer, whose default is 208 KiB.
_REQUESTS_AT_ONCE = 64
# The kernel answers before `send` returns; the timeout only ends a wait for a lost answer.
_RECEIVE_TIMEOUT = struct.pack("@ll", 2, 0)


class Dump(msgspec.Struct):
    """The result of one dump of a table."""

    rows: list[SocketRow] = msgspec.field(default_factory=list)
    cookies: list[int] = msgspec.field(default_factory=list)
    """The cookies of the same sockets (SO_COOKIE), which the kernel never reuses."""
    skipped: int = 0
    """Malformed messages."""
    interrupted: bool = False
    """The kernel reports that sockets may be missing, because the table changed during the dump."""


class SocketLookup(msgspec.Struct):
    """The result of lookups by five-tuple.

    A flow that is in no field may still have a socket: a listening one, or one that is bound to a
    device other than the flow's interface.
    """

    found: dict[FlowKey, SocketRow] = msgspec.field(default_factory=dict)
    """Connected sockets that a process holds."""
    closed: set[FlowKey] = msgspec.field(default_factory=set)
    """Connections that their process has closed (`TCP_CLOSING`)."""
    unaccepted: dict[FlowKey, SocketRow] = msgspec.field(default_factory=dict)
    """Connections that no process has accepted yet (`TCP_UNACCEPTED`)."""


def open_link() -> socket.socket:
    """Return a link into this thread's network namespace. Raises OSError."""
    link = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
    )
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _RECEIVE_TIMEOUT)
    return link


def find_device(interface: str) -> int:
    """Return the index of an interface of this thread's namespace; ANY_DEVICE if there is none."""
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return ANY_DEVICE


def read_dump(
    table: str, port_pairs: Collection[tuple[int, int]], open_link: OpenLink = open_link
) -> Dump:
    """Return the rows with one of these (local, remote) pairs of ports.

    `table` is named as in /proc/net; "tcp" includes tcp6, because the kernel keeps both in one
    table. Unlike /proc/net, the dump leaves out TIME_WAIT, which no process holds.
    """
    if table == "tcp":
        request = build_tcp_dump(port_pairs)
    else:
        request = build_dump(*_describe(table), port_pairs)
    return _request_dump(table, request, pack_ports(port_pairs), open_link=open_link)


def read_full_dump(table: str, limit: int) -> Dump:
    """Return all rows of a table, like `read_dump`; stop at the message that reaches `limit` rows.

    Listening TCP sockets come first. SYN_RECV, which no process holds, is left out.
    """
    request = build_tcp_dump() if table == "tcp" else build_dump(*_describe(table))
    return _request_dump(table, request, None, limit)


def read_dump_by_remote_port(
    table: str, remote_ports: Collection[int], open_link: OpenLink = open_link
) -> Dump:
    """Return the rows with one of these remote ports, and possibly others; without SYN_RECV."""
    if table == "tcp":
        request = build_tcp_dump_by_remote_port(remote_ports)
    else:
        request = build_dump_by_remote_port(*_describe(table), remote_ports)
    return _request_dump(table, request, None, open_link=open_link)


def read_listeners(
    local_ports: Collection[int] | None = None, open_link: OpenLink = open_link
) -> Dump:
    """Return the TCP sockets, of both families, that listen on one of these ports, or on any.

    The kernel keeps listening sockets in a table of their own, so the cost is small.
    """
    ports = None if local_ports is None else pack_ports([(port, 0) for port in local_ports])
    return _request_dump("tcp", build_listening_dump(), ports, open_link=open_link)


def _describe(table: str) -> tuple[int, int]:
    family = socket.AF_INET6 if table.endswith("6") else socket.AF_INET
    return family, _PROTOCOLS[table.removesuffix("6")]


def _request_dump(
    table: str,
    request: bytes,
    wanted: WantedPorts | None,
    limit: float = math.inf,
    open_link: OpenLink = open_link,
) -> Dump:
    dump = Dump()
    with open_link() as link:
        link.send(request)
        while True:
            answer = _receive(link, wanted)
            dump.rows += answer.rows
            dump.cookies += answer.cookies
            dump.skipped += answer.skipped
            dump.interrupted |= answer.interrupted
            if answer.error:
                raise OSError(answer.error, os.strerror(answer.error), f"sock_diag {table}")
            if answer.done or len(dump.rows) >= limit:
                return dump


def read_flow_sockets(
    flows: Collection[FlowKey],
    open_link: OpenLink = open_link,
    find_device: Callable[[str], int] = find_device,
) -> SocketLookup:
    """Return the socket of each TCP flow by its five-tuple. Raises OSError.

    `find_device` returns the index of the interface of a flow where the sockets are.
    """
    lookup = SocketLookup()
    ordered = list(flows)
    devices = {name: find_device(name) for name in {flow.interface for flow in ordered}}
    requests = [_build_flow_lookup(flow, devices[flow.interface]) for flow in ordered]
    for flow, answer in zip(ordered, _request_each(requests, open_link), strict=True):
        _add_answer(lookup, flow, answer.rows)
    return lookup


def read_socket_states(tuples: Collection[tuple[bytes, int, bytes, int]]) -> list[tuple[int, int]]:
    """Return cookie and state of the TCP socket of each tuple, zeros if none. Raises OSError.

    A tuple is local address and port, remote address and port. States are those of socket_table.py.
    For a connection that the kernel keeps without a socket, it is FIN_WAIT2 or TIME_WAIT.
    """
    requests = [build_lookup(TCP, *one) for one in tuples]
    return [
        (answer.cookies[0], answer.rows[0].state) if answer.rows else (0, 0)
        for answer in _request_each(requests)
    ]


def _request_each(requests: Sequence[bytes], open_link: OpenLink = open_link) -> Iterator[Answer]:
    with open_link() as link:
        for start in range(0, len(requests), _REQUESTS_AT_ONCE):
            batch = requests[start : start + _REQUESTS_AT_ONCE]
            link.send(b"".join(batch))
            for _ in batch:  # one datagram answers each request, in the same order
                yield _receive(link)


def _build_flow_lookup(flow: FlowKey, device: int) -> bytes:
    ends = flow.local_address, flow.local_port, flow.remote_address, flow.remote_port
    return build_lookup(TCP, *ends, device=device)


def _add_answer(lookup: SocketLookup, flow: FlowKey, rows: Collection[SocketRow]) -> None:
    for row in rows:
        # A listening socket has no remote port.
        if row.remote_port != flow.remote_port:
            continue
        if row.inode:
            lookup.found[flow] = row
        elif row.state in TCP_CLOSING:
            lookup.closed.add(flow)
        elif row.state in TCP_UNACCEPTED:
            lookup.unaccepted[flow] = row


def _receive(link: socket.socket, wanted: WantedPorts | None = None) -> Answer:
    return parse_answer(link.recv(_RECEIVE_BYTES), wanted)

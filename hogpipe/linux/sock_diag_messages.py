"""What is said over NETLINK_SOCK_DIAG: requests as bytes, and rows out of answers.

Pure. Any bytes parse: what makes no sense is skipped and counted, never raised.

Sources: sock_diag(7), netlink(7), include/uapi/linux/inet_diag.h, and net/ipv4/inet_diag.c for how
a filter is run. Numbers are of the host's byte order, ports and addresses of the network's.
"""

import struct
from collections.abc import Collection, Sequence

import msgspec

from hogpipe.linux.socket_table import SocketRow

AF_INET, AF_INET6 = 2, 10

_TCPDIAG_GETSOCK = 18  # the older request, which asks for TCP of both families at once
_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x1, 0x10, 0x300
_INET_DIAG_REQ_BYTECODE = 1

# The states of a socket that a process can hold and /proc/net shows, by include/net/tcp_states.h:
# not SYN_RECV (3), TIME_WAIT (6), NEW_SYN_RECV (12) and BOUND_INACTIVE (13).
_STATES = sum(1 << state for state in (1, 2, 4, 5, 7, 8, 9, 10, 11))
_LISTENING = 1 << 10
_ALL_STATES = 0xFFFFFFFF
_LAST_STATE = 13

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_REQUEST = struct.Struct("=BBxxI4s16s16sIQ")  # inet_diag_req_v2, with its inet_diag_sockid
_TCP_REQUEST = struct.Struct("=4x4s16s16sIQII")  # inet_diag_req: its states come last, before dbs
_SOCKET = struct.Struct("=BBxxHH16s16sIIIIIIII")  # inet_diag_msg, the cookie's low half first
_PORTS = slice(_HEADER.size + 4, _HEADER.size + 8)  # source and destination, two bytes each
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_ERROR = struct.Struct("=i")
_NO_COOKIE = 2**64 - 1

_ADDRESS_BYTES = {AF_INET: 4, AF_INET6: 16}

# Operations of a filter: code, how far to go on where it holds, how far where not. A port to
# compare with is in the second one of a pair.
_OPERATION = struct.Struct("=BBH")
_JUMP, _LOCAL_AT_LEAST, _REMOTE_AT_LEAST, _LOCAL_IS, _REMOTE_IS = 1, 2, 4, 11, 12
_COMPARE_BYTES, _JUMP_BYTES = 8, 4
_LEAF_BYTES = _COMPARE_BYTES + _JUMP_BYTES
# The kernel checks a filter in the square of its length; beyond this it costs more than it saves.
_MOST_PORTS = 256


class Answer(msgspec.Struct):
    """What one datagram of the kernel held."""

    rows: list[SocketRow] = msgspec.field(default_factory=list)
    cookies: list[int] = msgspec.field(default_factory=list)
    """The kernel's numbers of the same sockets, which it gives none twice."""
    skipped: int = 0
    """Messages that make no sense or are cut short."""
    done: bool = False
    """The dump ends here."""
    error: int = 0
    """The errno that the kernel refused with."""
    interrupted: bool = False
    """The sockets changed during the dump in a way that may have hidden some."""


def build_dump(
    family: int, protocol: int, port_pairs: Collection[tuple[int, int]] | None = None
) -> bytes:
    """Return the request for all sockets of a family that somebody may hold.

    With `port_pairs`, (local, remote), the kernel leaves out what cannot be one of these, as long
    as they are few; the answer may still hold others.
    """
    return _build_dump(family, protocol, _STATES, _build_filter(port_pairs))


def build_dump_towards(family: int, protocol: int, remote_ports: Collection[int]) -> bytes:
    """Return the request for all sockets that somebody may hold and that talk to such a port.

    With too many ports the answer holds others, too.
    """
    return _build_dump(family, protocol, _STATES, _build_remote_filter(remote_ports))


def build_tcp_dump(port_pairs: Collection[tuple[int, int]] | None = None) -> bytes:
    """Return the request like `build_dump` for TCP over IPv4 and IPv6, which costs but one walk."""
    return _build_tcp_dump(_STATES, _build_filter(port_pairs))


def build_tcp_dump_towards(remote_ports: Collection[int]) -> bytes:
    """Return the request like `build_dump_towards` for TCP over IPv4 and IPv6."""
    return _build_tcp_dump(_STATES, _build_remote_filter(remote_ports))


def build_listening_dump() -> bytes:
    """Return the request for all sockets of TCP, IPv4 and IPv6, that listen."""
    return _build_tcp_dump(_LISTENING, b"")


def build_look_up(
    protocol: int,
    local_address: bytes,
    local_port: int,
    remote_address: bytes,
    remote_port: int,
    *,
    device: int = 0,
) -> bytes:
    """Return the request for the one socket that the kernel would give a packet of this tuple to.

    One that is bound to a device is found only by the index of that `device`, any other by each.
    Asked for by IPv4 addresses it is also found among the dual-stack sockets of IPv6. The answer is
    one message: the socket, be it a listening one or in TIME_WAIT, or the error ENOENT.
    """
    ports = struct.pack(">HH", local_port, remote_port)
    family = AF_INET if len(local_address) == 4 else AF_INET6
    request = _REQUEST.pack(
        family, protocol, _ALL_STATES, ports, local_address, remote_address, device, _NO_COOKIE
    )
    return _frame(_SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, request)


def pack_ports(port_pairs: Collection[tuple[int, int]]) -> frozenset[bytes]:
    """Return pairs of (local, remote) ports as they stand in an answer."""
    return frozenset(struct.pack(">HH", *pair) for pair in port_pairs)


def parse_answer(data: bytes, wanted: frozenset[bytes] | None = None) -> Answer:
    """Return what a datagram holds; with `wanted` (`pack_ports`) only rows of these ports."""
    answer = Answer()
    at = 0
    while at < len(data):
        if len(data) - at < _HEADER.size:
            answer.skipped += 1
            break
        length, kind, flags, _, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size or at + length > len(data):
            answer.skipped += 1
            break
        message = data[at : at + length]
        at += (length + 3) & ~3
        if flags & _NLM_F_DUMP_INTR:
            answer.interrupted = True
        if kind in (_SOCK_DIAG_BY_FAMILY, _TCPDIAG_GETSOCK):
            if wanted is None or length < _PORTS.stop or message[_PORTS] in wanted:
                _add_row(answer, message)
        elif kind in (_NLMSG_DONE, _NLMSG_ERROR):
            _end(answer, message)
        else:
            answer.skipped += 1
    return answer


def _add_row(answer: Answer, message: bytes) -> None:
    if len(message) < _HEADER.size + _SOCKET.size:
        answer.skipped += 1
        return
    fields = _SOCKET.unpack_from(message, _HEADER.size)
    family, state, _, _, local_address, remote_address, _, low, high, *_, user_id, inode = fields
    address_bytes = _ADDRESS_BYTES.get(family)
    if address_bytes is None or not 0 < state <= _LAST_STATE:
        answer.skipped += 1
        return
    local_port, remote_port = struct.unpack(">HH", message[_PORTS])
    answer.rows.append(
        SocketRow(
            local_address=local_address[:address_bytes],
            local_port=local_port,
            remote_address=remote_address[:address_bytes],
            remote_port=remote_port,
            state=state,
            user_id=user_id,
            inode=inode,
        )
    )
    answer.cookies.append(high << 32 | low)


def _end(answer: Answer, message: bytes) -> None:
    """Take NLMSG_DONE or NLMSG_ERROR: both begin with zero or an errno below it."""
    answer.done = True
    if len(message) >= _HEADER.size + _ERROR.size:
        answer.error = abs(_ERROR.unpack_from(message, _HEADER.size)[0])


def _frame(kind: int, flags: int, payload: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(payload), kind, flags, 0, 0) + payload


def _build_dump(family: int, protocol: int, states: int, filtered: bytes) -> bytes:
    request = _REQUEST.pack(family, protocol, states, bytes(4), b"", b"", 0, _NO_COOKIE)
    return _frame(_SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, request + filtered)


def _build_tcp_dump(states: int, filtered: bytes) -> bytes:
    request = _TCP_REQUEST.pack(bytes(4), b"", b"", 0, _NO_COOKIE, states, 0)
    return _frame(_TCPDIAG_GETSOCK, _NLM_F_REQUEST | _NLM_F_DUMP, request + filtered)


def _build_remote_filter(remote_ports: Collection[int]) -> bytes:
    """Return the attribute that lets pass a wanted remote port."""
    ports = sorted(set(remote_ports))
    if len(ports) > _MOST_PORTS:
        return b""
    return _attach(_search(_REMOTE_AT_LEAST, _REMOTE_IS, ports, found=0, missing=_JUMP_BYTES))


def _build_filter(port_pairs: Collection[tuple[int, int]] | None) -> bytes:
    """Return the attribute that lets pass a wanted local port with a wanted remote one."""
    if not port_pairs:
        return b""
    local = sorted({pair[0] for pair in port_pairs})
    remote = sorted({pair[1] for pair in port_pairs})
    if max(len(local), len(remote)) > _MOST_PORTS:
        return b""
    then = _search(_REMOTE_AT_LEAST, _REMOTE_IS, remote, found=0, missing=_JUMP_BYTES)
    missing = len(then) + _JUMP_BYTES
    return _attach(_search(_LOCAL_AT_LEAST, _LOCAL_IS, local, found=0, missing=missing) + then)


def _attach(program: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(program), _INET_DIAG_REQ_BYTECODE) + program


def _search(at_least: int, equals: int, ports: Sequence[int], *, found: int, missing: int) -> bytes:
    """Return the program of a binary search for the socket's port in `ports`.

    It goes on `found` bytes behind its own end, or `missing` bytes where the port is another one; a
    socket passes that ends at the end of the whole filter, and one that ends four bytes behind does
    not. Only forward jumps are allowed, and those where a test holds not beyond 255 bytes.
    """
    if len(ports) == 1:
        return (
            _OPERATION.pack(equals, _COMPARE_BYTES, _LEAF_BYTES + missing)
            + _OPERATION.pack(0, 0, ports[0])
            + _OPERATION.pack(_JUMP, _JUMP_BYTES, _JUMP_BYTES + found)
        )
    middle = len(ports) // 2
    low = _search(at_least, equals, ports[:middle], found=found, missing=missing)
    skip = len(low)
    high = _search(at_least, equals, ports[middle:], found=found + skip, missing=missing + skip)
    return (
        _OPERATION.pack(at_least, _COMPARE_BYTES, _COMPARE_BYTES + len(high))
        + _OPERATION.pack(0, 0, ports[middle])
        + high
        + low
    )

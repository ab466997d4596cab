"""Messages of NETLINK_SOCK_DIAG: requests as bytes, and rows parsed from answers.

PURE. Any bytes parse: a malformed message is skipped and counted, never raised.

Numbers are in the host's byte order, ports and addresses in network byte order. Sources:
sock_diag(7), netlink(7), include/uapi/linux/inet_diag.h, and net/ipv4/inet_diag.c for the filters.
"""

import struct
from collections.abc import Collection, Iterator, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from hogpipe.linux.socket_table import SocketRow

AF_INET, AF_INET6 = 2, 10

_TCPDIAG_GETSOCK = 18  # the older request, which covers TCP of both families
_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x1, 0x10, 0x300
_INET_DIAG_REQ_BYTECODE = 1

# The states in which a process can hold a socket and /proc/net shows it (include/net/tcp_states.h):
# without SYN_RECV (3), TIME_WAIT (6), NEW_SYN_RECV (12) and BOUND_INACTIVE (13).
_STATES = sum(1 << state for state in (1, 2, 4, 5, 7, 8, 9, 10, 11))
_LISTENING = 1 << 10
_SYN_RECV = 1 << 3  # with it the kernel returns NEW_SYN_RECV, too
_ALL_STATES = 0xFFFFFFFF
_LAST_STATE = 13

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_REQUEST = struct.Struct("=BBxxI4s16s16sIQ")  # inet_diag_req_v2, with its inet_diag_sockid
_TCP_REQUEST = struct.Struct("=4x4s16s16sIQII")  # inet_diag_req: its states come last, before dbs
_SOCKET = struct.Struct("=BBxxHH16s16sIIIIIIII")  # inet_diag_msg, the cookie's low half first
_WORD = 4
_PORTS_WORD = (_HEADER.size + 4) // _WORD
_PORTS = slice(_HEADER.size + 4, _HEADER.size + 8)  # source and destination, two bytes each
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_ERROR = struct.Struct("=i")
_NO_COOKIE = 2**64 - 1

_ADDRESS_BYTES = {AF_INET: 4, AF_INET6: 16}

# Operations of a filter: code, jump if the test holds, jump if not. The second operation of a pair
# carries the port of the comparison.
_OPERATION = struct.Struct("=BBH")
_JUMP, _LOCAL_AT_LEAST, _REMOTE_AT_LEAST, _LOCAL_IS, _REMOTE_IS = 1, 2, 4, 11, 12
_COMPARE_BYTES, _JUMP_BYTES = 8, 4
_LEAF_BYTES = _COMPARE_BYTES + _JUMP_BYTES
# The kernel verifies a filter in quadratic time; a longer one costs more than it saves.
_MAX_FILTER_PORTS = 256


class WantedPorts(msgspec.Struct, frozen=True):
    """Pairs of (local, remote) ports, in the byte form of an answer."""

    pairs: frozenset[bytes]
    words: NDArray[np.uint32]
    """The same in ascending order."""


class Answer(msgspec.Struct):
    """The content of one datagram from the kernel."""

    rows: list[SocketRow] = msgspec.field(default_factory=list)
    cookies: list[int] = msgspec.field(default_factory=list)
    """The cookies of the same sockets, which the kernel never reuses."""
    skipped: int = 0
    """Malformed or truncated messages."""
    done: bool = False
    """The dump is complete."""
    error: int = 0
    """The errno of the kernel's refusal, or 0."""
    interrupted: bool = False
    """The table changed during the dump, so sockets may be missing."""


def build_dump(
    family: int, protocol: int, port_pairs: Collection[tuple[int, int]] | None = None
) -> bytes:
    """Return the request for all sockets of a family that a process may hold.

    With `port_pairs`, (local, remote), the kernel filters by ports if there are few of them; the
    answer may still hold other sockets.
    """
    return _build_dump(family, protocol, _STATES, _build_filter(port_pairs))


def build_dump_by_remote_port(family: int, protocol: int, remote_ports: Collection[int]) -> bytes:
    """Return the request for all sockets with a remote port that a process may hold.

    With too many ports the request has no filter, and the answer holds other sockets, too.
    """
    return _build_dump(family, protocol, _STATES, _build_remote_filter(remote_ports))


def build_tcp_dump(port_pairs: Collection[tuple[int, int]] | None = None) -> bytes:
    """Return the request like `build_dump` for TCP over IPv4 and IPv6: one walk of the table.

    With `port_pairs` it includes connections that are still to be established (SYN_RECV).
    """
    states = _STATES if port_pairs is None else _STATES | _SYN_RECV
    return _build_tcp_dump(states, _build_filter(port_pairs))


def build_tcp_dump_by_remote_port(remote_ports: Collection[int]) -> bytes:
    """Return the request of `build_dump_by_remote_port` for TCP over IPv4 and IPv6."""
    return _build_tcp_dump(_STATES, _build_remote_filter(remote_ports))


def build_listening_dump() -> bytes:
    """Return the request for all listening TCP sockets, IPv4 and IPv6."""
    return _build_tcp_dump(_LISTENING, b"")


def build_lookup(
    protocol: int,
    local_address: bytes,
    local_port: int,
    remote_address: bytes,
    remote_port: int,
    *,
    device: int = 0,
) -> bytes:
    """Return the request for the socket to which the kernel would deliver a packet of this tuple.

    A socket that is bound to a device matches only the index of that `device`, any other socket
    matches every index. IPv4 addresses also match dual-stack sockets of IPv6. The answer is one
    message: the socket, which may be a listening one or in TIME_WAIT, or the error ENOENT.
    """
    ports = struct.pack(">HH", local_port, remote_port)
    family = AF_INET if len(local_address) == 4 else AF_INET6
    request = _REQUEST.pack(
        family, protocol, _ALL_STATES, ports, local_address, remote_address, device, _NO_COOKIE
    )
    return _frame(_SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, request)


def pack_ports(port_pairs: Collection[tuple[int, int]]) -> WantedPorts:
    """Return pairs of (local, remote) ports in the byte form of an answer."""
    pairs = frozenset(struct.pack(">HH", *pair) for pair in port_pairs)
    return WantedPorts(pairs, np.sort(np.frombuffer(b"".join(pairs), np.uint32)))


def parse_answer(data: bytes, wanted: WantedPorts | None = None) -> Answer:
    """Return the content of a datagram; with `wanted` (`pack_ports`) only rows of these ports."""
    answer = Answer()
    if wanted is not None and (messages := _split_uniform(data)) is not None:
        for message in _select(messages, wanted):
            _add_row(answer, message)
        return answer
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
            if wanted is None or length < _PORTS.stop or message[_PORTS] in wanted.pairs:
                _add_row(answer, message)
        elif kind in (_NLMSG_DONE, _NLMSG_ERROR):
            _end(answer, message)
        else:
            answer.skipped += 1
    return answer


def _split_uniform(data: bytes) -> NDArray[np.uint32] | None:
    """Return the messages of a datagram in rows, if all describe sockets and have one length.

    So it is of all but the last datagram of a dump, where few of thousands of rows are wanted.
    """
    if len(data) < _HEADER.size + _SOCKET.size:
        return None
    length, kind, flags, _, _ = _HEADER.unpack_from(data)
    is_whole = length >= _HEADER.size + _SOCKET.size and not length % _WORD
    if not is_whole or len(data) % length or kind != _SOCK_DIAG_BY_FAMILY:
        return None
    messages = np.frombuffer(data, np.uint32).reshape(-1, length // _WORD)
    is_same = (messages[:, :2] == messages[0, :2]).all()
    return None if flags & _NLM_F_DUMP_INTR or not is_same else messages


def _select(messages: NDArray[np.uint32], wanted: WantedPorts) -> Iterator[bytes]:
    """Yield the messages with these ports."""
    ports, words = messages[:, _PORTS_WORD], wanted.words
    if len(words):
        places = np.minimum(np.searchsorted(words, ports), len(words) - 1)
        for row in np.flatnonzero(words[places] == ports).tolist():
            yield messages[row].tobytes()


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
    """Apply NLMSG_DONE or NLMSG_ERROR: the payload of both begins with zero or a negative errno."""
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
    """Return the filter attribute that accepts a wanted remote port."""
    ports = sorted(set(remote_ports))
    if len(ports) > _MAX_FILTER_PORTS:
        return b""
    return _attach(_search(_REMOTE_AT_LEAST, _REMOTE_IS, ports, found=0, missing=_JUMP_BYTES))


def _build_filter(port_pairs: Collection[tuple[int, int]] | None) -> bytes:
    """Return the filter attribute that accepts a wanted local port with a wanted remote port."""
    if not port_pairs:
        return b""
    local = sorted({pair[0] for pair in port_pairs})
    remote = sorted({pair[1] for pair in port_pairs})
    if max(len(local), len(remote)) > _MAX_FILTER_PORTS:
        return b""
    remote_search = _search(_REMOTE_AT_LEAST, _REMOTE_IS, remote, found=0, missing=_JUMP_BYTES)
    missing = len(remote_search) + _JUMP_BYTES
    return _attach(
        _search(_LOCAL_AT_LEAST, _LOCAL_IS, local, found=0, missing=missing) + remote_search
    )


def _attach(program: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(program), _INET_DIAG_REQ_BYTECODE) + program


def _search(at_least: int, equals: int, ports: Sequence[int], *, found: int, missing: int) -> bytes:
    """Return the filter program of a binary search for the socket's port in `ports`.

    It continues `found` bytes after its own end if the port is in `ports`, else `missing` bytes
    after it. The kernel accepts a socket if the run stops at the end of the whole filter, and
    rejects it if the run stops four bytes after that. Only forward jumps are allowed, and the jump
    of a test that holds is limited to 255 bytes.
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

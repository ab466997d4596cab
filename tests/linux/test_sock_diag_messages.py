"""Requests and answers of sock_diag, as bytes."""

import errno
import socket
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hogpipe.linux.sock_diag_messages import (
    build_dump,
    build_dump_by_remote_port,
    build_listening_dump,
    build_lookup,
    build_tcp_dump,
    build_tcp_dump_by_remote_port,
    pack_ports,
    parse_answer,
)
from hogpipe.linux.socket_table import SocketRow

HERE, THERE = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
ROW = SocketRow(HERE, 443, THERE, 50_000, 1, 1000, 77)
ROW6 = SocketRow(bytes(15) + b"\1", 80, bytes(16), 0, 10, 0, 78)
COOKIE = 0x1122334455667788
DONE = struct.pack("=IHHIIi", 20, 3, 2, 0, 0, 0)
BY_FAMILY, OLDER = (
    20,
    18,
)  # message types: for one family and protocol, and for TCP of both families
# Bytes before a filter: the header, and inet_diag_req_v2 or inet_diag_req.
HEADS = {BY_FAMILY: 16 + 56, OLDER: 16 + 60}
PORT = st.integers(0, 0xFFFF)
PAIRS = st.sets(st.tuples(PORT, PORT), min_size=1, max_size=60)


def format_socket(
    row: SocketRow, *, family: int | None = None, flags: int = 2, kind: int = BY_FAMILY
) -> bytes:
    """Return the message of a socket with an attribute, as the kernel adds them."""
    if family is None:
        family = socket.AF_INET if len(row.local_address) == 4 else socket.AF_INET6
    body = struct.pack("=BBBB", family, row.state, 0, 0)
    body += struct.pack(">HH16s16s", row.local_port, row.remote_port, row.local_address,
                        row.remote_address)  # fmt: skip
    body += struct.pack("=III", 0, COOKIE & 0xFFFFFFFF, COOKIE >> 32)
    body += struct.pack("=IIIII", 0, 0, 0, row.user_id, row.inode)
    body += struct.pack("=HHB3x", 5, 8, 0)
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body


def filter_of(request: bytes) -> bytes:
    """Return the filter of a dump request, without the header of its attribute."""
    length, kind = struct.unpack_from("=IH", request)
    assert length == len(request)
    attribute = request[HEADS[kind] :]
    if attribute:
        assert struct.unpack_from("=HH", attribute) == (len(attribute), 1)
    return attribute[4:]


def states_of(request: bytes) -> set[int]:
    """Return the socket states of a dump request."""
    kind = struct.unpack_from("=H", request, 4)[0]
    at = 16 + 4 if kind == BY_FAMILY else HEADS[kind] - 8
    mask = struct.unpack_from("=I", request, at)[0]
    return {state for state in range(32) if mask >> state & 1}


def passes(program: bytes, local_port: int, remote_port: int) -> bool:
    """Run a filter like inet_diag_bc_run of net/ipv4/inet_diag.c."""
    at = 0
    while at < len(program):
        code, yes, no = struct.unpack_from("=BBH", program, at)
        if code == 1:
            at += no
            continue
        port = struct.unpack_from("=BBH", program, at + 4)[2]
        holds = {
            2: local_port >= port,
            4: remote_port >= port,
            11: local_port == port,
            12: remote_port == port,
        }[code]
        at += yes if holds else no
    return at == len(program)


def test_sockets_of_both_families_parse_to_rows() -> None:
    answer = parse_answer(format_socket(ROW) + format_socket(ROW6) + DONE)
    assert answer.rows == [ROW, ROW6]
    assert (answer.skipped, answer.done, answer.error, answer.interrupted) == (0, True, 0, False)


@pytest.mark.parametrize("kind", [BY_FAMILY, OLDER])
def test_only_rows_of_the_wanted_ports_are_returned(kind: int) -> None:
    data = format_socket(ROW, kind=kind) + format_socket(ROW6, kind=kind)
    assert parse_answer(data).rows == [ROW, ROW6]
    assert parse_answer(data, pack_ports({(443, 50_000), (443, 0)})).rows == [ROW]
    assert parse_answer(data, pack_ports({(80, 0)})).rows == [ROW6]
    assert parse_answer(data, pack_ports({(50_000, 443)})).rows == []


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([0, 8]))),
    st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3))),
    st.sampled_from([b"", DONE, bytes(8)]),
)
def test_rows_are_selected_by_their_ports_whether_their_messages_have_one_length_or_not(
    ports: list[tuple[int, int, int]], pairs: set[tuple[int, int]], end: bytes
) -> None:
    rows = [SocketRow(HERE, local, THERE, remote, 7, 0, 9) for local, remote, _ in ports]
    attributes = [bytes(size) for _, _, size in ports]
    messages = map(format_with, rows, attributes)
    answer = parse_answer(b"".join(messages) + end, pack_ports(pairs))
    assert answer.rows == [row for row in rows if (row.local_port, row.remote_port) in pairs]
    assert len(answer.cookies) == len(answer.rows)
    assert (answer.done, answer.skipped) == (end == DONE, end == bytes(8))


def format_with(row: SocketRow, attributes: bytes) -> bytes:
    """Return the message of a socket with attributes behind it."""
    message = format_socket(row)
    return struct.pack("=I", len(message) + len(attributes)) + message[4:] + attributes


def test_messages_of_one_length_that_are_marked_are_parsed_one_by_one() -> None:
    wanted = pack_ports({(443, 50_000)})
    marked = format_socket(ROW, flags=2 | 0x10)
    for data in (marked * 2, format_socket(ROW) + marked, marked + format_socket(ROW)):
        answer = parse_answer(data, wanted)
        assert (answer.rows, answer.interrupted) == ([ROW] * 2, True)


def test_both_kinds_of_end_may_carry_an_error() -> None:
    refused = struct.pack("=IHHIIi", 36, 2, 0, 0, 0, -errno.ENOENT) + bytes(16)
    assert parse_answer(refused).error == errno.ENOENT
    late = struct.pack("=IHHIIi", 20, 3, 2, 0, 0, -errno.ENOMEM)
    assert parse_answer(late).error == errno.ENOMEM
    assert parse_answer(late).done


def test_an_interrupted_dump_is_marked_and_used() -> None:
    answer = parse_answer(format_socket(ROW, flags=2 | 0x10))
    assert answer.interrupted
    assert answer.rows == [ROW]


@pytest.mark.parametrize("kept", [4, 15, 16, 40, 87])
def test_a_truncated_message_is_counted_and_the_ones_before_it_are_used(kept: int) -> None:
    answer = parse_answer(format_socket(ROW) + format_socket(ROW6)[:kept])
    assert answer.rows == [ROW]
    assert answer.skipped == 1


def test_a_malformed_message_is_counted_and_the_ones_after_it_are_used() -> None:
    wrong = [
        format_socket(ROW, family=socket.AF_UNIX),
        format_socket(SocketRow(HERE, 443, THERE, 50_000, 0, 0, 0)),
        format_socket(SocketRow(HERE, 443, THERE, 50_000, 99, 0, 0)),
        struct.pack("=IHHIII", 20, 20, 2, 0, 0, 0),
        struct.pack("=IHHIII", 20, 4711, 2, 0, 0, 0),
    ]
    answer = parse_answer(b"".join(wrong) + format_socket(ROW))
    assert answer.rows == [ROW]
    assert answer.skipped == len(wrong)


@given(st.binary(max_size=300), st.lists(st.sampled_from([ROW, ROW6])), st.booleans())
def test_any_bytes_parse_after_complete_messages(
    rest: bytes, rows: list[SocketRow], picky: bool
) -> None:
    wanted = pack_ports({(443, 50_000), (80, 0)}) if picky else None
    answer = parse_answer(b"".join(map(format_socket, rows)) + rest, wanted)
    assert answer.rows[: len(rows)] == rows
    if rest and not (answer.done or answer.rows[len(rows) :]):
        assert answer.skipped or wanted is not None


@given(st.data())
def test_any_bytes_in_a_message_are_a_row_or_counted(data: st.DataObject) -> None:
    body = data.draw(st.binary(max_size=120))
    answer = parse_answer(struct.pack("=IHHII", 16 + len(body), 20, 0, 0, 0) + body)
    assert len(answer.rows) + answer.skipped == 1


def build_udp(pairs: set[tuple[int, int]]) -> bytes:
    return build_dump(socket.AF_INET, socket.IPPROTO_UDP, pairs)


def build_udp_towards(ports: set[int]) -> bytes:
    return build_dump_by_remote_port(socket.AF_INET6, socket.IPPROTO_UDP, ports)


@given(st.sampled_from([build_udp, build_tcp_dump]), PAIRS, st.lists(st.tuples(PORT, PORT)))
def test_a_filter_accepts_wanted_local_ports_with_wanted_remote_ports(
    build: Callable[[set[tuple[int, int]]], bytes],
    pairs: set[tuple[int, int]],
    others: list[tuple[int, int]],
) -> None:
    program = filter_of(build(pairs))
    local, remote = {pair[0] for pair in pairs}, {pair[1] for pair in pairs}
    near = [(port + 1, other) for port, other in pairs]
    for mine, theirs in [*pairs, *others, *near]:
        assert passes(program, mine, theirs) == (mine in local and theirs in remote)


@given(
    st.sampled_from([build_udp_towards, build_tcp_dump_by_remote_port]),
    st.sets(PORT, min_size=1, max_size=256),
    st.lists(st.tuples(PORT, PORT)),
)
def test_a_filter_accepts_wanted_remote_ports_with_any_local_port(
    build: Callable[[set[int]], bytes], ports: set[int], others: list[tuple[int, int]]
) -> None:
    program = filter_of(build(ports))
    near = [(7, port + step) for port in ports for step in (-1, 0, 1)]
    for mine, theirs in [*others, *near]:
        assert passes(program, mine, theirs) == (theirs in ports)


def test_too_many_ports_are_not_filtered_by_the_kernel() -> None:
    for build in (build_udp, build_tcp_dump):
        assert filter_of(build({(port, 443) for port in range(256)}))
        assert not filter_of(build({(port, 443) for port in range(257)}))
    for build_towards in (build_udp_towards, build_tcp_dump_by_remote_port):
        assert filter_of(build_towards(set(range(256))))
        assert not filter_of(build_towards(set(range(257))))


def test_a_dump_requests_sockets_that_a_process_can_hold_or_listening_ones() -> None:
    held = {1, 2, 4, 5, 7, 8, 9, 10, 11}
    requests = [build_udp({(1, 2)}), build_udp_towards({2})]
    for request in (*requests, build_tcp_dump_by_remote_port({2}), build_tcp_dump()):
        assert states_of(request) == held
    assert states_of(build_tcp_dump({(1, 2)})) == held | {3}  # SYN_RECV: what is to be accepted
    assert states_of(build_listening_dump()) == {10}


def test_each_row_has_the_cookie_of_its_socket() -> None:
    answer = parse_answer(format_socket(ROW) + format_socket(ROW6))
    assert answer.rows == [ROW, ROW6]
    assert answer.cookies == [COOKIE, COOKIE]


def test_a_lookup_has_the_family_of_its_addresses() -> None:
    ipv4 = build_lookup(socket.IPPROTO_TCP, HERE, 443, THERE, 50_000)
    ipv6 = build_lookup(socket.IPPROTO_TCP, bytes(16), 443, bytes(16), 50_000)
    assert (ipv4[16], ipv6[16]) == (socket.AF_INET, socket.AF_INET6)
    assert len(ipv4) == len(ipv6) == struct.unpack_from("=I", ipv4)[0] == 72


def test_a_lookup_has_the_index_of_its_device() -> None:
    ends = socket.IPPROTO_TCP, HERE, 443, THERE, 50_000
    at = 16 + 8 + 4 + 2 * 16  # header, fields before the ports, ports, addresses
    for device in (0, 7):
        request = build_lookup(*ends, device=device)
        assert struct.unpack_from("=I", request, at) == (device,)

"""Queries and answers of ctnetlink, as bytes."""

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hogpipe.linux.ctnetlink_messages import (
    ECHO_REPLY,
    ECHO_REQUEST,
    Answer,
    Connection,
    ConnectionTuple,
    build_query,
    parse_answer,
)

TCP = 6
CONTAINER, HOST, OUTSIDE = bytes([10, 88, 0, 2]), bytes([10, 89, 0, 1]), bytes([10, 89, 0, 2])
LEAVING = ConnectionTuple(TCP, CONTAINER, 40268, OUTSIDE, 9000)
ARRIVING = ConnectionTuple(TCP, OUTSIDE, 9000, HOST, 40268)

# As Linux 6.18 answers the query for ARRIVING: a masqueraded connection, with its status, timeout
# and the state of TCP.
RECORDED = bytes.fromhex(
    "d4000000000102000000000079690000020000003400018014000180080001000a580002080002000a5900021c000280"
    "0500010006000000060002009d4c000006000300232800003400028014000180080001000a590002080002000a590001"
    "1c00028005000100060000000600020023280000060003009d4c0000080003000000019e080008000000000008000c00"
    "a9cc307608000b0000000002080007000006977f300004802c0001800500010003000000050002000a00000005000300"
    "0a00000006000400230000000600050023000000"
)
RECORDED_QUERY = bytes.fromhex(
    "48000000010101000000000000000000020000003400018014000180080001000a590002080002000a5900011c000280"
    "05000100060000000600020023280000060003009d4c0000"
)
RECORDED_REFUSAL = bytes.fromhex(
    "5c000000020000000000000079690000feffffff48000000010101000000000000000000020000003400018014000180"
    "080001000a590002080002000a5900011c00028005000100060000000600020000010000060003009d4c0000"
)

port = st.integers(0, 0xFFFF)


def tuples_between(addresses: st.SearchStrategy[bytes]) -> st.SearchStrategy[ConnectionTuple]:
    with_ports = st.sampled_from([6, 17, 132, 136])
    ends = (addresses, port, addresses, port)
    return st.builds(ConnectionTuple, with_ports, *ends, icmp_type=st.just(0))


tuples = tuples_between(st.binary(min_size=4, max_size=4)) | tuples_between(
    st.binary(min_size=16, max_size=16)
)


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def answer_of(connection: Connection) -> bytes:
    """Return the answer of a kernel: the tuples as a query has them, then another attribute."""
    original, reply = (build_query(one)[20:] for one in connection)
    reply = reply[:2] + struct.pack("=H", 2 | 0x8000) + reply[4:]
    body = bytes([2, 0, 0, 0]) + original + reply + attribute(3, bytes(4))
    return struct.pack("=IHHII", 16 + len(body), 0x100, 0, 0, 0) + body


def test_the_query_is_the_one_that_the_kernel_answered() -> None:
    assert build_query(ARRIVING) == RECORDED_QUERY


def test_an_answer_has_the_tuples_of_both_directions() -> None:
    assert parse_answer(RECORDED) == Answer(Connection(LEAVING, ARRIVING))


def test_an_unknown_tuple_is_an_error_of_the_kernel() -> None:
    assert parse_answer(RECORDED_REFUSAL) == Answer(error=errno.ENOENT)


@given(tuples, tuples)
def test_tuples_pass_through_a_query_and_an_answer_unchanged(
    original: ConnectionTuple, reply: ConnectionTuple
) -> None:
    connection = Connection(original, reply)
    assert parse_answer(answer_of(connection)) == Answer(connection)


@pytest.mark.parametrize("types", [ECHO_REPLY, ECHO_REQUEST])
@pytest.mark.parametrize(("protocol", "size"), [(1, 4), (58, 16)])
def test_an_echo_has_its_identifier_and_its_type(
    types: dict[int, int], protocol: int, size: int
) -> None:
    echo = ConnectionTuple(protocol, bytes(size), 77, bytes(size), 77, types[protocol])
    connection = Connection(echo, echo)
    assert parse_answer(answer_of(connection)) == Answer(connection)


@given(st.binary(max_size=300))
def test_any_bytes_parse(data: bytes) -> None:
    parse_answer(data)


@given(st.integers(0, len(RECORDED) - 1), st.binary(min_size=1, max_size=4))
def test_a_damaged_answer_parses(at: int, damage: bytes) -> None:
    parse_answer(RECORDED[:at] + damage + RECORDED[at + len(damage) :])


@given(st.integers(0, len(RECORDED)))
def test_a_truncated_answer_is_no_connection_or_the_whole_one(length: int) -> None:
    assert parse_answer(RECORDED[:length]).connection in {None, Connection(LEAVING, ARRIVING)}

"""Parsing of socket tables."""

import ipaddress
import itertools
import mmap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_proc import LISTEN, format_row, format_table, format_time_wait

from hogpipe.linux.socket_table import READ_BYTES, SocketRow, TableText, join_reads, parse_table

# Lines of a little-endian kernel.
CONNECTION4 = (
    b"   1: 0100007F:1F90 0200007F:C350 01 00000000:00000000 00:00000000 00000000"
    b"  1000        0 4711 1 0000000000000000 20 4 30 10 -1   "
)
CONNECTION6 = (
    b"   2: 0000000000000000FFFF00000100007F:0050 0000000000000000FFFF00000200007F:C351 01"
    b" 00000000:00000000 02:000000A1 00000000    33        0 815 2 0000000000000000 20 4 0 10 -1"
)


def address(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


@pytest.mark.skipif("sys.byteorder != 'little'", reason="the lines are of a little-endian host")
def test_addresses_are_words_in_host_byte_order_and_ports_are_numbers() -> None:
    rows, skipped = parse_table(b"header\n" + CONNECTION4 + b"\n" + CONNECTION6 + b"\n")
    assert skipped == 0
    assert rows == [
        SocketRow(address("127.0.0.1"), 8080, address("127.0.0.2"), 50000, 1, 1000, 4711),
        SocketRow(address("::ffff:127.0.0.1"), 80, address("::ffff:127.0.0.2"), 50001, 1, 33, 815),
    ]


def test_shifted_columns_parse() -> None:
    ours, theirs = (address("10.0.0.1"), 1), (address("10.0.0.2"), 2)
    table = format_table(
        [
            format_row(ours, theirs, inode=5, uid=6, slot=9_999),
            format_row(ours, theirs, inode=7, uid=6, slot=10_000),
            format_row(ours, theirs, inode=2**64 - 1, uid=2**32 - 2, slot=1_234_567),
        ]
    )
    rows, skipped = parse_table(table)
    assert skipped == 0
    assert [(row.inode, row.user_id) for row in rows] == [
        (5, 6),
        (7, 6),
        (2**64 - 1, 2**32 - 2),
    ]


def test_time_wait_rows_are_shorter_and_have_no_inode() -> None:
    table = format_table([format_time_wait((address("10.0.0.1"), 1), (address("10.0.0.2"), 2))])
    rows, skipped = parse_table(table)
    assert (rows[0].inode, skipped) == (0, 0)


def test_only_rows_with_a_wanted_pair_of_ports_are_returned() -> None:
    here, there = address("10.0.0.1"), address("10.0.0.2")
    table = format_table(
        [
            format_row((here, 80), (there, 1000), inode=1),
            format_row((here, 80), (there, 1001), inode=2),
            format_row((here, 80), (bytes(4), 0), inode=3, state=LISTEN),
            format_row((here, 1000), (there, 80), inode=4),
        ]
    )
    rows, skipped = parse_table(table, {(80, 1001), (80, 0)})
    assert ([row.inode for row in rows], skipped) == ([2, 3], 0)


@pytest.mark.parametrize(
    "line",
    [
        CONNECTION4[:40],  # truncated before the uid
        CONNECTION4[: CONNECTION4.index(b"4711") + 2],  # truncated within the inode
        CONNECTION4.replace(b" 01 ", b" 0E "),  # an unknown state
        CONNECTION4.replace(b" 01 ", b" zz "),
        CONNECTION4.replace(b"0100007F:1F90", b"01G0007F:1F90"),
        CONNECTION4.replace(b"0100007F:1F90", b"0100007F:1F9G"),
        CONNECTION4.replace(b"0100007F:1F90", b"0100007F01F90"),
        CONNECTION4.replace(b"0100007F:1F90", b"00007F:1F90"),
        CONNECTION4.replace(b"0100007F:1F90", b"0100007F:001F90"),
        CONNECTION4.replace(b"0100007F:1F90", b"0000000000000000FFFF00000100007F:1F90"),
        CONNECTION4.replace(b"4711", b"-471"),
        CONNECTION4.replace(b"1000", b"1_00"),
        b"garbage",
        b"\xff\x00 \xfe",
        b" ",
    ],
)
def test_only_malformed_rows_are_skipped_and_counted(line: bytes) -> None:
    table = b"\n".join([b"header", CONNECTION4, line, CONNECTION6, b""])
    rows, skipped = parse_table(table)
    assert ([row.inode for row in rows], skipped) == ([4711, 815], 1)


def test_an_empty_table_has_no_rows() -> None:
    assert parse_table(b"") == ([], 0)
    assert parse_table(b"header\n") == ([], 0)


@given(st.binary() | st.lists(st.sampled_from([CONNECTION4, b"\n", b" ", b":"])).map(b"".join))
def test_any_bytes_parse_and_each_line_is_a_row_or_counted(data: bytes) -> None:
    rows, skipped = parse_table(data)
    lines = [line for line in data.split(b"\n")[1:] if line]
    alone = [parse_table(b"header\n" + line) for line in lines]
    inodes = [row.inode for found, _ in alone for row in found]
    repeated = len([inode for inode in inodes if inode]) - len({inode for inode in inodes if inode})
    assert len(rows) + skipped + repeated == len(lines)


PORTS = st.integers(0, 0xFFFF)


@st.composite
def socket_rows(draw: st.DrawFn) -> SocketRow:
    addresses = st.binary(min_size=4, max_size=4)
    if draw(st.booleans()):
        addresses = st.binary(min_size=16, max_size=16)
    return SocketRow(
        local_address=draw(addresses),
        local_port=draw(PORTS),
        remote_address=draw(addresses),
        remote_port=draw(PORTS),
        state=draw(st.integers(1, 13)),
        user_id=draw(st.integers(0, 2**32 - 1)),
        inode=draw(st.integers(0, 2**64 - 1)),
    )


@given(st.lists(socket_rows(), unique_by=lambda row: row.inode), st.integers(0, 100_000))
def test_printed_rows_parse_to_the_same_values(rows: list[SocketRow], slot: int) -> None:
    lines = [
        format_row(
            (row.local_address, row.local_port),
            (row.remote_address, row.remote_port),
            inode=row.inode,
            state=row.state,
            uid=row.user_id,
            slot=slot,
        )
        for row in rows
    ]
    assert parse_table(format_table(lines)) == (rows, 0)


def test_a_socket_that_the_kernel_returned_twice_is_one_row() -> None:
    local, remote = (bytes([10, 0, 0, 1]), 80), (bytes([10, 0, 0, 2]), 4000)
    lines = [format_row(local, remote, inode=7, state=state, uid=0, slot=0) for state in (1, 8)]
    (row,), skipped = parse_table(format_table(lines))
    assert (row.inode, row.state, skipped) == (7, 8, 0)


def test_sockets_without_an_inode_stay_apart() -> None:
    local, remote = (bytes([10, 0, 0, 1]), 80), (bytes([10, 0, 0, 2]), 4000)
    lines = [format_row(local, remote, inode=0, state=6, uid=0, slot=0) for _ in range(2)]
    assert len(parse_table(format_table(lines))[0]) == 2


def never() -> bool:
    return False


def test_a_table_ends_with_its_first_short_read() -> None:
    full, rest = b"x" * (mmap.PAGESIZE - 150), b"y" * 150
    never_ending = itertools.chain([full, full, rest], itertools.repeat(rest))
    assert join_reads(never_ending, never) == TableText(full + full + rest)


@pytest.mark.parametrize("size", [0, 1, 150, mmap.PAGESIZE - 1, mmap.PAGESIZE, READ_BYTES])
def test_a_table_of_full_reads_ends_where_the_file_does(size: int) -> None:
    full = b"x" * mmap.PAGESIZE
    assert join_reads([full, b"y" * size], never) == TableText(full + b"y" * size)


def test_a_table_whose_full_reads_never_end_is_incomplete_at_the_deadline() -> None:
    full = b"x" * mmap.PAGESIZE
    overdue = iter([False, False, True])
    table = join_reads(itertools.repeat(full), lambda: next(overdue))
    assert table == TableText(full * 3, is_complete=False)


def test_a_table_that_ends_at_the_deadline_is_complete() -> None:
    assert join_reads([b"x" * 150], lambda: True).is_complete


@pytest.mark.parametrize("version", ["", "6"])
@pytest.mark.parametrize("name", ["tcp", "udp", "udplite", "raw", "icmp"])
def test_every_row_of_this_kernel_parses(name: str, version: str) -> None:
    path = Path("/proc/net", name + version)
    if not path.exists():
        pytest.skip(f"this kernel has no {path}")
    data = path.read_bytes()
    rows, skipped = parse_table(data)
    assert (len(rows), skipped) == (data.count(b"\n") - 1, 0)

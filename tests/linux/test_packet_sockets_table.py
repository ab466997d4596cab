"""Packet sockets over sock_diag and from the text table."""

import os
import socket
from pathlib import Path

import pytest
from support.namespaces import Namespace

from hogpipe.linux.packet_sockets import (
    PacketSocket,
    parse_packet_message,
    parse_packet_table,
    read_packet_sockets,
)

HEAD = b"sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n"


def test_both_tables_show_the_socket_with_what_it_is_bound_to(netns: Namespace) -> None:
    def read() -> tuple[int, list[PacketSocket], list[PacketSocket]]:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as one:
            one.bind(("lo", 0x0800))
            table = Path("/proc/thread-self/net/packet").read_bytes()
            return (
                os.fstat(one.fileno()).st_ino,
                read_packet_sockets(Path("/proc")),
                (parse_packet_table(table)),
            )

    inode, dumped, shown = netns.call(read)
    assert dumped == shown == [PacketSocket(inode, 1, 0x0800, os.getuid())]


@pytest.mark.parametrize("row", [b"", b"a b c\n", b"0 3 3 zz 1 1 0 0 7\n", b"0 3 3 0003 1 1 0 0\n"])
def test_a_malformed_row_is_skipped(row: bytes) -> None:
    whole = b"0000 3 3 0003 2 1 0 1000 77\n"
    assert parse_packet_table(HEAD + row + whole) == [PacketSocket(77, 2, 3, 1000)]


@pytest.mark.parametrize("payload", [b"", bytes(8), bytes(16), bytes(20)])
def test_a_malformed_answer_is_no_socket(payload: bytes) -> None:
    assert parse_packet_message(payload) is None

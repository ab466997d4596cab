"""Rows of the kernel's socket tables: /proc/net/{tcp,udp,udplite,raw,icmp} and their IPv6 forms.

PURE: bytes of a table in, rows out. A malformed row is skipped and counted, never raised.

All tables share their first ten columns: `sl local remote st tx:rx tr:when retrnsmt uid timeout
inode`. get_tcp4_sock and similar functions print them (net/ipv4/tcp_ipv4.c, udp.c, raw.c, ping.c;
net/ipv6/tcp_ipv6.c, datagram.c). The offset of a column is not fixed (rows grow from row 10,000 on,
and every IPv6 row is longer), so the parser splits at blanks.

A table ends with its first short read (`join_reads`). The kernel returns whole rows, at most a page
at a time (seq_read_iter, fs/seq_file.c). After the last row, the next read(2) searches its position
from the start of the hash (tcp_seq_start, net/ipv4/tcp_ipv4.c) and returns the few rows that were
inserted meanwhile. A reader that waits for EOF thus walks the whole hash again and again, for as
long as connections come. Nothing bounds the number of full reads, so reading ends at a deadline,
too; the table is then incomplete.
"""

import mmap
import struct
from binascii import unhexlify
from collections.abc import Callable, Collection, Iterable

import msgspec

TCP_LISTEN = 0x0A
TCP_CLOSING = frozenset({0x04, 0x05, 0x06, 0x09, 0x0B})
"""FIN_WAIT1, FIN_WAIT2, TIME_WAIT, LAST_ACK, CLOSING: without an inode, no process holds it."""
TCP_UNACCEPTED = frozenset({0x01, 0x03, 0x08})
"""ESTABLISHED, SYN_RECV, CLOSE_WAIT: without an inode, no process has accepted the connection."""

READ_BYTES = 1 << 16
"""The size of a read(2) of a table: of a page or more, so that only the last one is short."""

# No row is longer: those of tcp6 have about 180 bytes, those of unix a path of at most 108.
_LONGEST_ROW = 512
_SHORT = mmap.PAGESIZE - _LONGEST_ROW

# TCP_ESTABLISHED to TCP_BOUND_INACTIVE (include/net/tcp_states.h).
_STATES = {b"%02X" % state: state for state in range(0x01, 0x0E)}


class SocketRow(msgspec.Struct, frozen=True, gc=False):
    """A row of a socket table. Addresses are in network byte order, 4 or 16 bytes.

    In the raw tables the local port is the protocol number, in the icmp tables the identifier.
    If `inode` is 0, no process holds the socket (TIME_WAIT, SYN_RECV, not yet accepted, orphaned),
    and `user_id` is meaningless.
    """

    local_address: bytes
    local_port: int
    remote_address: bytes
    remote_port: int
    state: int
    user_id: int
    inode: int


class TableText(msgspec.Struct, frozen=True, gc=False):
    """A table as the kernel returned it."""

    data: bytes
    is_complete: bool = True
    """Whether the last row was reached before the deadline."""


def join_reads(reads: Iterable[bytes], is_overdue: Callable[[], bool]) -> TableText:
    """Return a table from its reads of READ_BYTES, up to the first short or empty one.

    The table is incomplete if `is_overdue` is true after a read that was not short.
    """
    found = []
    for data in reads:
        found.append(data)
        if len(data) < _SHORT:
            break
        if is_overdue():
            return TableText(b"".join(found), is_complete=False)
    return TableText(b"".join(found))


def parse_table(
    data: bytes,
    port_pairs: Collection[tuple[int, int]] | None = None,
    remote_ports: Collection[int] = (),
) -> tuple[list[SocketRow], int]:
    """Return the rows of a table and the number of malformed rows that were skipped.

    If `port_pairs` is given, only rows with one of these (local, remote) pairs of ports, or with
    one of `remote_ports`, are returned. The other rows are only checked for their number of columns
    and their state, which keeps a table of tens of thousands of rows cheap. If the kernel returned
    a socket twice, because rows moved between two reads, only the later row is returned.
    """
    wanted = None if port_pairs is None else {b"%04X%04X" % pair for pair in port_pairs}
    towards = {b"%04X" % port for port in remote_ports}
    rows: list[SocketRow] = []
    places: dict[int, int] = {}
    skipped = 0
    for line in data.split(b"\n")[1:]:
        if not line:
            continue
        try:
            _, local, remote, state, rest = line.split(None, 4)
            state_number = _STATES[state]
            port = remote[-4:]
            if wanted is None or local[-4:] + port in wanted or port in towards:
                row = _parse_row(local, remote, state_number, rest)
                place = places.setdefault(row.inode, len(rows)) if row.inode else len(rows)
                rows[place : place + 1] = [row]
        except (ValueError, KeyError):
            skipped += 1
    return rows, skipped


def _parse_row(local: bytes, remote: bytes, state: int, rest: bytes) -> SocketRow:
    # The column after the inode is required too: without it the inode may be truncated.
    _, _, _, user_id, _, inode, _ = rest.split(None, 6)
    if not (user_id.isdigit() and inode.isdigit()):
        raise ValueError
    local_address, local_port = _parse_endpoint(local)
    remote_address, remote_port = _parse_endpoint(remote)
    if len(local_address) != len(remote_address):
        raise ValueError
    return SocketRow(
        local_address=local_address,
        local_port=local_port,
        remote_address=remote_address,
        remote_port=remote_port,
        state=state,
        user_id=int(user_id),
        inode=int(inode),
    )


def _parse_endpoint(text: bytes) -> tuple[bytes, int]:
    """Return address and port of `HHHHHHHH:PPPP`, or of the form with four address words.

    The kernel prints each word in the host's byte order, the port as a plain number.
    """
    address, port = text.split(b":")
    if len(port) != 4:
        raise ValueError
    raw = unhexlify(address)
    words = {4: 1, 16: 4}.get(len(raw))
    if words is None:
        raise ValueError
    numbers = struct.unpack(f">{words}I", raw)
    return struct.pack(f"={words}I", *numbers), int.from_bytes(unhexlify(port), "big")

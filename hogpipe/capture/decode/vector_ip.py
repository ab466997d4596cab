"""Wire keys and lengths of many IP packets of one version at once.

Does what `frame` does for ordinary packets: whole, with no extension header, IPv4 without options,
with all captured that is asked of its transport header. What is not ordinary is left to that.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hogpipe.capture.decode.rows import Indices, Rows, RowType, read_rows, row_type
from hogpipe.capture.decode.scalar_ip import (
    ACK,
    ECHO_TYPES,
    EXTENSIONS,
    SYN,
    TCP_FLAGS,
)
from hogpipe.capture.decode.vector_link import Packets
from hogpipe.capture.decode.wire_key import KEY
from hogpipe.protocols import ICMP, ICMPV6, TCP, WITH_PORTS

MOST_BYTES = 56
"""No row reads more than this from its IP header on."""

_NEVER = 1 << 40
# As arrays, for NumPy takes them in half the time that it takes a Python number.
_OPENING, _SYN, _TCP = (np.array(number, np.uint8) for number in (SYN | ACK, SYN, TCP))

_PORT_MASK = np.zeros(256, np.uint32)
_PORT_MASK[list(WITH_PORTS)] = 0xFFFFFFFF


class PacketColumns(NamedTuple):
    """Ordinary packets, a row each: the index of its frame, its packed key, and so on."""

    frame: Indices
    keys: NDArray[np.void]
    lengths: Indices
    opened: NDArray[np.bool_]

    def take(self, rows: Indices | NDArray[np.bool_]) -> "PacketColumns":
        """Return these rows."""
        return PacketColumns(
            self.frame[rows], self.keys[rows], self.lengths[rows], self.opened[rows]
        )


_NONE = PacketColumns(
    np.empty(0, np.int64), np.empty(0, f"V{KEY.size}"), np.empty(0, np.int64), np.empty(0, np.bool_)
)


@dataclass(frozen=True, slots=True)
class _Layout:
    """The ordinary packets of one version of IP, as rows that begin with the IP header.

    `start`, the first eight bytes of a row, is `ordinary_start` under `start_mask`. `needed` is how
    much of a packet must be there, by protocol.
    """

    version: int
    row: RowType
    key: RowType
    start_mask: NDArray[np.uint64]
    ordinary_start: NDArray[np.uint64]
    length_added: int
    echo: int
    needed: Indices


def _row(size: int, fields: dict[str, tuple[str, int]], transport: int) -> RowType:
    """Return the type of a row with `fields`, and those of a transport header at an offset."""
    return row_type(
        size,
        fields
        | {
            "start": ("u8", 0),
            "ports": ("u4", transport),
            "flags": ("u1", transport + TCP_FLAGS),
            "echo_type": ("u1", transport),
            "echo_identifier": ("u2", transport + 4),
        },
    )


def _key(address: str) -> RowType:
    """Return the type of a packed key with addresses of a type; see `wire_key.KEY`."""
    return row_type(
        KEY.size,
        {
            "version": ("u1", 0),
            "protocol": ("u1", 1),
            "path": ("u1", 2),
            "ports": ("u4", 4),
            "source_port": ("u2", 4),
            "destination_port": ("u2", 6),
            "source": (address, 8),
            "destination": (address, 24),
        },
    )


def _word(octets: str) -> NDArray[np.uint64]:
    return np.frombuffer(bytes.fromhex(octets), np.uint64).reshape(())


def _bytes_needed(header: int, echo: int, never: frozenset[int]) -> Indices:
    """Return how much of a packet each protocol's key takes."""
    needed = np.full(256, header, np.int64)
    needed[list(WITH_PORTS)] += 4
    needed[TCP] = header + TCP_FLAGS + 1
    needed[echo] += 6
    needed[list(never)] = _NEVER
    return needed


_IPV4 = _Layout(
    version=4,
    row=_row(
        40,
        {
            "length": (">u2", 2),
            "protocol": ("u1", 9),
            "source": ("V4", 12),
            "destination": ("V4", 16),
        },
        transport=20,
    ),
    key=_key("V4"),
    # No options; neither more fragments nor an offset.
    start_mask=_word("ff00 0000 0000 3fff"),
    ordinary_start=_word("4500 0000 0000 0000"),
    length_added=0,
    echo=ICMP,
    needed=_bytes_needed(20, ICMP, frozenset()),
)
_IPV6 = _Layout(
    version=6,
    row=_row(
        56,
        {
            "length": (">u2", 4),
            "protocol": ("u1", 6),
            "source": ("V16", 8),
            "destination": ("V16", 24),
        },
        transport=40,
    ),
    key=_key("V16"),
    start_mask=_word("f000 0000 0000 0000"),
    ordinary_start=_word("6000 0000 0000 0000"),
    length_added=40,
    echo=ICMPV6,
    needed=_bytes_needed(40, ICMPV6, EXTENSIONS),
)


def decode_packets(data: bytes, packets: Packets, end: Indices) -> PacketColumns:
    """Return those of `packets` that are ordinary, in the same order.

    `end` is where each frame ends in `data`, which has MOST_BYTES at least.
    """
    parts = [
        _decode_version(data, packets, index, end[index], layout)
        for layout in (_IPV4, _IPV6)
        if len(index := (packets.kind == layout.version).nonzero()[0])
    ]
    if len(parts) == 1:
        return parts[0]
    both = PacketColumns(*map(np.concatenate, zip(_NONE, *parts, strict=True)))
    return both.take(both.frame.argsort())


def _decode_version(
    data: bytes, packets: Packets, index: Indices, end: Indices, layout: _Layout
) -> PacketColumns:
    at = packets.at[index]
    rows = read_rows(data, at, layout.row)
    protocol = rows["protocol"]
    lengths = rows["length"].astype(np.int64)
    lengths += layout.length_added
    ordinary = rows["start"] & layout.start_mask == layout.ordinary_start
    ordinary &= np.minimum(end - at, lengths) >= layout.needed.take(protocol)
    ordinary &= at <= len(data) - layout.row.size  # else the row is not from `at` on
    keys = np.zeros(len(rows), layout.key.fields)
    keys["version"] = layout.version
    keys["protocol"] = protocol
    keys["path"] = packets.path[index]
    keys["ports"] = rows["ports"] & _PORT_MASK.take(protocol)
    keys["source"] = rows["source"]
    keys["destination"] = rows["destination"]
    _set_identifiers(keys, rows, layout)
    opened = (rows["flags"] & _OPENING == _SYN) & (protocol == _TCP)
    columns = PacketColumns(index, keys.view(layout.key.bare), lengths, opened)
    if np.count_nonzero(ordinary) == len(ordinary):
        return columns
    return columns.take(ordinary)


def _set_identifiers(keys: Rows, rows: Rows, layout: _Layout) -> None:
    """Put the identifier of ICMP echos in place of their ports."""
    echoes = (rows["protocol"] == layout.echo).nonzero()[0]
    if echoes.size:
        kinds = rows["echo_type"][echoes]
        request, reply = ECHO_TYPES[layout.version, layout.echo]
        echoes = echoes[(kinds == request) | (kinds == reply)]
        identifiers = rows["echo_identifier"][echoes]
        keys["source_port"][echoes] = identifiers
        keys["destination_port"][echoes] = identifiers

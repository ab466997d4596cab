"""Wire keys and lengths of many IP packets of one version at once.

Does what `frame` does for ordinary packets: whole, with no extension header, IPv4 without options,
with all captured that is asked of its transport header. What is not ordinary is left to that.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hogpipe.capture.bulk_link import Indices, Packets, windows
from hogpipe.capture.frame import (
    ACK,
    ECHO_TYPES,
    EXTENSIONS,
    ICMP,
    ICMPV6,
    SYN,
    TCP,
    TCP_FLAGS,
    WITH_PORTS,
)
from hogpipe.capture.wire_key import KEY

MOST_BYTES = 56
"""No row reads more than this from its IP header on."""

_TRANSPORT_BYTES = 16  # of the transport header: up to the TCP flags, in whole 32-bit words
_NEVER = 1 << 40

_PORT_MASK = np.zeros(256, np.uint32)
_PORT_MASK[list(WITH_PORTS)] = 0xFFFFFFFF


def _bytes_needed(echo: int, never: frozenset[int]) -> Indices:
    """Return how much of a transport header each protocol's key takes."""
    needed = np.zeros(256, np.int64)
    needed[list(WITH_PORTS)] = 4
    needed[TCP] = TCP_FLAGS + 1
    needed[echo] = 6
    needed[list(never)] = _NEVER
    return needed


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where an IP header has what; `first` is its first byte under `first_mask`."""

    version: int
    header: int
    first_mask: int
    first: int
    length_at: int
    length_added: int
    protocol_at: int
    addresses_at: int
    address_width: int
    echo: int
    needed: Indices


_LAYOUTS = {
    4: _Layout(4, 20, 0xFF, 0x45, 2, 0, 9, 12, 4, ICMP, _bytes_needed(ICMP, frozenset())),
    6: _Layout(6, 40, 0xF0, 0x60, 4, 40, 6, 8, 16, ICMPV6, _bytes_needed(ICMPV6, EXTENSIONS)),
}


class PacketColumns(NamedTuple):
    """Ordinary packets, a row each: the index of its frame, its key as five words, and so on."""

    frame: Indices
    keys: NDArray[np.uint64]
    lengths: Indices
    opened: NDArray[np.bool_]


def decode_packets(data: bytes, packets: Packets, end: Indices, version: int) -> PacketColumns:
    """Return those of `packets` that are ordinary and of IP `version`.

    `end` is where each frame ends in `data`, which has MOST_BYTES at least.
    """
    layout = _LAYOUTS[version]
    index = np.flatnonzero(packets.kind == version)
    at = packets.at[index]
    width = layout.header + _TRANSPORT_BYTES
    rows = windows(data, at, width)
    lengths = _column16(rows, layout.length_at) + layout.length_added
    protocol = rows[:, layout.protocol_at]
    own = np.minimum(end[index] - at, lengths)
    ordinary = own >= layout.header + layout.needed[protocol]
    ordinary &= rows[:, 0] & layout.first_mask == layout.first
    ordinary &= at <= len(data) - width  # else the row is not from `at` on
    if version == 4:
        ordinary &= _column16(rows, 6) & 0x3FFF == 0  # neither more fragments nor an offset
    if not ordinary.all():
        index, rows, lengths = index[ordinary], rows[ordinary], lengths[ordinary]
        protocol = protocol[ordinary]
    keys = _make_keys(rows, protocol, layout)
    keys.view(np.uint8)[:, 2] = packets.path[index]
    flags = rows[:, layout.header + TCP_FLAGS]
    return PacketColumns(index, keys, lengths, (protocol == TCP) & (flags & (SYN | ACK) == SYN))


def _column16(rows: NDArray[np.uint8], at: int) -> Indices:
    return rows[:, at : at + 2].view(">u2")[:, 0].astype(np.int64)


def _make_keys(
    rows: NDArray[np.uint8], protocol: NDArray[np.uint8], layout: _Layout
) -> NDArray[np.uint64]:
    """Return wire keys without their path; see `wire_key.KEY`."""
    keys = np.zeros((len(rows), KEY.size // 8), np.uint64)
    octets, words, row_words = keys.view(np.uint8), keys.view(np.uint32), rows.view(np.uint32)
    octets[:, 0] = layout.version
    octets[:, 1] = protocol
    words[:, 1] = row_words[:, layout.header // 4] & _PORT_MASK[protocol]
    at, width = layout.addresses_at // 4, layout.address_width // 4
    words[:, 2 : 2 + width] = row_words[:, at : at + width]
    words[:, 6 : 6 + width] = row_words[:, at + width : at + 2 * width]
    echoes = np.flatnonzero(protocol == layout.echo)
    if echoes.size:
        kinds = rows[echoes, layout.header]
        request, reply = ECHO_TYPES[layout.version, layout.echo]
        echoes = echoes[(kinds == request) | (kinds == reply)]
        identifiers = rows.view(np.uint16)[echoes, layout.header // 2 + 2]
        keys.view(np.uint16)[echoes, 2:4] = identifiers[:, np.newaxis]
    return keys

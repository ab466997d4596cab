"""PURE: wire keys and lengths of many IP packets at once.

In: the data of a batch and the `Packets` that `vector_link` located. Out: `PacketColumns` of the
ordinary packets: whole, IPv4 without options or IPv6 without extension headers, captured as far as
their key needs, and no longer than their frame on the link. For these the result is that of
`scalar_ip`, which decodes all others.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hogpipe.capture.decode.columns import Indices, Rows, RowType, gather_rows, row_type
from hogpipe.capture.decode.scalar_ip import ACK, ECHO_TYPES, EXTENSIONS, SYN, TCP_FLAGS
from hogpipe.capture.decode.vector_link import Packets
from hogpipe.capture.decode.wire_key import DIRECTION_SHIFT, KEY
from hogpipe.protocols import ICMP, ICMPV6, TCP, WITH_PORTS

MAX_ROW_BYTES = 56
"""No row reads more than this from its IP header on."""

_NEVER = 1 << 40
# As arrays, for NumPy takes them in half the time that it takes a Python number.
_OPENING, _SYN = (np.array(number, np.uint8) for number in (SYN | ACK, SYN))
_DIRECTION_SHIFT = np.array(DIRECTION_SHIFT, np.uint8)

_PORT_MASK = np.zeros(256, np.uint32)
_PORT_MASK[list(WITH_PORTS)] = 0xFFFFFFFF


class PacketColumns(NamedTuple):
    """Packets, a row each: index of the frame, packed wire key, IP length, whether a SYN opened."""

    frame: Indices
    keys: NDArray[np.void]
    lengths: Indices
    opened: NDArray[np.bool_]

    def take(self, rows: Indices) -> "PacketColumns":
        """Return these rows."""
        return PacketColumns(
            self.frame.take(rows),
            self.keys.take(rows),
            self.lengths.take(rows),
            self.opened.take(rows),
        )


_NO_PACKETS = PacketColumns(
    np.empty(0, np.int64), np.empty(0, f"V{KEY.size}"), np.empty(0, np.int64), np.empty(0, np.bool_)
)


@dataclass(frozen=True, slots=True)
class _Layout:
    """The ordinary packets of one version of IP, as rows that begin with the IP header.

    A packet is ordinary if the first eight bytes of its row, under `start_mask`, are
    `ordinary_start`, and if it has the `needed` bytes of its protocol. `head` is the first word of
    the packed key by protocol, without a direction.
    """

    version: int
    row: RowType
    key: RowType
    addresses: tuple[str, ...]
    """The fields that a key has in common with the row."""
    head: NDArray[np.uint32]
    start_mask: NDArray[np.uint64]
    ordinary_start: NDArray[np.uint64]
    length_added: int
    echo: int
    needed: Indices


@dataclass(frozen=True, slots=True)
class _Header:
    """Sizes and offsets in the header of one version of IP.

    `addresses` are the fields that the header and the packed key (`wire_key.KEY`) have in common:
    type, offset in the header, offset in the key.
    """

    version: int
    size: int
    length_at: int
    protocol_at: int
    addresses: dict[str, tuple[str, int, int]]

    def row(self, size: int) -> RowType:
        """Return the type of rows of `size` bytes that begin with this header."""
        transport = self.size
        return row_type(
            size,
            {
                "start": ("u8", 0),
                "length": (">u2", self.length_at),
                "protocol": ("u1", self.protocol_at),
                "ports": ("u4", transport),
                "flags": ("u1", transport + TCP_FLAGS),
                "echo_type": ("u1", transport),
                "echo_identifier": ("u2", transport + 4),
            }
            | {name: (form, at) for name, (form, at, _) in self.addresses.items()},
        )

    def key(self) -> RowType:
        """Return the type of a packed key with addresses of this version; see `wire_key.KEY`."""
        return row_type(
            KEY.size,
            {
                "head": ("u4", 0),
                "kind": ("u1", 0),
                "ports": ("u4", 4),
                "source_port": ("u2", 4),
                "destination_port": ("u2", 6),
            }
            | {name: (form, at) for name, (form, _, at) in self.addresses.items()},
        )

    def head(self) -> NDArray[np.uint32]:
        """Return, by protocol, the first four bytes of a packed key; see `wire_key.KEY`."""
        octets = np.zeros((256, 4), np.uint8)
        octets[:, 0], octets[:, 1] = self.version, np.arange(256)
        return octets.view(np.uint32).ravel()

    def needed(self, echo: int, never: frozenset[int]) -> Indices:
        """Return, by protocol, how many bytes of a packet its key takes; `never` is not decoded."""
        needed = np.full(256, self.size, np.int64)
        needed[list(WITH_PORTS)] += 4
        needed[TCP] = self.size + TCP_FLAGS + 1
        needed[echo] += 6
        needed[list(never)] = _NEVER
        return needed


def _word(octets: str) -> NDArray[np.uint64]:
    return np.frombuffer(bytes.fromhex(octets), np.uint64).reshape(())


_V4 = _Header(
    version=4,
    size=20,
    length_at=2,
    protocol_at=9,
    addresses={"source": ("u4", 12, 8), "destination": ("u4", 16, 24)},
)
_V6 = _Header(
    version=6,
    size=40,
    length_at=4,
    protocol_at=6,
    addresses={"addresses": ("V32", 8, 8)},  # both, which are neighbours here and there
)

_LAYOUTS = (
    _Layout(
        version=4,
        row=_V4.row(40),
        key=_V4.key(),
        addresses=tuple(_V4.addresses),
        head=_V4.head(),
        # No options; neither more fragments nor an offset.
        start_mask=_word("ff00 0000 0000 3fff"),
        ordinary_start=_word("4500 0000 0000 0000"),
        length_added=0,
        echo=ICMP,
        needed=_V4.needed(ICMP, frozenset()),
    ),
    _Layout(
        version=6,
        row=_V6.row(MAX_ROW_BYTES),
        key=_V6.key(),
        addresses=tuple(_V6.addresses),
        head=_V6.head(),
        start_mask=_word("f000 0000 0000 0000"),
        ordinary_start=_word("6000 0000 0000 0000"),
        length_added=_V6.size,
        echo=ICMPV6,
        needed=_V6.needed(ICMPV6, EXTENSIONS),
    ),
)


class FrameEnds(NamedTuple):
    """Columns: where each frame ends in the data, and where it would if it had not been cut."""

    captured: Indices
    on_link: Indices

    def take(self, rows: Indices) -> "FrameEnds":
        """Return these rows."""
        return FrameEnds(self.captured.take(rows), self.on_link.take(rows))


def decode_packets(data: bytes, packets: Packets, ends: FrameEnds) -> PacketColumns:
    """Return the ordinary ones of `packets`, in the same order.

    `data` has MAX_ROW_BYTES at least. All rows are decoded as packets of the version that is the
    more frequent, and then those of the other one are replaced: selecting rows would cost more
    than a batch usually has of other rows.
    """
    if np.count_nonzero(packets.kind == _LAYOUTS[0].version) == len(packets.kind):
        columns, ordinary = _decode_version(data, packets, ends, _LAYOUTS[0])
        return _take_ordinary(columns, ordinary)
    counts = [np.count_nonzero(packets.kind == layout.version) for layout in _LAYOUTS]
    if sum(counts) * 2 < len(packets.kind):
        is_ip = np.isin(packets.kind, [layout.version for layout in _LAYOUTS]).nonzero()[0]
        if not len(is_ip):
            return _NO_PACKETS
        columns = decode_packets(data, packets.take(is_ip), ends.take(is_ip))
        return columns._replace(frame=is_ip[columns.frame])
    few, many = sorted(range(len(_LAYOUTS)), key=counts.__getitem__)
    columns, ordinary = _decode_version(data, packets, ends, _LAYOUTS[many])
    if counts[many] < len(packets.kind):
        ordinary &= packets.kind == _LAYOUTS[many].version
    if counts[few]:
        rows = (packets.kind == _LAYOUTS[few].version).nonzero()[0]
        others, ordinary[rows] = _decode_version(
            data, packets.take(rows), ends.take(rows), _LAYOUTS[few]
        )
        columns.keys[rows], columns.lengths[rows] = others.keys, others.lengths
        columns.opened[rows] = others.opened
    return _take_ordinary(columns, ordinary)


def _take_ordinary(columns: PacketColumns, ordinary: NDArray[np.bool_]) -> PacketColumns:
    if np.count_nonzero(ordinary) == len(ordinary):
        return columns
    return columns.take(ordinary.nonzero()[0])


def _decode_version(
    data: bytes, packets: Packets, ends: FrameEnds, layout: _Layout
) -> tuple[PacketColumns, NDArray[np.bool_]]:
    """Return all `packets`, decoded as those of `layout`, and which of them are ordinary."""
    at = packets.at
    rows = gather_rows(data, at, layout.row)
    protocol = rows["protocol"].astype(np.intp)  # as an index, which it is several times
    lengths = rows["length"].astype(np.int64)
    if layout.length_added:
        lengths += layout.length_added
    # Most batches are of one protocol, for which a number does where others need a column.
    first = protocol[:1]
    one = np.count_nonzero(protocol == first) == len(protocol)
    kinds = first if one else protocol
    captured = ends.captured - at
    on_link = captured if ends.on_link is ends.captured else ends.on_link - at
    ordinary = rows["start"] & layout.start_mask == layout.ordinary_start
    ordinary &= np.minimum(captured, lengths) >= layout.needed.take(kinds)
    ordinary &= lengths <= on_link
    last = len(data) - layout.row.size
    if len(at) and at.max() > last:
        ordinary &= at <= last  # else the row was clipped and begins before `at`
    keys = np.zeros(len(rows), layout.key.fields)
    keys["head"] = layout.head.take(kinds)
    if np.count_nonzero(packets.direction):
        keys["kind"] |= packets.direction << _DIRECTION_SHIFT
    keys["ports"] = rows["ports"] & _PORT_MASK.take(kinds)
    for name in layout.addresses:
        keys[name] = rows[name]
    if not one or first[0] == layout.echo:
        # Among others than ordinary ones, the byte may be any of an address.
        echoes = (protocol == layout.echo) & ordinary
        _set_echo_identifiers(keys, rows, echoes.nonzero()[0], layout)
    if one and first[0] != TCP:
        opened = np.zeros(len(rows), np.bool_)
    else:
        opened = rows["flags"] & _OPENING == _SYN
        opened &= kinds == TCP
    frame = np.arange(len(rows))
    return PacketColumns(frame, keys.view(layout.key.bare), lengths, opened), ordinary


def _set_echo_identifiers(keys: Rows, rows: Rows, echoes: Indices, layout: _Layout) -> None:
    """Set both ports of the rows `echoes`, if they are of ICMP echos, to their identifier."""
    if echoes.size:
        kinds = rows["echo_type"][echoes]
        request, reply = ECHO_TYPES[layout.version, layout.echo]
        echoes = echoes[(kinds == request) | (kinds == reply)]
        identifiers = rows["echo_identifier"][echoes]
        keys["source_port"][echoes] = identifiers
        keys["destination_port"][echoes] = identifiers

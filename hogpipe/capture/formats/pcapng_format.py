"""PURE: pcapng files.

A file has sections, a section has blocks. Format: draft-ietf-opsawg-pcapng.

| block | what becomes of it |
|---|---|
| Section Header | byte order of what follows; interfaces are numbered from 0 again |
| Interface Description | an interface: link type, snaplen, name, clock |
| Enhanced Packet, Packet, Simple Packet | a frame of an interface |
| name resolution, statistics, journal, secrets, custom | skipped |
| any other | skipped and counted |

The same link type and name, in whatever section, is one interface. A frame of an interface that is
not described before it is kept, with UNDESCRIBED_INTERFACE.

What may fail
    A block with an invalid length, or a section header without a byte order, ends the reading.
"""

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hogpipe.capture.decode.columns import FrameBatch, Indices
from hogpipe.capture.formats.pcapng_blocks import (
    ENHANCED,
    INTERFACE,
    MAX_BLOCK_BYTES,
    PACKET,
    SECTION,
    SECTION_BYTES,
    SIMPLE,
    Defect,
    SectionData,
    Words,
    find_blocks,
    read_words,
)
from hogpipe.capture.formats.pcapng_interface import InterfaceDescription, parse_interface
from hogpipe.capture.formats.pcapng_packets import PacketRows, is_packet, parse_packets
from hogpipe.capture.formats.record_chain import ByteOrder
from hogpipe.capture.formats.savefile_parser import (
    UNDESCRIBED_INTERFACE,
    ParsedFrames,
    SavefileInterface,
    no_frames,
)

# Name resolution, interface statistics, journal, decryption secrets, custom (two types).
_WITHOUT_FRAMES = frozenset({4, 5, 9, 10, 0x0BAD, 0x40000BAD})
_KNOWN = _WITHOUT_FRAMES | {SECTION, INTERFACE, PACKET, SIMPLE, ENHANCED}
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_MIN_SECTION_BYTES = 28
_MAX_INTERFACES = 4096
# About how many blocks are found at a time. A section header among them makes the rest useless, so
# the number grows within a section.
_MIN_BLOCKS, _MAX_BLOCKS = 64, 1 << 16


class PcapngParser:
    """Parses one file, which begins with a section header; see SavefileParser."""

    def __init__(self) -> None:
        self.interfaces: list[SavefileInterface] = []
        self.failure: str | None = None
        self.skipped_blocks: dict[int, int] = {}
        self._index_of: dict[SavefileInterface, int] = {}
        self._order: ByteOrder = "<"
        self._section: list[InterfaceDescription] = []
        """The interfaces of the open section, by number."""
        self._blocks_at_once = _MIN_BLOCKS
        self._parsed = 0
        """Bytes of the file that earlier calls parsed."""

    def parse(self, data: bytes) -> ParsedFrames:
        """Return the whole frames in `data`; see SavefileParser."""
        parts: list[PacketRows] = []
        chunks: dict[ByteOrder, SectionData] = {}
        at = 0
        while self.failure is None:
            if data.startswith(SECTION_BYTES, at):
                size = self._open_section(data, at)
            else:
                if self._order not in chunks:
                    chunks[self._order] = read_words(data, self._order)
                size = self._parse_blocks(chunks[self._order], at, parts)
            if not size:
                break
            at += size
        self._parsed += at
        if not parts:
            return no_frames(data, at)
        records = np.concatenate([one.records for one in parts])
        original = np.concatenate([one.original for one in parts])
        interface = np.concatenate([one.number for one in parts])
        frames = FrameBatch(data, records, original, _join_nanoseconds(parts))
        return ParsedFrames(frames, interface, at)

    def _open_section(self, data: bytes, at: int) -> int:
        """Begin the section whose header is at `at`; return its size, 0 if it is not whole."""
        if len(data) - at < _MIN_SECTION_BYTES:
            return 0
        order = _find_byte_order(data, at)
        if order is None:
            return self._fail(Defect("a section header without a byte order", at))
        size, _magic, version = struct.unpack_from(order + "4xIIH", data, at)
        if version != 1:
            return self._fail(Defect(f"a section of the unknown version {version}", at))
        if not _MIN_SECTION_BYTES <= size <= MAX_BLOCK_BYTES or size % 4:
            return self._fail(Defect(f"a section header of invalid length ({size:,})", at))
        if len(data) - at < size:
            return 0
        self._order, self._section, self._blocks_at_once = order, [], _MIN_BLOCKS
        return int(size)

    def _parse_blocks(self, chunk: SectionData, at: int, parts: list[PacketRows]) -> int:
        """Parse the next blocks of a section; return their size, 0 if none is whole."""
        words = chunk.words
        blocks, defect = find_blocks(chunk, at, self._blocks_at_once)
        self._blocks_at_once = min(2 * self._blocks_at_once, _MAX_BLOCKS)
        described = np.full(len(blocks.kind), len(self._section))
        other = (blocks.kind != ENHANCED).nonzero()[0]
        if len(other):
            described += np.cumsum(blocks.kind == INTERFACE)
        for index in other[blocks.kind[other] == INTERFACE].tolist():
            first, size = int(blocks.at[index]), int(blocks.size[index])
            self._add_interface(words[first + 2 : first + size // 4 - 1])
        self._count_skipped(blocks.kind[other])
        length = int(blocks.size.sum())
        if not is_packet(blocks.kind[other]).all():
            packets = is_packet(blocks.kind).nonzero()[0]
            blocks, described = blocks.take(packets), described.take(packets)
        if len(blocks.kind):
            rows, damage = parse_packets(blocks, described, self._section, self._order)
            parts.append(rows._replace(number=self._index_interfaces(rows)))
            defect = damage or defect
        if defect is not None:
            self._fail(defect)
        return length

    def _add_interface(self, body: Words) -> None:
        octets = body.astype(self._order + "u4").tobytes()
        self._section.append(parse_interface(octets, self._order))
        self._index(self._section[-1].interface)
        if max(len(self._section), len(self.interfaces)) > _MAX_INTERFACES:
            self.failure = f"it has more than {_MAX_INTERFACES:,} interfaces"

    def _index_interfaces(self, rows: PacketRows) -> Indices:
        """Return the index of each row's interface."""
        numbers = [self._index(description.interface) for description in self._section]
        if len(rows.number) and rows.number.min() < 0:
            numbers.append(self._index(UNDESCRIBED_INTERFACE))
        return np.array(numbers, np.int64).take(rows.number)

    def _index(self, interface: SavefileInterface) -> int:
        """Return the index of `interface`, which may be new."""
        if interface not in self._index_of:
            self._index_of[interface] = len(self.interfaces)
            self.interfaces.append(interface)
        return self._index_of[interface]

    def _count_skipped(self, kind: Words) -> None:
        numbers, counts = np.unique(kind, return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            if number not in _KNOWN:
                self.skipped_blocks[number] = self.skipped_blocks.get(number, 0) + count

    def _fail(self, defect: Defect) -> int:
        self.failure = f"damaged at byte {self._parsed + defect.at:,}: {defect.what}"
        return 0


def _join_nanoseconds(parts: Sequence[PacketRows]) -> NDArray[np.uint16] | None:
    """Return the nanoseconds of all rows; None if no interface counts them."""
    if all(one.nanoseconds is None for one in parts):
        return None
    return np.concatenate(
        [
            np.zeros(len(one.number), np.uint16) if one.nanoseconds is None else one.nanoseconds
            for one in parts
        ]
    )


def _find_byte_order(data: bytes, at: int) -> ByteOrder | None:
    magic = data[at + 8 : at + 12]
    if int.from_bytes(magic, "little") == _BYTE_ORDER_MAGIC:
        return "<"
    return ">" if int.from_bytes(magic, "big") == _BYTE_ORDER_MAGIC else None

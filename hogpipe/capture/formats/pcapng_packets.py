"""PURE: the frames in the packet blocks of one section of a pcapng file, in columns.

In: the packet blocks of a chunk, the interfaces of the section. Out: `PacketRows`.

| block | fixed part of its body |
|---|---|
| Enhanced Packet | interface, timestamp (two words), captured length, original length |
| Packet (obsolete) | the same, with 16 bits of drops in the interface's word |
| Simple Packet | original length; of the first interface, cut at its snaplen |

Known limit: a Simple Packet has no timestamp; its time is 0.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hogpipe.capture.decode.columns import Indices
from hogpipe.capture.formats.pcapng_blocks import (
    ENHANCED,
    HEAD_WORDS,
    MIN_BLOCK_BYTES,
    PACKET,
    SIMPLE,
    Blocks,
    Defect,
    Words,
)
from hogpipe.capture.formats.pcapng_interface import (
    DEFAULT_CLOCK,
    Clock,
    InterfaceDescription,
    Ticks,
    Times,
)
from hogpipe.capture.formats.record_chain import ByteOrder

UNDESCRIBED = -1
"""The number of an interface that the section does not describe before its frame."""
_FRAME_AT, _SIMPLE_FRAME_AT = 4 * HEAD_WORDS, 12
_WORD_BITS = np.uint64(32)


class PacketRows(NamedTuple):
    """Frames: the columns of a `FrameBatch`, and the number of the interface."""

    records: Words
    original: Words
    nanoseconds: NDArray[np.uint16] | None
    number: Indices


class _Extents(NamedTuple):
    """Where frames are: offset in bytes, captured length, original length, interface, ticks."""

    begin: Indices
    captured: Indices
    original: Words
    number: Indices
    ticks: Ticks


def is_packet(kind: Words) -> NDArray[np.bool_]:
    """Return which types are those of packet blocks."""
    packets: NDArray[np.bool_] = (kind == ENHANCED) | (kind == PACKET) | (kind == SIMPLE)
    return packets


def parse_packets(
    blocks: Blocks,
    described: Indices,
    section: Sequence[InterfaceDescription],
    order: ByteOrder,
) -> tuple[PacketRows, Defect | None]:
    """Return the frames of `blocks`, all packet blocks, and a defect that ends them.

    `described` is how many interfaces of `section` are described before each block.
    """
    found = _read_extents(blocks, order)
    simple = blocks.kind == SIMPLE
    if simple.any():
        _read_simple(blocks, found, simple, section[0].snaplen if section else 0)
    damaged = found.captured > blocks.size - MIN_BLOCK_BYTES[ENHANCED]
    damaged &= ~simple
    count, defect = len(damaged), None
    if np.count_nonzero(damaged):
        count = int(damaged.argmax())
        what = f"a frame of {found.captured[count]:,} bytes in a block of {blocks.size[count]:,}"
        defect = Defect(what, 4 * int(blocks.at[count]))
    number = np.where(found.number < described, found.number, UNDESCRIBED)
    records = np.empty((len(number), 4), np.uint32)
    times = _read_times(found.ticks, number, section)
    records[:, 0], records[:, 1] = times.seconds, times.microseconds
    records[:, 2], records[:, 3] = found.begin, found.captured
    rest = None if times.nanoseconds is None else times.nanoseconds[:count]
    return PacketRows(records[:count], found.original[:count], rest, number[:count]), defect


def _read_extents(blocks: Blocks, order: ByteOrder) -> _Extents:
    """Read the fields of enhanced and obsolete packet blocks; those of others are meaningless."""
    head = blocks.head
    number = head[:, 2].astype(np.int64)
    obsolete = blocks.kind == PACKET
    if obsolete.any():
        upper, lower = number >> 16, number & 0xFFFF
        number[obsolete] = (lower if order == "<" else upper)[obsolete]
    ticks = head[:, 3].astype(np.uint64)
    ticks <<= _WORD_BITS
    ticks |= head[:, 4]
    captured, original = head[:, 5].astype(np.int64), head[:, 6].copy()
    return _Extents(4 * blocks.at + _FRAME_AT, captured, original, number, ticks)


def _read_simple(blocks: Blocks, found: _Extents, simple: NDArray[np.bool_], snaplen: int) -> None:
    """Replace the `simple` rows of `found` by what simple packet blocks say."""
    original = blocks.head[simple, 2]
    captured = np.minimum(original, blocks.size[simple] - MIN_BLOCK_BYTES[SIMPLE])
    found.begin[simple] = 4 * blocks.at[simple] + _SIMPLE_FRAME_AT
    found.captured[simple] = np.minimum(captured, snaplen) if snaplen else captured
    found.original[simple] = original
    found.number[simple] = 0
    found.ticks[simple] = 0


def _read_times(ticks: Ticks, number: Indices, section: Sequence[InterfaceDescription]) -> Times:
    """Return the time of each row, by the clock of its interface.

    A row whose interface is not described before it has the default clock.
    """
    clocks: dict[Clock, list[int]] = {}
    for index, description in enumerate(section):
        clocks.setdefault(description.clock, []).append(index)
    if len(clocks) <= 1 and not np.any(number == UNDESCRIBED):
        return next(iter(clocks), DEFAULT_CLOCK).read_times(ticks)
    seconds, microseconds, _none = DEFAULT_CLOCK.read_times(ticks)
    nanoseconds = np.zeros(len(ticks), np.uint16)
    for clock, numbers in clocks.items():
        rows = np.isin(number, numbers)
        times = clock.read_times(ticks[rows])
        seconds[rows], microseconds[rows] = times.seconds, times.microseconds
        if times.nanoseconds is not None:
            nanoseconds[rows] = times.nanoseconds
    return Times(seconds, microseconds, nanoseconds)

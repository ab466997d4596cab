"""PURE: the blocks of a pcapng file, in columns.

In: the 32-bit words of a chunk of one section, in this host's byte order. Out: `Blocks`.

A block is a type, its total length in bytes, its body, and the total length again; it begins and
ends at a word.

Algorithm
    Where a block ends, the next one begins: finding them is a loop. Almost all blocks of a large
    file are enhanced packets, though. So first all words that may begin one are found at once: the
    type, and the same plausible length at both ends. As far as each of these ends where the next
    one begins, they are the blocks. Where that gives only a few, the loop finds them.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hogpipe.capture.decode.columns import Indices

ByteOrder = Literal["<", ">"]
Words = NDArray[np.uint32]

SECTION, INTERFACE, PACKET, SIMPLE, ENHANCED = 0x0A0D0D0A, 1, 2, 3, 6
SECTION_BYTES = SECTION.to_bytes(4)
"""The same in either byte order."""
MIN_BLOCK_BYTES = np.array([12, 20, 32, 16, 12, 12, 32, 12])
"""By block type; the last one is of all types from there on."""
MAX_BLOCK_BYTES = 1 << 24
"""As libpcap allows."""

_MIN_FOUND = 512
"""Fewer blocks than this are not worth the search for packets, which reads the whole chunk."""


class Blocks(NamedTuple):
    """Whole blocks: index of the first word, type, total length in bytes."""

    at: Indices
    kind: Words
    size: Indices

    def take(self, chosen: NDArray[np.bool_]) -> "Blocks":
        """Return the `chosen` blocks, which need not be in a row any more."""
        return Blocks(self.at[chosen], self.kind[chosen], self.size[chosen])


class Defect(NamedTuple):
    """What is wrong, and at which byte of the chunk."""

    what: str
    at: int


def read_words(data: bytes, order: ByteOrder) -> Words:
    """Return the words of `data` in this host's byte order, without those that are cut."""
    return np.frombuffer(data, order + "u4", len(data) // 4).astype(np.uint32, copy=False)


def find_blocks(words: Words, at: int, most: int) -> tuple[Blocks, Defect | None]:
    """Return at most `most` whole blocks from byte `at` on, and a defect that ends them.

    A section header ends them, too: what follows it may have another byte order.
    """
    starts = _find_packets(words, at // 4)[:most] if most >= _MIN_FOUND else None
    if starts is None or len(starts) < _MIN_FOUND:
        starts = _walk(words, at // 4, most)
    kind = words[starts]
    size = words[starts + 1].astype(np.int64)
    ends = starts + size // 4
    fits = ends <= len(words)
    valid = (size % 4 == 0) & (size <= MAX_BLOCK_BYTES)
    valid &= size >= MIN_BLOCK_BYTES.take(kind, mode="clip")
    valid &= ~fits | (words.take(ends - 1, mode="clip") == size)
    in_section = kind != SECTION
    usable = valid & fits & in_section
    if usable.all():
        return Blocks(starts, kind, size), None
    count = int(usable.argmin())
    defect = None
    if in_section[count] and not valid[count]:
        defect = Defect(f"a block of invalid length ({size[count]:,})", 4 * int(starts[count]))
    return Blocks(starts[:count], kind[:count], size[:count]), defect


def _find_packets(words: Words, at: int) -> Indices:
    """Return the first word of each enhanced packet block in a row of them from `at` on."""
    starts: Indices = np.flatnonzero(words[at:-1] == ENHANCED) + at
    size = words[starts + 1]
    ends = starts + (size >> 2)
    plausible = (size >= MIN_BLOCK_BYTES[ENHANCED]) & (size % 4 == 0) & (ends <= len(words))
    plausible &= words.take(ends - 1, mode="clip") == size
    starts, ends = starts[plausible], ends[plausible]
    if not len(starts) or starts[0] != at:
        return starts[:0]
    gaps = ends[:-1] != starts[1:]
    return starts[: int(gaps.argmax()) + 1] if gaps.any() else starts


def _walk(words: Words, at: int, most: int) -> Indices:
    """Return the first word of each block, where the length of the one before leads."""
    view, last = words.data, len(words) - 1
    starts: list[int] = []
    append = starts.append
    for _ in range(most):
        if at >= last:
            break
        append(at)
        at += view[at + 1] >> 2 or last  # a length of 0 ends the walk
    return np.fromiter(starts, np.int64, len(starts))

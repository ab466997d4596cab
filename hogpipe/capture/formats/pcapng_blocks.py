"""PURE: the blocks of a pcapng file, in columns.

In: a chunk with blocks of one section. Out: `Blocks`, which count in 32-bit words of the chunk.

A block is a type, its total length in bytes, its body, and the total length again; it begins and
ends at a word.

A block begins where the one before it ends (`record_chain.py`). Almost all blocks of a large file
are enhanced packets, so blocks are guessed where a word is that type and both lengths agree.
"""

from functools import partial
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hogpipe.capture.decode.columns import Indices
from hogpipe.capture.formats.record_chain import ByteOrder, RecordForm, find_records

Words = NDArray[np.uint32]

SECTION, INTERFACE, PACKET, SIMPLE, ENHANCED = 0x0A0D0D0A, 1, 2, 3, 6
SECTION_BYTES = SECTION.to_bytes(4)
"""The same in either byte order."""
MIN_BLOCK_BYTES = np.array([12, 20, 32, 16, 12, 12, 32, 12])
"""By block type; the last one is of all types from there on."""
_MIN_BYTES = 12
HEAD_WORDS = 7
"""The words of an enhanced packet before its frame."""
MAX_BLOCK_BYTES = 1 << 24
"""As libpcap allows."""
_UNALIGNED = np.uint32(3)
"""The bits of a length that ends within a word."""
_ENDIANNESS: dict[ByteOrder, Literal["little", "big"]] = {"<": "little", ">": "big"}


class Blocks(NamedTuple):
    """Whole blocks: index of the first word, total length in bytes, type, first words.

    `head` has the first HEAD_WORDS words of each; of a shorter block, the rest is meaningless.
    """

    at: Indices
    size: Indices
    kind: Words
    head: Words

    def take(self, rows: Indices) -> "Blocks":
        """Return these blocks, which need not be in a row any more."""
        return Blocks(
            self.at.take(rows),
            self.size.take(rows),
            self.kind.take(rows),
            self.head.take(rows, axis=0),
        )


class Defect(NamedTuple):
    """What is wrong, and at which byte of the chunk."""

    what: str
    at: int


class SectionData(NamedTuple):
    """A chunk, as bytes in the byte order of a section and as words in that of this host."""

    data: bytes
    order: ByteOrder
    words: Words
    """Those of the chunk without one that is cut."""


def read_words(data: bytes, order: ByteOrder) -> SectionData:
    """Return `data` with its words."""
    words = np.frombuffer(data, order + "u4", len(data) // 4).astype(np.uint32, copy=False)
    return SectionData(data, order, words)


def find_blocks(chunk: SectionData, at: int, about: int) -> tuple[Blocks, Defect | None]:
    """Return about so many whole blocks from byte `at` on, or all, and a defect that ends them.

    A section header ends them, too: what follows it may have another byte order.
    """
    words = chunk.words
    form = RecordForm(chunk.order, header=8, length_at=4, added=0, least=_MIN_BYTES, unit=4)
    starts = find_records(chunk.data, at, form, partial(_guess_packets, chunk), about) >> 2
    head = _read_heads(words, starts)
    kind, lengths = head[:, 0].copy(), head[:, 1].copy()
    size = lengths.astype(np.int64)
    ends = starts + (size >> 2)
    fits = ends <= len(words)
    valid = (lengths & _UNALIGNED == 0) & (size <= MAX_BLOCK_BYTES)
    valid &= size >= MIN_BLOCK_BYTES.take(kind, mode="clip")
    valid &= ~fits | (words.take(ends - 1, mode="clip") == lengths)
    in_section = kind != SECTION
    usable = valid & fits & in_section
    if np.count_nonzero(usable) == len(usable):
        return Blocks(starts, size, kind, head), None
    count = int(usable.argmin())
    defect = None
    if in_section[count] and not valid[count]:
        defect = Defect(f"a block of invalid length ({size[count]:,})", 4 * int(starts[count]))
    return Blocks(starts[:count], size[:count], kind[:count], head[:count]), defect


def _read_heads(words: Words, starts: Indices) -> Words:
    """Return the first words of the blocks at `starts`; beyond the chunk they are meaningless."""
    if len(words) < HEAD_WORDS:
        words = np.append(words, np.zeros(HEAD_WORDS, np.uint32))
    last = len(words) - HEAD_WORDS
    everywhere = np.ndarray((last + 1,), f"V{4 * HEAD_WORDS}", words, strides=(4,))
    heads = everywhere[np.minimum(starts, last)].view(np.uint32).reshape(-1, HEAD_WORDS)
    for row in range(int(starts.searchsorted(last, side="right")), len(starts)):
        rest = words[starts[row] :]  # of the last few blocks
        heads[row, : len(rest)] = rest
    return heads


def _guess_packets(chunk: SectionData, bounds: range) -> Indices:
    """Return where enhanced packets seem to begin, at most one from each of `bounds` on."""
    find, packet = chunk.data.find, ENHANCED.to_bytes(4, _ENDIANNESS[chunk.order])
    hits: list[int] = []
    for at in bounds:
        hit = find(packet, at, at + bounds.step)
        while hit & 3 and hit >= 0:
            hit = find(packet, hit + 1, at + bounds.step)
        hits.append(hit)
    guessed = np.array(hits, np.int64)
    guessed = guessed[guessed >= 0]
    size = chunk.words.take((guessed >> 2) + 1, mode="clip")
    ends = (guessed + size) >> 2
    likely = (size >= MIN_BLOCK_BYTES[ENHANCED]) & (size & _UNALIGNED == 0)
    likely &= chunk.words.take(ends - 1, mode="clip") == size
    plausible: Indices = guessed[likely]
    return plausible

"""PURE: what the parsers of capture files have in common, and the choice between them.

In: a file's bytes, in order and in chunks of any size. Out: `ParsedFrames` for each chunk: its
whole frames, in the order of the file, with the index of the interface that captured each.

What may fail
    `make_parser` raises MalformedFileError where the first bytes are those of no capture file. A
    defect further on ends the reading: `failure` then describes the defect, and all frames before
    it have been returned.
"""

from typing import NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from hogpipe.capture.decode.columns import FrameBatch
from hogpipe.capture.decode.link_type_names import NO_LINK_TYPE

MAX_FRAME_BYTES = 262_144
"""The greatest snaplen of libpcap and Wireshark; a longer frame is a defect of the file."""


class MalformedFileError(Exception):
    """The bytes are not those of a capture file; the text says why."""


class SavefileInterface(msgspec.Struct, frozen=True):
    """An interface of a capture file.

    `link_type` is its LINKTYPE_* number, `name` is "" where the file has none.
    """

    link_type: int
    name: str = ""


UNDESCRIBED_INTERFACE = SavefileInterface(NO_LINK_TYPE)
"""That of frames which name an interface that the file does not describe before them."""


class ParsedFrames(NamedTuple):
    """Whole frames, with original lengths, and the index of each one's interface."""

    frames: FrameBatch
    interface: NDArray[np.int64]
    used: int
    """How many bytes of the input are parsed; the rest begins a record that is not whole yet."""

    def list_interfaces(self) -> list[int]:
        """Return the indices of the interfaces that captured frames, in ascending order."""
        if not len(self.interface):
            return []
        lowest, highest = int(self.interface.min()), int(self.interface.max())
        if lowest == highest:
            return [lowest]
        # Indices are few and small (see the parsers' bounds), so that counting beats sorting.
        return np.bincount(self.interface).nonzero()[0].tolist()


class SavefileParser(Protocol):
    """Parses one file."""

    interfaces: list[SavefileInterface]
    """Those known so far; an index stays valid."""
    failure: str | None
    """Why the rest of the file cannot be read."""
    skipped_blocks: dict[int, int]
    """How many blocks of each unknown type were skipped."""

    def parse(self, data: bytes) -> ParsedFrames:
        """Return the whole frames in `data`: what the last call left over, and what follows it."""


def no_frames(data: bytes = b"", used: int = 0) -> ParsedFrames:
    """Return the result of a chunk without frames."""
    empty = FrameBatch(data, np.empty((0, 4), np.uint32), np.empty(0, np.uint32))
    return ParsedFrames(empty, np.empty(0, np.int64), used)

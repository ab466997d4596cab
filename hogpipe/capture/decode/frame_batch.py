"""Frames as a capture hands them up: many in one piece of memory."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hogpipe.protocols import NANOSECONDS


@dataclass(frozen=True, slots=True, eq=False)
class FrameBatch:
    """Captured frames: `data` holds their bytes, `records` where each is.

    `records` is an array of shape (n, 4) of uint32: seconds and microseconds since the epoch,
    offset into `data`, captured length; what pcapy-ng's `next_batch` returns. Each frame lies
    within `data`. `original_lengths` are n uint32, the lengths on the link; None where not known.
    """

    data: bytes
    records: NDArray[np.uint32]
    original_lengths: NDArray[np.uint32] | None = None

    def __len__(self) -> int:
        return len(self.records)

    def slice(self, start: int, stop: int) -> "FrameBatch":
        """Return the frames from `start` to before `stop`, without copying them."""
        lengths = self.original_lengths
        part = None if lengths is None else lengths[start:stop]
        return FrameBatch(self.data, self.records[start:stop], part)

    def take(self, chosen: NDArray[np.bool_]) -> "FrameBatch":
        """Return the frames that are `chosen`, without copying them."""
        lengths = self.original_lengths
        part = None if lengths is None else lengths[chosen]
        return FrameBatch(self.data, self.records[chosen], part)

    def times_ns(self) -> NDArray[np.int64]:
        """Return when each frame passed, nanoseconds since the epoch."""
        seconds = self.records[:, 0].astype(np.int64)
        return seconds * NANOSECONDS + self.records[:, 1].astype(np.int64) * 1_000

"""Tables of the kernel that lie in memory which it shares with us (BPF_F_MMAPABLE, Linux 5.5)."""

import mmap

import numpy as np
from numpy.typing import NDArray

_FIRST_BYTES = 1 << 18


class SharedTable:
    """The array behind a file descriptor; that must stay open. For one thread at a time.

    As much of it is mapped as was read so far: what is mapped counts as memory of this process.
    Raises OSError.
    """

    def __init__(self, descriptor: int, rows: int, row: "np.dtype[np.void]") -> None:
        self._descriptor = descriptor
        self._row = row
        whole = rows * row.itemsize
        self._bytes = whole + -whole % mmap.PAGESIZE
        self._memory: mmap.mmap | None = self._map(_FIRST_BYTES)

    def rows(self, number: int) -> NDArray[np.void]:
        """Return the first rows as they are in the kernel. Raises OSError."""
        needed = number * self._row.itemsize
        if self._memory is None or len(self._memory) < needed:
            self._memory = None  # its descriptor may be the last one that is to be had
            self._memory = self._map(1 << needed.bit_length())
        return np.frombuffer(self._memory, self._row, number)

    def close(self) -> None:
        """Let go of it; it is unmapped when nobody has rows any more. May be called again."""
        self._memory = None

    def _map(self, size: int) -> mmap.mmap:
        return mmap.mmap(self._descriptor, min(size, self._bytes))

"""Tables of the kernel that lie in memory which it shares with us (BPF_F_MMAPABLE, Linux 5.5)."""

import mmap

import numpy as np
from numpy.typing import NDArray

_FIRST_BYTES = 1 << 18


class SharedTable:
    """The array behind a file descriptor; that must stay open. For one thread at a time.

    As much of it is mapped as was read so far: what is mapped counts as memory of this process.
    """

    def __init__(self, descriptor: int, rows: int, row: "np.dtype[np.void]") -> None:
        self._descriptor = descriptor
        self._row = row
        whole = rows * row.itemsize
        self._bytes = whole + -whole % mmap.PAGESIZE
        self._memory: mmap.mmap | None = None

    def rows(self, number: int) -> NDArray[np.void]:
        """Return the first rows as they are in the kernel. Raises OSError.

        Nothing may keep them beyond the next call: they are unmapped then, or by `close`.
        """
        needed = number * self._row.itemsize
        if self._memory is None or len(self._memory) < needed:
            self.close()
            size = min(max(_FIRST_BYTES, 1 << needed.bit_length()), self._bytes)
            self._memory = mmap.mmap(self._descriptor, size)
        return np.frombuffer(self._memory, self._row, number)

    def close(self) -> None:
        """Unmap it. May be called again."""
        if self._memory is not None:
            self._memory.close()
            self._memory = None

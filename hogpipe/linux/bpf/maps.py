"""Reads the kernel's BPF maps through their file descriptors: losses and arrays.

In: the descriptor of a map, which must stay open as long as the object that reads it. Out: counters
and NumPy rows. A failing read raises OSError.

- `read_losses` copies the counters of what found no room in the kernel.
- `MappedArray` shares the memory of an array (BPF_F_MMAPABLE, Linux 5.5), so that reading its rows
  takes no call at all.
"""

import ctypes
import mmap
import os

import msgspec
import numpy as np
from numpy.typing import NDArray

from hogpipe.linux.bpf.libbpf import load_library
from hogpipe.linux.bpf.shapes import LOSSES

_LEAST_MAPPED_BYTES = 1 << 18
_MAPPED_SHARE = 8  # of a mapping: one of which less is read is made smaller
_Counters = ctypes.c_uint64 * len(LOSSES.names or ())


class Losses(msgspec.Struct, frozen=True):
    """What found no room in the kernel since the programs were attached."""

    events: int
    """Events for which the ring buffer had no room."""
    sockets: int
    """Times that a socket's owner could not be recorded."""
    packets: int
    """Packets that could not be counted at all."""


def read_losses(map_fd: int) -> Losses:
    """Return the counters in the map `losses`. Raises OSError."""
    key, counters = ctypes.c_uint32(0), _Counters()
    lookup = load_library().bpf_map_lookup_elem
    code = lookup(map_fd, ctypes.byref(key), ctypes.byref(counters))
    if code:
        raise OSError(-code, os.strerror(-code))
    return Losses(*counters)


class MappedArray:
    """The array of `length` rows behind a file descriptor. For one thread at a time.

    Mapped memory counts as memory of this process, so the mapping grows and shrinks with the rows
    that are read. Raises OSError.
    """

    def __init__(self, map_fd: int, length: int, row: "np.dtype[np.void]") -> None:
        self._map_fd = map_fd
        self._row = row
        size = length * row.itemsize
        self._bytes = size + -size % mmap.PAGESIZE
        self._memory: mmap.mmap | None = self._map(_LEAST_MAPPED_BYTES)

    def rows(self, number: int) -> NDArray[np.void]:
        """Return the first rows, in the kernel's own memory. Raises OSError."""
        needed = number * self._row.itemsize
        size = 0 if self._memory is None else len(self._memory)
        is_large = size > max(_MAPPED_SHARE * needed, _LEAST_MAPPED_BYTES)
        if self._memory is None or size < needed or is_large:
            self._memory = None  # frees its descriptor, which may be the last one available
            self._memory = self._map(max(1 << needed.bit_length(), _LEAST_MAPPED_BYTES))
        return np.frombuffer(self._memory, self._row, number)

    def close(self) -> None:
        """Unmap the array as soon as no rows of it are in use. May be called again."""
        self._memory = None

    def _map(self, size: int) -> mmap.mmap:
        return mmap.mmap(self._map_fd, min(size, self._bytes))

"""Reads the kernel's BPF maps through their file descriptors: losses, ring buffers, arrays.

In: the descriptor of a map, which must stay open as long as the object that reads it. Out: bytes,
counters, and NumPy rows. A failing read raises OSError; a ring buffer that cannot be mapped raises
BpfUnavailableError.

- `read_losses` copies the counters of what found no room in the kernel.
- `RingBuffer` drains a ring buffer (BPF_MAP_TYPE_RINGBUF, Linux 5.8).
- `MappedArray` shares the memory of an array (BPF_F_MMAPABLE, Linux 5.5), so that reading its rows
  takes no call at all.
"""

import ctypes
import mmap
import os

import msgspec
import numpy as np
from numpy.typing import NDArray

from hogpipe.linux.bpf.libbpf import SampleCallback, load_library
from hogpipe.linux.bpf.obstacles import BpfUnavailableError, Obstacle
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


class RingBuffer:
    """The ring buffer behind a file descriptor. For one thread at a time.

    libbpf reads the ring, because it knows the memory barriers, and calls back for each sample. A
    callback into Python costs several times what all else does, so the callback is libc's `write`,
    whose three arguments are the same ones: the context is the descriptor of a file in memory, from
    which all samples are then read at once.

    Raises BpfUnavailableError.
    """

    def __init__(self, map_fd: int) -> None:
        self._library = load_library()
        self._file = os.memfd_create("hogpipe-ring", os.MFD_CLOEXEC)
        write = ctypes.cast(ctypes.CDLL(None).write, SampleCallback)
        self._ring = self._library.ring_buffer__new(map_fd, write, self._file, None)
        if not self._ring:
            os.close(self._file)
            raise BpfUnavailableError(
                Obstacle.LIMITS, "eBPF: the ring buffer cannot be mapped; raise the memory limit"
            )
        self.lost = 0
        """Samples that were lost because the file could not be written; the number only grows."""

    def fileno(self) -> int:
        """Return a descriptor that polls as readable when there are samples."""
        return int(self._library.ring_buffer__epoll_fd(self._ring))

    def drain(self) -> bytes:
        """Take all samples out of the ring and return them, joined."""
        if self._library.ring_buffer__consume(self._ring) < 0:
            self.lost += 1
        size = os.lseek(self._file, 0, os.SEEK_CUR)
        if size == 0:
            return b""
        samples = os.pread(self._file, size, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        return samples

    def close(self) -> None:
        """Unmap the ring. May be called again."""
        if self._ring:
            self._library.ring_buffer__free(self._ring)
            self._ring = None
            os.close(self._file)


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

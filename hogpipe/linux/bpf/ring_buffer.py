"""Drains the kernel's BPF ring buffers (BPF_MAP_TYPE_RINGBUF, Linux 5.8).

In: the descriptor of a map, which must stay open as long as the object that reads it, and the size
of its samples, which is the same for all. Out: bytes. A part of the ring that cannot be mapped
raises OSError.

The ring in memory
------------------
A page with the position of the consumer, a page with that of the producer, and the data, twice one
after the other, so that no sample is in two pieces. Positions are in bytes, and only grow. Eight
bytes precede a sample; the first four are its length, with a bit while it is being written and one
if it was given up.

Algorithm
---------
Mapped memory counts as memory of this process, so `_PART_BYTES` of the data are mapped at a time.
The samples in that part are copied, up to the first one that is being written; then the position of
the consumer moves on.

Order of memory accesses
------------------------
The producer writes a sample, then its length without the bit; it writes a length with the bit, then
its position. So positions, lengths and samples are read in this order, and the position of the
consumer is written last. `_fence` separates them, as some machines reorder accesses.
"""

import mmap
import threading

import numpy as np

from hogpipe.linux.bpf.obstacles import BpfUnavailableError, Obstacle

_PART_BYTES = 1 << 17
_HEADER_BYTES = 8
_MANY_ROWS = 64  # from which on NumPy copies samples sooner
_BUSY, _DISCARDED = 1 << 31, 1 << 30  # include/uapi/linux/bpf.h


class RingBuffer:
    """The ring buffer of `size` bytes behind a file descriptor, with samples of `sample_bytes`.

    The descriptor polls as readable when there are samples. For one thread at a time. Raises
    BpfUnavailableError.
    """

    def __init__(self, map_fd: int, size: int, sample_bytes: int) -> None:
        self._map_fd = map_fd
        self._size = size
        self._sample_bytes = sample_bytes
        self._step = -(-(_HEADER_BYTES + sample_bytes) // _HEADER_BYTES) * _HEADER_BYTES
        self._order = threading.Lock()
        self._part_number = 0
        """Which part of the data is mapped."""
        self._part: mmap.mmap | None = None
        try:
            self._part = self._map_part(0)
            self._consumer = self._map_position(0, mmap.PROT_READ | mmap.PROT_WRITE)
            self._producer = self._map_position(mmap.PAGESIZE, mmap.PROT_READ)
        except OSError as error:
            raise BpfUnavailableError(
                Obstacle.LIMITS, "eBPF: the ring buffer cannot be mapped; raise the memory limit"
            ) from error

    def fileno(self) -> int:
        """Return a descriptor that polls as readable when there are samples."""
        return self._map_fd

    def drain(self) -> bytes:
        """Take all samples until now out of the ring and return them, joined. Raises OSError."""
        position, end, is_blocked = self._consumer[0], self._producer[0], False
        if position == end:
            return b""
        self._fence()
        samples: list[bytes] = []
        while position < end and not is_blocked:
            taken, rows, is_blocked = self._take(position, end)
            samples.append(taken)
            position += rows * self._step
        self._fence()
        self._consumer[0] = position
        return b"".join(samples)

    def close(self) -> None:
        """Unmap the ring. May be called again."""
        self._part = None
        self._consumer.release()
        self._producer.release()

    def _take(self, position: int, until: int) -> tuple[bytes, int, bool]:
        """Copy the samples from one position to another, as far as they begin in one part.

        Return them, the number of their rows, and whether the next one is being written.
        """
        number, offset = divmod(position % self._size, _PART_BYTES)
        if self._part is None or self._part_number != number:
            self._part = None  # frees its descriptor, which may be the last one available
            self._part, self._part_number = self._map_part(number), number
        in_part = min(_PART_BYTES, self._size - number * _PART_BYTES) - offset
        rows = min(-(-in_part // self._step), (until - position) // self._step)
        data = memoryview(self._part)[offset : offset + rows * self._step]
        headers = data.cast("I")[:: self._step // 4].tolist()
        self._fence()
        begin, end = _HEADER_BYTES, _HEADER_BYTES + self._sample_bytes
        is_plain = max(headers) < _DISCARDED
        if is_plain and rows >= _MANY_ROWS:
            table = np.frombuffer(data, np.uint8).reshape(rows, self._step)
            return table[:, begin:end].tobytes(), rows, False
        is_busy = (at for at, header in enumerate(headers) if header & _BUSY)
        written = rows if is_plain else next(is_busy, rows)
        starts = (at * self._step for at, one in enumerate(headers[:written]) if one < _DISCARDED)
        samples = (data[start + begin : start + end] for start in starts)
        return b"".join(samples), written, written < rows

    def _map_part(self, number: int) -> mmap.mmap:
        start = number * _PART_BYTES
        # The last sample that begins in the part ends on the next page at the latest.
        size = min(_PART_BYTES, self._size - start) + mmap.PAGESIZE
        offset = 2 * mmap.PAGESIZE + start
        return mmap.mmap(self._map_fd, size, prot=mmap.PROT_READ, offset=offset)

    def _map_position(self, offset: int, protection: int) -> memoryview:
        page = mmap.mmap(self._map_fd, mmap.PAGESIZE, prot=protection, offset=offset)
        return memoryview(page)[:8].cast("Q")

    def _fence(self) -> None:
        """Complete all reads and writes before those that follow.

        The release of a lock keeps what is before it, and the next acquisition what is after it.
        """
        with self._order:
            pass
        with self._order:
            pass

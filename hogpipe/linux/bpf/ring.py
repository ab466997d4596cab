"""Reads a ring buffer of the kernel, through libbpf, which knows in which order memory is read.

libbpf calls back for each sample. A call into Python costs several times what the rest does, so the
callback is libc's `write`, whose arguments are the same three: the context is the descriptor of a
file in memory, from which all samples are then read at once.
"""

import ctypes
import os

from hogpipe.linux.bpf.libbpf import SampleCallback, load_library
from hogpipe.linux.bpf.obstacles import BpfUnavailableError, Obstacle


class Ring:
    """The ring buffer behind a file descriptor; that must stay open. For one thread at a time.

    Raises BpfUnavailableError.
    """

    def __init__(self, descriptor: int) -> None:
        self._library = load_library()
        self._file = os.memfd_create("hogpipe-ring", os.MFD_CLOEXEC)
        write = ctypes.cast(ctypes.CDLL(None).write, SampleCallback)
        self._ring = self._library.ring_buffer__new(descriptor, write, self._file, None)
        if not self._ring:
            os.close(self._file)
            raise BpfUnavailableError(
                Obstacle.LIMITS, "eBPF: the ring buffer cannot be mapped; raise the memory limit"
            )
        self.failed = 0
        """Samples that were lost because the file could not be written; the number only grows."""

    def fileno(self) -> int:
        """Return a descriptor that can be polled for new samples."""
        return int(self._library.ring_buffer__epoll_fd(self._ring))

    def read(self) -> bytes:
        """Return the samples that are there, joined."""
        if self._library.ring_buffer__consume(self._ring) < 0:
            self.failed += 1
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

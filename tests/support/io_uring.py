"""accept() by io_uring(7), with the system calls themselves: there is no binding for Python."""

import ctypes
import errno
import mmap
import os
import socket
import struct

_SETUP, _ENTER = 425, 426
_GET_EVENTS, _OP_ACCEPT = 1, 13
_SQES_OFFSET = 0x10000000
_PARAMS = struct.Struct("=10I7I4xQ7I4xQ")  # io_uring_params, with io_sqring_offsets and cq
_SQE = struct.Struct("=BBHiQQIIQ24x")
_CQE = struct.Struct("=QiI")
_PAGE = mmap.PAGESIZE


def accept_by_io_uring(listener: socket.socket) -> socket.socket:
    """Return a connection accepted by a ring; by accept(2) where the kernel refuses rings."""
    libc = ctypes.CDLL(None, use_errno=True)
    params = ctypes.create_string_buffer(_PARAMS.size)
    ring = libc.syscall(_SETUP, 1, params)
    if ring < 0:
        if ctypes.get_errno() not in {errno.ENOSYS, errno.EPERM}:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return listener.accept()[0]
    numbers = _PARAMS.unpack(params.raw)
    tail, array = numbers[11], numbers[16]
    cqes = numbers[18 + 5]
    try:
        with mmap.mmap(ring, _PAGE) as rings, mmap.mmap(ring, _PAGE, offset=_SQES_OFFSET) as sqes:
            _SQE.pack_into(sqes, 0, _OP_ACCEPT, 0, 0, listener.fileno(), 0, 0, 0, 0, 0)
            struct.pack_into("=I", rings, array, 0)
            struct.pack_into("=I", rings, tail, 1)
            if libc.syscall(_ENTER, ring, 1, 1, _GET_EVENTS, None, 0) != 1:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            _user_data, result, _flags = _CQE.unpack_from(rings, cqes)
    finally:
        os.close(ring)
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return socket.socket(fileno=result)

"""Reads tables of the kernel (bpf(2)) by their file descriptors."""

import ctypes
import os

from hogpipe.linux.bpf.libbpf import load_library


def read_counters(descriptor: int, count: int) -> list[int]:
    """Return the first `count` numbers of an array of 64 bits each. Raises OSError."""
    library = load_library()
    found = []
    for index in range(count):
        key, value = ctypes.c_uint32(index), ctypes.c_uint64()
        code = library.bpf_map_lookup_elem(descriptor, ctypes.byref(key), ctypes.byref(value))
        if code:
            raise OSError(-code, os.strerror(-code))
        found.append(value.value)
    return found

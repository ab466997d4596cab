"""What passed at each socket, counted in the kernel: two tables that take turns.

Formats: `struct traffic_key` and `struct traffic` of hogpipe.bpf.c, in the machine's byte order.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from typing import Any

import msgspec

from hogpipe.bpf.libbpf import load_library
from hogpipe.bpf.loader import AttachedPrograms
from hogpipe.bpf.tables import read_counters

_KEY = struct.Struct("=Q16s16sHHBB2x")
_VALUE = struct.Struct("=QQQQQQII16s")
_AF_INET = 2
_BATCH = 8192
_TABLES = ("traffic_one", "traffic_two")
_OVERFLOWED, _LOST = 2, 3


class SocketTraffic(msgspec.Struct, frozen=True, gc=False):
    """What one socket moved to and from one peer since the last reading.

    Bytes are IP packet bytes as the stack handles them. Addresses are in network order, 4 or 16
    bytes, of IPv4 always 4; `namespace` is a cookie. Ports are 0 where the protocol has none; an
    ICMP echo has its identifier on both sides. `pid` is 0 for a socket that was there before, or
    that is the kernel's own.
    """

    cookie: int
    """The socket's; 0 where the kernel did not know it."""
    local_address: bytes
    local_port: int
    remote_address: bytes
    remote_port: int
    protocol: int
    transmit_bytes: int
    transmit_packets: int
    receive_bytes: int
    receive_packets: int
    namespace: int
    cgroup: int
    pid: int
    user_id: int
    command: str


def decode_traffic(keys: bytes, values: bytes) -> list[SocketTraffic]:
    """Return the entries of a table, of which keys and values each lie one after the other."""
    pairs = zip(_KEY.iter_unpack(keys), _VALUE.iter_unpack(values), strict=True)
    return [_traffic(key, value) for key, value in pairs]


def _traffic(key: tuple[Any, ...], value: tuple[Any, ...]) -> SocketTraffic:
    cookie, local, remote, local_port, remote_port, protocol, family = key
    sent, sent_packets, received, received_packets, namespace, cgroup, pid, user_id, command = value
    return SocketTraffic(
        cookie,
        local[:4] if family == _AF_INET else local,
        local_port,
        remote[:4] if family == _AF_INET else remote,
        remote_port,
        protocol,
        sent,
        sent_packets,
        received,
        received_packets,
        namespace,
        cgroup,
        pid,
        user_id,
        command.split(b"\0", 1)[0].decode("utf-8", "backslashreplace"),
    )


class TrafficTables:
    """The tables of programs that count. For one thread at a time; blocks for some milliseconds."""

    def __init__(self, programs: AttachedPrograms) -> None:
        self._library = load_library()
        self._active = programs.table("active")
        self._losses = programs.table("losses")
        self._filling, self._spare = (programs.table(name) for name in _TABLES)
        self._keys = ctypes.create_string_buffer(_BATCH * _KEY.size)
        self._values = ctypes.create_string_buffer(_BATCH * _VALUE.size)

    def drain(self) -> Iterator[SocketTraffic]:
        """Yield what passed since the last time, and empty it. Raises OSError."""
        full, self._filling = self._filling, self._spare
        self._spare = full
        # Returns when no program still writes to the other (maybe_wait_bpf_programs, syscall.c).
        first, next_one = ctypes.c_uint32(0), ctypes.c_uint32(self._filling)
        _check(
            self._library.bpf_map_update_elem(
                self._active, ctypes.byref(first), ctypes.byref(next_one), 0
            )
        )
        place = ctypes.c_uint32()
        start = None
        while True:
            count = ctypes.c_uint32(_BATCH)
            code = self._library.bpf_map_lookup_and_delete_batch(
                full,
                start,
                ctypes.byref(place),
                self._keys,
                self._values,
                ctypes.byref(count),
                None,
            )
            if code not in {0, -errno.ENOENT}:  # ENOENT: this was the last batch
                _check(code)
            yield from decode_traffic(
                ctypes.string_at(self._keys, count.value * _KEY.size),
                ctypes.string_at(self._values, count.value * _VALUE.size),
            )
            if code:
                return
            start = ctypes.byref(place)

    def counts(self) -> tuple[int, int]:
        """Return the packets that found their table full, and the bytes that found no place."""
        counters = read_counters(self._losses, _LOST + 1)
        return counters[_OVERFLOWED], counters[_LOST]


def _check(code: int) -> None:
    if code:
        raise OSError(-code, os.strerror(-code))

"""The maps in which the traffic programs count, read once an epoch.

In: the attached traffic programs. Out: rows (traffic_rows.py) of what passed at every socket of the
host, and counters of losses. A failing read of a map raises OSError.

Double buffering
----------------
The maps hold two buffers of rows: programs fill that of the current epoch while user space reads
and empties that of the epoch before. `begin_epoch` swaps them, and returns when no program writes
to the old buffer any more. From then on each `take_*` may be called once, in any order, before the
next `begin_epoch`; rows that are not taken are overwritten an epoch later.
"""

import ctypes
import errno
import os
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hogpipe.linux.bpf.health_rows import (
    NO_HEALTH,
    HealthRows,
    copy_raw,
    decode_raw,
    find_counted,
)
from hogpipe.linux.bpf.libbpf import load_library
from hogpipe.linux.bpf.loader import AttachedPrograms
from hogpipe.linux.bpf.maps import Losses, MappedArray, read_losses
from hogpipe.linux.bpf.shapes import (
    AWAITS_FIN,
    COOKIE,
    INDEXED,
    NUMBER,
    PACKET_SOCKET,
    PAYLOAD,
    ROW_KEY,
    ROWS_USED,
    TCP_HEALTH,
    TRAFFIC_COUNTS,
    TRAFFIC_ROW,
    offset_of,
)
from hogpipe.linux.bpf.traffic_rows import (
    Rows,
    copy_rows,
    join_rows,
    pick_rows,
)

_DRAIN_BATCH = 1024  # entries in one call
# Hash maps of older kernels return EBUSY when the caller interrupted a program that was about to
# lock the same bucket (htab_lock_bucket of kernel/bpf/hashtab.c). The call did a part of its work;
# the rest is asked for again.
_BUSY = -errno.EBUSY
_LAST_BATCH = -errno.ENOENT
_NO_ROWS = np.zeros(0, TRAFFIC_ROW)
_TRANSMIT_PACKETS, _RECEIVE_PACKETS = (
    offset_of(TRAFFIC_COUNTS, name) // 8 for name in ("transmit_packets", "receive_packets")
)


class ConnectionRows(NamedTuple):
    """The TCP connections of an epoch."""

    rows: Rows
    """Those with a packet, or whose health has changed."""
    awaiting_fin: Rows
    """Those that the kernel freed before the peer closed; what follows passes no hook."""
    health: HealthRows
    """Of `rows`, in their order."""


class TrafficMaps:
    """The maps of the traffic programs, `max_flows` connections and as many other flows an epoch.

    For one thread at a time; a call blocks for some milliseconds. It takes over `programs`: `close`
    detaches them. Raises BpfUnavailableError and OSError, with no program left attached.
    """

    def __init__(self, programs: AttachedPrograms, max_flows: int) -> None:
        self._library = load_library()
        self._programs = programs
        self._max_flows = max_flows
        self._epoch = 0
        try:
            self._rows_used = MappedArray(programs.map_fd("rows_used"), 2, ROWS_USED)
            self._rows = {
                name: MappedArray(programs.map_fd(name), 2 * max_flows, TRAFFIC_ROW)
                for name in ("connections", "other_flows")
            }
            self._health = MappedArray(
                programs.map_fd("connection_health"), 2 * max_flows, TCP_HEALTH
            )
        except BaseException:
            programs.close()
            raise

    def begin_epoch(self) -> None:
        """Swap the buffers. Raises OSError."""
        self._epoch += 1
        self._set("epoch", self._epoch & 0xFFFFFFFF)
        # The kernel waits here for all running programs (maybe_wait_bpf_programs of syscall.c).
        self._set("barrier", self._programs.map_fd("barrier_content"))

    def take_other_flows(self) -> Rows:
        """Return the rows of all flows but TCP connections. Raises OSError.

        Of several rows of a socket, one has the flag RELEASED if the socket was released.
        """
        rows = self._take_rows("other_flows")
        if not len(rows):
            return rows
        indexed = np.flatnonzero(rows["flags"] & INDEXED)
        if len(indexed):
            keys = np.zeros(len(indexed), ROW_KEY)
            for name in ("cookie", "endpoints"):
                keys[name] = rows[name][indexed]
            keys["parity"] = self._parity + _pids_in_keys(rows[indexed])
            self._delete("row_index", keys)
        is_used = _have_packets(rows)
        return rows if is_used.all() else pick_rows(rows, is_used)

    def take_connections(self) -> ConnectionRows:
        """Return the rows of TCP connections. Raises OSError."""
        rows = self._take_rows("connections")
        if not len(rows):
            return ConnectionRows(rows, rows, NO_HEALTH)
        raw = copy_raw(self._health.rows(2 * len(rows))[self._parity :: 2])
        awaiting_fin = pick_rows(rows, rows["flags"] & AWAITS_FIN != 0)
        is_used = _have_packets(rows) | find_counted(raw)
        if not is_used.all():
            rows, raw = pick_rows(rows, is_used), raw[is_used]
        return ConnectionRows(rows, awaiting_fin, decode_raw(rows["cookie"].copy(), raw))

    def take_overflow(self) -> Rows:
        """Return a row for each process whose flows found no row, without endpoints.

        Raises OSError.
        """
        if not self._take_number("overflow"):
            return _NO_ROWS
        name = "overflow_odd" if self._parity else "overflow_even"
        return join_rows(*(rows for _pids, rows in self._drain(name, NUMBER, TRAFFIC_ROW)))

    def take_payload(self) -> dict[int, tuple[int, int]]:
        """Return the payload transmitted and received by each TCP connection, by socket cookie.

        For programs that are attached with `payload`. Raises OSError.
        """
        name = "payload_odd" if self._parity else "payload_even"
        parts = self._drain(name, COOKIE, PAYLOAD)
        return {
            cookie: sums
            for cookies, values in parts
            for cookie, sums in zip(cookies.tolist(), values.tolist(), strict=True)
        }

    def read_losses(self) -> Losses:
        """Return what was lost so far. Raises OSError."""
        return read_losses(self._programs.map_fd("losses"))

    def close(self) -> None:
        """Detach the programs and free the maps. May be called again."""
        for array in (self._rows_used, self._health, *self._rows.values()):
            array.close()
        self._programs.close()

    @property
    def _parity(self) -> int:
        """0 or 1: the buffer of the epoch that has ended."""
        return (self._epoch - 1) & 1

    def _set(self, name: str, value: int) -> None:
        key, number = ctypes.c_uint32(0), ctypes.c_uint32(value)
        _check(
            self._library.bpf_map_update_elem(
                self._programs.map_fd(name), ctypes.byref(key), ctypes.byref(number), 0
            )
        )

    def _take_number(self, name: str) -> int:
        """Return how many rows were used in the epoch that has ended, and reset the number."""
        numbers = self._rows_used.rows(2)[name]
        used = int(numbers[self._parity])
        numbers[self._parity] = 0
        return used

    def _take_rows(self, name: str) -> Rows:
        """Return a copy of the rows that were used in the epoch that has ended."""
        used = min(self._take_number(name), self._max_flows)
        rows = self._rows[name].rows(2 * used)
        return copy_rows(rows[self._parity :: 2]) if used else _NO_ROWS

    def _delete(self, name: str, keys: "np.ndarray[tuple[int], np.dtype[np.void]]") -> None:
        while len(keys):
            count = ctypes.c_uint32(len(keys))
            code = self._library.bpf_map_delete_batch(
                self._programs.map_fd(name), keys.ctypes.data, ctypes.byref(count), None
            )
            if code != _BUSY:
                _check(code)
            keys = keys[count.value :]

    def _drain(
        self, name: str, key: "np.dtype[Any]", value: "np.dtype[np.void]"
    ) -> list[tuple[NDArray[Any], NDArray[np.void]]]:
        """Return the keys and values of a hash map in parts, and empty it."""
        map_fd = self._programs.map_fd(name)
        parts, position, start, code = [], ctypes.c_uint32(), None, 0
        while code in {0, _BUSY}:
            keys, values = np.zeros(_DRAIN_BATCH, key), np.zeros(_DRAIN_BATCH, value)
            count = ctypes.c_uint32(_DRAIN_BATCH)
            code = self._library.bpf_map_lookup_and_delete_batch(
                map_fd, start, ctypes.byref(position), keys.ctypes.data, values.ctypes.data,
                ctypes.byref(count), None,
            )  # fmt: skip
            if code not in {0, _BUSY, _LAST_BATCH}:
                _check(code)
            parts.append((keys[: count.value], values[: count.value]))
            start = ctypes.byref(position)
        return parts


def _have_packets(rows: Rows) -> NDArray[np.bool_]:
    """Return which rows have packets: if two rows were taken for one flow, one of them has none."""
    counts = rows["counts"]
    return np.asarray(counts[:, _TRANSMIT_PACKETS] + counts[:, _RECEIVE_PACKETS] != 0)


def _pids_in_keys(rows: Rows) -> NDArray[np.uint64]:
    """Return what keys have above the parity: pids, of the rows of packet sockets."""
    is_sent = rows["flags"] & PACKET_SOCKET != 0
    return np.where(is_sent, rows["pid"].astype(np.uint64) << np.uint64(32), np.uint64(0))


def _check(code: int) -> None:
    if code:
        raise OSError(-code, os.strerror(-code))

"""The maps in which the traffic programs count, read once an epoch.

In: the attached traffic programs. Out: rows (traffic_rows.py) of what passed at every socket of the
host, and counters of losses. A failing read of a map raises OSError. `ConnectionMaps` explains the
epochs.
"""

import ctypes
import errno
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hogpipe.linux.bpf.connection_maps import NO_ROWS, ConnectionMaps, check, have_packets
from hogpipe.linux.bpf.loader import AttachedPrograms
from hogpipe.linux.bpf.shapes import (
    COOKIE,
    INDEXED,
    NUMBER,
    PACKET_SOCKET,
    PAYLOAD,
    ROW_KEY,
    TRAFFIC_ROW,
)
from hogpipe.linux.bpf.traffic_rows import (
    Rows,
    join_rows,
    pick_rows,
)

_DRAIN_BATCH = 1024  # entries in one call
# Hash maps of older kernels return EBUSY when the caller interrupted a program that was about to
# lock the same bucket (htab_lock_bucket of kernel/bpf/hashtab.c). The call did a part of its work;
# the rest is asked for again.
_BUSY = -errno.EBUSY
_LAST_BATCH = -errno.ENOENT


class TrafficMaps(ConnectionMaps):
    """The maps of the traffic programs, `max_flows` connections and as many other flows an epoch.

    See ConnectionMaps.
    """

    def __init__(self, programs: AttachedPrograms, max_flows: int) -> None:
        super().__init__(programs, max_flows)
        try:
            self._map_rows("other_flows")
        except BaseException:
            programs.close()
            raise

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
        is_used = have_packets(rows)
        return rows if is_used.all() else pick_rows(rows, is_used)

    def take_overflow(self) -> Rows:
        """Return a row for each process whose flows found no row, without endpoints.

        Raises OSError.
        """
        if not self._take_number("overflow"):
            return NO_ROWS
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

    def _delete(self, name: str, keys: "np.ndarray[tuple[int], np.dtype[np.void]]") -> None:
        while len(keys):
            count = ctypes.c_uint32(len(keys))
            code = self._library.bpf_map_delete_batch(
                self._programs.map_fd(name), keys.ctypes.data, ctypes.byref(count), None
            )
            if code != _BUSY:
                check(code)
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
                check(code)
            parts.append((keys[: count.value], values[: count.value]))
            start = ctypes.byref(position)
        return parts


def _pids_in_keys(rows: Rows) -> NDArray[np.uint64]:
    """Return what keys have above the parity: pids, of the rows of packet sockets."""
    is_sent = rows["flags"] & PACKET_SOCKET != 0
    return np.where(is_sent, rows["pid"].astype(np.uint64) << np.uint64(32), np.uint64(0))

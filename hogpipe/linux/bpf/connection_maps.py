"""The maps in which programs count TCP connections, read once an epoch.

In: attached programs that count health, or packets and health. Out: rows (traffic_rows.py) of the
connections of the host with their health (health_rows.py), and counters of losses. A failing read
of a map raises OSError.

Double buffering
----------------
The maps hold two buffers of rows: programs fill that of the current epoch while user space reads
and empties that of the epoch before. `begin_epoch` swaps them, and returns when no program writes
to the old buffer any more. From then on each `take_*` may be called once, in any order, before the
next `begin_epoch`; rows that are not taken are overwritten an epoch later.
"""

import ctypes
import os
from typing import NamedTuple

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
    ROWS_USED,
    TCP_HEALTH,
    TRAFFIC_COUNTS,
    TRAFFIC_ROW,
    offset_of,
)
from hogpipe.linux.bpf.traffic_rows import Rows, copy_rows, pick_rows

NO_ROWS = np.zeros(0, TRAFFIC_ROW)
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


class ConnectionMaps:
    """The maps of `programs`, with rows for `max_connections` an epoch.

    For one thread at a time; a call blocks for some milliseconds. It takes over `programs`: `close`
    detaches them. Raises BpfUnavailableError and OSError, with no program left attached.
    """

    def __init__(self, programs: AttachedPrograms, max_connections: int) -> None:
        self._library = load_library()
        self._programs = programs
        self._max_rows = max_connections
        self._epoch = 0
        self._rows: dict[str, MappedArray] = {}
        try:
            self._rows_used = MappedArray(programs.map_fd("rows_used"), 2, ROWS_USED)
            self._map_rows("connections")
            self._health = MappedArray(
                programs.map_fd("connection_health"), 2 * max_connections, TCP_HEALTH
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

    def count_used(self) -> int:
        """Return how many rows of connections the current epoch has so far."""
        return int(self._rows_used.rows(2)["connections"][self._epoch & 1])

    def take_connections(self) -> ConnectionRows:
        """Return the rows of TCP connections. Raises OSError."""
        rows = self._take_rows("connections")
        if not len(rows):
            return ConnectionRows(rows, rows, NO_HEALTH)
        raw = copy_raw(self._health.rows(2 * len(rows))[self._parity :: 2])
        awaiting_fin = pick_rows(rows, rows["flags"] & AWAITS_FIN != 0)
        is_used = have_packets(rows) | find_counted(raw)
        if not is_used.all():
            rows, raw = pick_rows(rows, is_used), raw[is_used]
        return ConnectionRows(rows, awaiting_fin, decode_raw(rows["cookie"].copy(), raw))

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

    def _map_rows(self, name: str) -> None:
        map_fd = self._programs.map_fd(name)
        self._rows[name] = MappedArray(map_fd, 2 * self._max_rows, TRAFFIC_ROW)

    def _set(self, name: str, value: int) -> None:
        key, number = ctypes.c_uint32(0), ctypes.c_uint32(value)
        check(
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
        used = min(self._take_number(name), self._max_rows)
        rows = self._rows[name].rows(2 * used)
        return copy_rows(rows[self._parity :: 2]) if used else NO_ROWS


def have_packets(rows: Rows) -> NDArray[np.bool_]:
    """Return which rows have packets: if two rows were taken for one flow, one of them has none."""
    counts = rows["counts"]
    return np.asarray(counts[:, _TRANSMIT_PACKETS] + counts[:, _RECEIVE_PACKETS] != 0)


def check(code: int) -> None:
    """Raise OSError if the result of a function of libbpf is an error."""
    if code:
        raise OSError(-code, os.strerror(-code))

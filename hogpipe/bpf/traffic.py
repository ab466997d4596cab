"""What passed at each socket, counted in the kernel: tables in pairs that take turns."""

import ctypes
import errno
import os
from collections.abc import Iterator

import msgspec
import numpy as np

from hogpipe.bpf.entries import (
    CONNECTION,
    CONNECTION_KEY,
    ENTRY,
    EXCHANGE,
    EXCHANGE_KEY,
    FAREWELL,
    OVERFLOW_KEY,
    RELEASED,
    RELEASED_VALUE,
    Entries,
    ProcessSeen,
    decode_processes,
)
from hogpipe.bpf.libbpf import load_library
from hogpipe.bpf.loader import AttachedPrograms
from hogpipe.bpf.ring import Ring
from hogpipe.bpf.tables import read_counters

_BATCH = 4096  # entries that are read at once
_EVENTS_LOST, _SOCKETS_LOST, _PACKETS_LOST = range(3)


class TrafficLosses(msgspec.Struct, frozen=True):
    """What found no place in the kernel since the programs were attached."""

    processes: int
    """Processes that were not told of."""
    sockets: int
    """Sockets whose owner could not be noted."""
    packets: int
    """Packets that could not be counted for anybody."""


class TrafficTables:
    """The tables of programs that count. For one thread at a time; blocks for some milliseconds.

    It takes the programs over: `close` detaches them. Raises BpfUnavailableError, with nothing left
    attached.
    """

    def __init__(self, programs: AttachedPrograms) -> None:
        self._library = load_library()
        self._programs = programs
        self._second = False
        try:
            self._ring = Ring(programs.table("events"))
        except BaseException:
            programs.close()
            raise

    def fileno(self) -> int:
        """Return a descriptor that can be polled for processes that were seen."""
        return self._ring.fileno()

    def read_processes(self) -> list[ProcessSeen]:
        """Return the processes that were seen since the last time."""
        return decode_processes(self._ring.read())

    def take_turns(self) -> None:
        """Have what passes from now on counted in the other tables. Raises OSError.

        When this returns, no program writes to the tables that `exchanges`, `connections` and
        `overflow` then read.
        """
        self._second = not self._second
        self._put("turn", int(self._second))
        # The kernel waits for running programs here (maybe_wait_bpf_programs of syscall.c).
        self._put("barrier", self._programs.table("barrier_content"))

    def exchanges(self) -> Entries:
        """Return what passed at sockets other than connections, and empty it. Raises OSError."""
        found = self._read("exchanges", EXCHANGE_KEY, EXCHANGE)
        released = [
            np.frombuffer(cookies, np.uint64)
            for cookies, _ in self._drain("released", 8, RELEASED_VALUE.itemsize)
        ]
        found["flags"][np.isin(found["cookie"], np.concatenate(released))] |= RELEASED
        return found

    def connections(self) -> Entries:
        """Return what passed at TCP sockets that do not listen, and empty it. Raises OSError."""
        return self._read("connections", CONNECTION_KEY, CONNECTION)

    def overflow(self) -> Entries:
        """Return what the other tables had no room for, by process; their ends are not known.

        And empty it. Raises OSError.
        """
        return self._read("overflow", OVERFLOW_KEY, EXCHANGE)

    def farewells(self) -> Entries:
        """Return connections that the kernel let go of before their peers had closed, and empty it.

        What comes after that passes no hook; their counts are 0. Raises OSError.
        """
        return self._collect("farewells", CONNECTION_KEY, FAREWELL)

    def losses(self) -> TrafficLosses:
        """Return what was lost so far. Raises OSError."""
        lost = read_counters(self._programs.table("losses"), _PACKETS_LOST + 1)
        return TrafficLosses(
            processes=lost[_EVENTS_LOST] + self._ring.failed,
            sockets=lost[_SOCKETS_LOST],
            packets=lost[_PACKETS_LOST],
        )

    def close(self) -> None:
        """Detach from the kernel. May be called again."""
        self._ring.close()
        self._programs.close()

    def _put(self, table: str, value: int) -> None:
        key, entry = ctypes.c_uint32(0), ctypes.c_uint32(value)
        _check(
            self._library.bpf_map_update_elem(
                self._programs.table(table), ctypes.byref(key), ctypes.byref(entry), 0
            )
        )

    def _read(self, kind: str, key: "np.dtype[np.void]", value: "np.dtype[np.void]") -> Entries:
        """Return what is in the table of a kind that does not fill, and empty it."""
        return self._collect(f"{kind}_{'one' if self._second else 'two'}", key, value)

    def _collect(self, table: str, key: "np.dtype[np.void]", value: "np.dtype[np.void]") -> Entries:
        parts = []
        for keys, values in self._drain(table, key.itemsize, value.itemsize):
            part = np.zeros(len(values) // value.itemsize, ENTRY)
            for columns in (np.frombuffer(values, value), np.frombuffer(keys, key)):
                for name in columns.dtype.names or ():
                    part[name] = columns[name]
            parts.append(part)
        return np.concatenate(parts)

    def _drain(self, name: str, key_size: int, value_size: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield keys and values of a table until it is empty."""
        table = self._programs.table(name)
        keys = ctypes.create_string_buffer(_BATCH * key_size)
        values = ctypes.create_string_buffer(_BATCH * value_size)
        place = ctypes.c_uint32()
        start = None
        code = 0
        while not code:
            count = ctypes.c_uint32(_BATCH)
            code = self._library.bpf_map_lookup_and_delete_batch(
                table, start, ctypes.byref(place), keys, values, ctypes.byref(count), None
            )
            if code not in {0, -errno.ENOENT}:  # ENOENT: this was the last batch
                _check(code)
            yield keys.raw[: count.value * key_size], values.raw[: count.value * value_size]
            start = ctypes.byref(place)


def _check(code: int) -> None:
    if code:
        raise OSError(-code, os.strerror(-code))

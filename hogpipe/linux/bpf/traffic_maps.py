"""What passed at each socket, counted in the kernel, in tables that are used in turns."""

import ctypes
import errno
import os

import msgspec
import numpy as np

from hogpipe.linux.bpf.libbpf import load_library
from hogpipe.linux.bpf.loader import AttachedPrograms
from hogpipe.linux.bpf.maps import MappedArray, RingBuffer
from hogpipe.linux.bpf.traffic_rows import (
    AWAITS_FIN,
    ENTRY,
    FILL,
    KEYED,
    OVERFLOW_KEY,
    PLACE_KEY,
    Entries,
    ProcessSeen,
    copy_rows,
    decode_processes,
    join,
    pick,
)

_BATCH = 1024  # entries of an overflow that are read at once
# What a hash table of older kernels may answer where this thread interrupts a program that is about
# to take a lock of it (htab_lock_bucket of hashtab.c): what was not done yet is asked for again.
_BUSY = -errno.EBUSY
_LOSSES = np.dtype([("events", "u8"), ("sockets", "u8"), ("packets", "u8")])
_NOTHING = np.zeros(0, ENTRY)


class TrafficLosses(msgspec.Struct, frozen=True):
    """What found no place in the kernel since the programs were attached."""

    processes: int
    """Processes that were not told of."""
    sockets: int
    """Sockets whose owner could not be noted."""
    packets: int
    """Packets that could not be counted for anybody."""


class TrafficMaps:
    """The tables of programs that count: `max_flows` connections and as many other flows a turn.

    For one thread at a time; blocks for some milliseconds. It takes the programs over: `close`
    detaches them. Raises BpfUnavailableError and OSError, with nothing left attached.
    """

    def __init__(self, programs: AttachedPrograms, max_flows: int) -> None:
        self._library = load_library()
        self._programs = programs
        self._max_flows = max_flows
        self._turn = 0
        try:
            self._fills = MappedArray(programs.map_fd("fills"), 2, FILL)
            self._losses = MappedArray(programs.map_fd("losses"), 1, _LOSSES)
            self._tables = {
                name: MappedArray(programs.map_fd(name), 2 * max_flows, ENTRY)
                for name in ("connections", "exchanges")
            }
            self._ring = RingBuffer(programs.map_fd("events"))
        except BaseException:
            programs.close()
            raise

    def fileno(self) -> int:
        """Return a descriptor that can be polled for processes that were seen."""
        return self._ring.fileno()

    def read_processes(self) -> list[ProcessSeen]:
        """Return the processes that were seen since the last time."""
        return decode_processes(self._ring.drain())

    def take_turns(self) -> None:
        """Begin another turn: what passes from now on is counted in other rows. Raises OSError.

        When this returns, no program writes to the rows that `exchanges`, `connections` and
        `overflow` then read.
        """
        self._turn += 1
        self._put("turn", self._turn & 0xFFFFFFFF)
        # The kernel waits for running programs here (maybe_wait_bpf_programs of syscall.c).
        self._put("barrier", self._programs.map_fd("barrier_content"))

    def exchanges(self) -> Entries:
        """Return what passed at sockets other than connections, and empty it. Raises OSError.

        Of several flows of a socket one has RELEASED if that is so.
        """
        found = self._take("exchanges")
        if not len(found):
            return found
        keyed = pick(found, found["flags"] & KEYED != 0)
        if len(keyed):
            keys = np.zeros(len(keyed), PLACE_KEY)
            keys["cookie"], keys["ends"] = keyed["cookie"], keyed["ends"]
            keys["parity"] = self._parity
            self._delete("places", keys)
        return _drop_unused(found)

    def connections(self) -> tuple[Entries, Entries]:
        """Return what passed at TCP sockets that do not listen, and empty it. Raises OSError.

        And those that the kernel let go of before their peers had closed: what comes after that
        passes no hook.
        """
        found = self._take("connections")
        if not len(found):
            return found, found
        return _drop_unused(found), pick(found, found["flags"] & AWAITS_FIN != 0)

    def overflow(self) -> Entries:
        """Return what the other tables had no room for, by process; their ends are not known.

        And empty it. Raises OSError.
        """
        if not self._take_fill("overflow"):
            return _NOTHING
        return self._drain("overflow_odd" if self._parity else "overflow_even")

    def losses(self) -> TrafficLosses:
        """Return what was lost so far. Raises OSError."""
        events, sockets, packets = self._losses.rows(1).item()
        return TrafficLosses(events + self._ring.lost, sockets, packets)

    def close(self) -> None:
        """Detach from the kernel. May be called again."""
        self._ring.close()
        for table in (self._fills, self._losses, *self._tables.values()):
            table.close()
        self._programs.close()

    @property
    def _parity(self) -> int:
        """Of the turn that has ended."""
        return (self._turn - 1) & 1

    def _put(self, table: str, value: int) -> None:
        key, entry = ctypes.c_uint32(0), ctypes.c_uint32(value)
        _check(
            self._library.bpf_map_update_elem(
                self._programs.map_fd(table), ctypes.byref(key), ctypes.byref(entry), 0
            )
        )

    def _take_fill(self, kind: str) -> int:
        """Return how many rows were taken in the turn that has ended, and give them back."""
        fill = self._fills.rows(2)[kind]
        taken = int(fill[self._parity])
        fill[self._parity] = 0
        return taken

    def _take(self, kind: str) -> Entries:
        """Return a copy of the rows that were taken in the turn that has ended."""
        taken = min(self._take_fill(kind), self._max_flows)
        if not taken:
            return _NOTHING
        return copy_rows(self._tables[kind].rows(2 * taken)[self._parity :: 2])

    def _delete(self, table: str, keys: "np.ndarray[tuple[int], np.dtype[np.void]]") -> None:
        while len(keys):
            count = ctypes.c_uint32(len(keys))
            code = self._library.bpf_map_delete_batch(
                self._programs.map_fd(table), keys.ctypes.data, ctypes.byref(count), None
            )
            if code != _BUSY:
                _check(code)
            keys = keys[count.value :]

    def _drain(self, name: str) -> Entries:
        """Return the entries of a table that has processes as keys, and empty it."""
        table = self._programs.map_fd(name)
        parts, place, start, code = [], ctypes.c_uint32(), None, 0
        while code in {0, _BUSY}:
            keys, values = np.zeros(_BATCH, OVERFLOW_KEY), np.zeros(_BATCH, ENTRY)
            count = ctypes.c_uint32(_BATCH)
            code = self._library.bpf_map_lookup_and_delete_batch(
                table, start, ctypes.byref(place), keys.ctypes.data, values.ctypes.data,
                ctypes.byref(count), None,
            )  # fmt: skip
            if code not in {0, _BUSY, -errno.ENOENT}:  # ENOENT: this was the last batch
                _check(code)
            parts.append(values[: count.value])
            start = ctypes.byref(place)
        return join(*parts)


def _drop_unused(entries: Entries) -> Entries:
    """Return rows with packets: where two took one for the same flow, one of them has none."""
    counts = entries["counts"]
    used = counts[:, 1] + counts[:, 3] != 0
    return entries if used.all() else pick(entries, used)


def _check(code: int) -> None:
    if code:
        raise OSError(-code, os.strerror(-code))

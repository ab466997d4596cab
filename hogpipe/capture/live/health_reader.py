"""Reads the health of TCP connections beside a capture, and adds it to the flows that it captures.

In: the health of connections from programs, or of destroyed sockets (health_origins.py). Out:
health, in the flow table, where it follows the owner of its flow. A thread reads it shortly before
each window ends, at least twice a second, and `close` once more.

Health whose connection has no flow yet is kept for `_KEPT_READINGS` readings, as packets may be
read later than the maps. After that the connection is not captured, and its health is dropped.

Of several connections with one five-tuple in one reading, each has the owner that the ledger
recorded of its socket: the flow has that of the last one only.

What may fail: a reading that fails ends all further ones, and is logged. Where there are more
connections between two readings than the maps have room for, some events are lost, which
`take_lost` counts; what grows is counted later.

Known limits: what happens in the last `_BEFORE_END` seconds of a window counts in the next one. The
health of a connection of which only a translated copy is captured has no flow.
"""

import logging
import os
import select
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hogpipe.capture.ebpf.row_flows import make_row_flows
from hogpipe.capture.live.health_origins import DestroyedHealth, HealthOrigin, ProgramHealth
from hogpipe.flows.endpoint_match import Reach
from hogpipe.flows.flow_table import FlowTable
from hogpipe.flows.health_columns import SlotHealth
from hogpipe.flows.key_index import ABSENT, Keys
from hogpipe.flows.packet_rows import Flags, Health, Integers
from hogpipe.linux.bpf.connection_maps import NO_ROWS, ConnectionRows
from hogpipe.linux.bpf.health_rows import NO_HEALTH
from hogpipe.linux.bpf.obstacles import BpfUnavailableError
from hogpipe.linux.netns.cookies import read_own_cookie
from hogpipe.model import Attribution
from hogpipe.protocols import NANOSECONDS
from hogpipe.threads import keep_running

log = logging.getLogger(__name__)

AttributeSockets = Callable[[Sequence[int]], Sequence[Attribution | None]]
"""Returns the attributions to the owners of sockets by cookie, None where it is not known."""
Cookies = NDArray[np.uint64]

_LONGEST_PAUSE = 0.5
_REST = 0.02
_BEFORE_END = 0.02  # a reading waits for the kernel for some milliseconds
_KEPT_READINGS = 4
_MILLISECONDS = 1000
_NO_CONNECTIONS = ConnectionRows(NO_ROWS, NO_ROWS, NO_HEALTH)


class HealthReader:
    """For `table`, from `open` to `close`; windows end at multiples of `interval_ns`.

    The thread calls `limit_events`, to drop rights.
    """

    def __init__(
        self, table: FlowTable, interval_ns: int, limit_events: Callable[[], None] = lambda: None
    ) -> None:
        self._table = table
        self._limit_events = limit_events
        self.interval_ns = interval_ns
        """The length of windows, which may change."""
        self._origin: HealthOrigin | None = None
        self._placement: HealthPlacement | None = None
        self._thread: threading.Thread | None = None
        self._stop_fd = -1
        self._lost_before = 0

    def open_programs(self, attribute: AttributeSockets) -> None:
        """Read what programs count, if the kernel permits them; `attribute` knows their owners."""
        try:
            self._open(ProgramHealth(), attribute)
        except (BpfUnavailableError, OSError) as error:
            log.info("the health of TCP connections is not counted: %s", error)
            self.close()

    def open_destroyed(self) -> None:
        """Read of sockets that are destroyed, if nothing is read yet, and the kernel permits it."""
        if self._origin is not None:
            return
        try:
            self._open(DestroyedHealth(), _know_no_owner)
        except OSError as error:
            log.info("no health of TCP connections: %s", error.strerror)
            self.close()

    def take_lost(self) -> int:
        """Return how often there was no room since the last call."""
        lost = self._lost_before if self._origin is None else self._origin.lost
        taken, self._lost_before = lost - self._lost_before, lost
        return taken

    def close(self) -> None:
        """Read once more, and release everything. May be called again."""
        if self._thread is not None:
            os.eventfd_write(self._stop_fd, 1)
            self._thread.join()
            self._thread = None
        if self._origin is not None:
            self._origin.close()
        if self._stop_fd >= 0:
            os.close(self._stop_fd)
            self._stop_fd = -1

    def _open(self, origin: HealthOrigin, attribute: AttributeSockets) -> None:
        self._origin = origin
        self._placement = HealthPlacement(
            self._table, read_own_cookie(), attribute, only_begun=not origin.knows_beginnings
        )
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(
            target=keep_running, args=(self._run,), name="health", daemon=True
        )
        self._thread.start()

    def _run(self) -> None:
        self._limit_events()
        origin, placement = self._origin, self._placement
        assert origin is not None
        assert placement is not None
        try:
            while not self._wait(origin):
                placement.add(origin.take())
            origin.ingest()
            placement.add(origin.take())
        except OSError as error:
            log.warning("no further health of TCP connections: %s", error)

    def _wait(self, origin: HealthOrigin) -> bool:
        """Ingest until the next reading; return whether it is the last one."""
        stopped, ready = select.poll(), select.poll()
        for poller in (stopped, ready):
            poller.register(self._stop_fd, select.POLLIN)
        if (descriptor := origin.fileno()) is not None:
            ready.register(descriptor, select.POLLIN)
        due = time.monotonic() + choose_pause(time.time_ns(), self.interval_ns)
        while (left := due - time.monotonic()) > 0:
            if ready.poll(left * _MILLISECONDS):
                # So that many messages cost one wake-up.
                if stopped.poll(min(_REST, left) * _MILLISECONDS):
                    return True
                origin.ingest()
        return False


def _know_no_owner(cookies: Sequence[int]) -> Sequence[Attribution | None]:
    return [None for _ in cookies]


def choose_pause(now_ns: int, interval_ns: int) -> float:
    """Return the seconds until the next reading."""
    until_end = (interval_ns - now_ns % interval_ns) / NANOSECONDS - _BEFORE_END
    if until_end <= 0:
        until_end += interval_ns / NANOSECONDS
    return max(min(until_end, _LONGEST_PAUSE), _BEFORE_END)


class HealthPlacement:
    """Adds the health of connections to their flows in `table`, at once or in the next calls.

    `own_cookie` is that of the network namespace that is captured in; `attribute` returns the
    owners of sockets. If `only_begun`, connections whose SYN the table has not seen are left out.
    For one thread at a time.
    """

    def __init__(
        self,
        table: FlowTable,
        own_cookie: int,
        attribute: AttributeSockets,
        *,
        only_begun: bool = False,
    ) -> None:
        self._table = table
        self._only_begun = only_begun
        self._attribute = attribute
        self._own_cookie = own_cookie
        self._left = _Connections.of_rows(_NO_CONNECTIONS, own_cookie)

    @property
    def has_waiting(self) -> bool:
        """Whether some health has no flow yet."""
        return len(self._left) > 0

    def add(self, epoch: ConnectionRows | None) -> None:
        """Add the health of an epoch, if there is any, and what is left of those before."""
        waiting = self._left
        if epoch is not None:
            new = _Connections.of_rows(epoch, self._own_cookie)
            waiting = self._left.join(new) if len(self._left) else new
        if not len(waiting):
            return
        with self._table.lock:
            slots = self._table.find_connections(waiting.words, waiting.reach)
            is_found = slots != ABSENT
            if self._only_begun:
                is_added = is_found & self._table.find_begun(np.maximum(slots, 0))
            else:
                is_added = is_found
            self._add_found(slots[is_added], waiting.take(is_added))
        self._left = waiting.take(~is_found).grow_older()

    def _add_found(self, slots: Integers, found: "_Connections") -> None:
        _distinct, places, numbers = np.unique(slots, return_inverse=True, return_counts=True)
        is_shared = numbers[places] > 1
        shared = np.flatnonzero(is_shared)
        owners = self._attribute(found.cookies[shared].tolist()) if len(shared) else []
        is_owned = np.zeros(len(slots), np.bool_)
        is_owned[shared] = [owner is not None for owner in owners]
        if is_owned.any():
            self._table.add_owned_health(
                SlotHealth(slots[is_owned], found.health[is_owned]),
                [owner for owner in owners if owner is not None],
            )
        if not is_owned.all():
            self._table.add_health(SlotHealth(slots[~is_owned], found.health[~is_owned]))


@dataclass(frozen=True, slots=True, eq=False)
class _Connections:
    """The health of connections, each with its endpoints."""

    cookies: Cookies
    words: Keys
    reach: Integers
    health: Health
    readings: Integers
    """How many readings each has waited for its flow."""

    @classmethod
    def of_rows(cls, epoch: ConnectionRows, own_cookie: int) -> "_Connections":
        """Return those of an epoch that have counted something."""
        rows, namespaces = epoch.rows, epoch.rows["namespace"]
        reach = np.where(namespaces == own_cookie, int(Reach.OWN), int(Reach.OTHER))
        reach[namespaces == 0] = Reach.ANY
        flows = make_row_flows(rows, np.zeros(len(rows), np.intp), [None])
        none = np.zeros(len(rows), np.int64)
        return cls(epoch.health.cookies, flows.words, reach, epoch.health.health, none)

    def __len__(self) -> int:
        return len(self.words)

    def join(self, other: "_Connections") -> "_Connections":
        """Return all of both."""
        return _Connections(
            np.concatenate([self.cookies, other.cookies]),
            np.concatenate([self.words, other.words]),
            np.concatenate([self.reach, other.reach]),
            np.concatenate([self.health, other.health]),
            np.concatenate([self.readings, other.readings]),
        )

    def take(self, rows: Flags) -> "_Connections":
        """Return these rows."""
        return _Connections(
            self.cookies[rows],
            self.words[rows],
            self.reach[rows],
            self.health[rows],
            self.readings[rows],
        )

    def grow_older(self) -> "_Connections":
        """Return those that may wait for another reading."""
        older = replace(self, readings=self.readings + 1)
        return older.take(older.readings < _KEPT_READINGS)

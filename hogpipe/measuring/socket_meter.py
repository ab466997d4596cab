"""Measures by the kernel's counters at sockets (source `ebpf`).

In: a scope. Out: what its sockets moved since `restart`. The meter attaches programs of its own at
the root of the control groups: all processes are counted in the kernel, and the rows of the scope
are picked here. Several meters at once do not know of each other.

Borders in time
---------------
A border is the moment in which the kernel swaps its maps (`TrafficMaps.begin_epoch`): a packet that
passed the hook at its socket before is in the measurement that ends, and none of the others. So a
transmitted packet counts when TCP or UDP passes it to IP, before the queue of the interface; a
received one counts when IP has delivered it, before the process reads it.

A thread reads the maps each `_DRAIN_SECONDS`, so that they do not fill up.

What may fail: opening raises BpfUnavailableError, OSError; reading raises CaptureError.

Known limits: of UDP over IPv4 with options, or IPv6 with extension headers, these count as payload.
Once more than `_MAX_FLOWS` flows of the host move in `_DRAIN_SECONDS`, further ones are counted by
process, without peer and payload.
"""

import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from hogpipe.capture.ebpf.row_properties import find_service_ports
from hogpipe.capture.live.link_selection import choose_transmitting
from hogpipe.errors import CaptureError
from hogpipe.linux.bpf.obstacles import explain_failed_open
from hogpipe.linux.bpf.packet_hooks import PacketHooks
from hogpipe.linux.bpf.programs import attach_traffic_programs
from hogpipe.linux.bpf.traffic_maps import TrafficMaps
from hogpipe.linux.bpf.traffic_rows import Rows, TrafficRow, decode_rows, join_rows
from hogpipe.linux.held_sockets import HeldSocket, read_held_sockets
from hogpipe.linux.listening_ports import read_service_ports
from hogpipe.linux.netns.cookies import read_own_cookie
from hogpipe.linux.procfs import Procfs
from hogpipe.measuring.results import Losses, Totals, Traffic
from hogpipe.measuring.row_selection import Port, Selection, find_serving_ports, select_rows
from hogpipe.measuring.scope import Scope
from hogpipe.measuring.tally import Tally, make_peer_key
from hogpipe.model import Quality, ServicePorts
from hogpipe.protocols import DATAGRAMS, TCP
from hogpipe.threads import keep_running

_MAX_FLOWS = 1 << 15
_DRAIN_SECONDS = 1.0
_MAX_HELD = 1 << 18
_IP_HEADER_BYTES = {4: 20, 16: 40}
_UDP_HEADER_BYTES = 8
_PROCFS = Path("/proc")

Payload = dict[int, tuple[int, int]]
"""Bytes of TCP that were transmitted and received, by socket cookie."""


class SocketMeter:
    """Counts the traffic of a scope, which it takes over, until `close`. Safe in any thread."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._procfs = Procfs(_PROCFS)
        self._lock = threading.Lock()
        self._held: dict[int, HeldSocket] = {}
        self._serving: set[Port] = set()
        """Where sockets listened that the scope held, or to which connections came."""
        self._tally = Tally(time.monotonic())
        self._losses_before = Losses()
        self._stop = threading.Event()
        with ExitStack() as stack:
            stack.callback(scope.close)
            try:
                programs = attach_traffic_programs(max_flows=_MAX_FLOWS, payload=True)
                self._maps = TrafficMaps(programs, _MAX_FLOWS)
                stack.callback(self._maps.close)
                if programs.has_interface_program:
                    stack.callback(PacketHooks(programs, choose_transmitting).close)
                self._own_namespace = read_own_cookie()
                self._ports = read_service_ports(_PROCFS)
                self._scope.refresh()
                self._read_held_sockets()
            except OSError as error:
                raise explain_failed_open(error, "the maps") from error
            self._thread = threading.Thread(
                target=keep_running, args=(self._drain,), name="measuring", daemon=True
            )
            self.restart()
            self._thread.start()
            self._opened = stack.pop_all()

    def restart(self) -> None:
        """Count from now on. Raises CaptureError."""
        with self._lock:
            self._take_epoch()
            self._tally = Tally(time.monotonic())
            self._losses_before = self._read_losses()

    def read(self) -> Traffic:
        """Return what was moved until now. Raises CaptureError."""
        with self._lock:
            self._take_epoch()
            state = Traffic(
                source="ebpf",
                losses=_subtract(self._read_losses(), self._losses_before),
                follows_children=self._scope.follows_children,
                is_running=self._scope.is_running(),
            )
            return self._tally.read(time.monotonic(), state)

    def close(self) -> None:
        """Detach the programs. May be called again."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._lock:  # another thread may be reading
            self._opened.close()

    def _drain(self) -> None:
        while not self._stop.wait(_DRAIN_SECONDS):
            with suppress(CaptureError), self._lock:  # the next reading raises the same
                self._take_epoch()

    def _take_epoch(self) -> None:
        """Add the rows of the epoch until now. Raises CaptureError."""
        if self._stop.is_set():
            raise CaptureError("the measurement is over")
        try:
            self._maps.begin_epoch()
            connections = self._maps.take_connections().rows
            others = self._maps.take_other_flows()
            self._serving |= find_serving_ports(others)
            rows = join_rows(connections, others, self._maps.take_overflow())
            payload = self._maps.take_payload()
            self._scope.refresh()
            self._add(rows, payload)
        except OSError as error:
            text = f"eBPF: the kernel's maps cannot be read ({error.strerror})"
            raise CaptureError(text) from error

    def _add(self, rows: Rows, payload: Payload) -> None:
        if not len(rows):
            return
        selection = self._select(rows)
        if len(selection.rows) and selection.by_listener.any():
            self._read_held_sockets()  # a process may have accepted these connections by now
            selection = self._select(rows)
        if not len(selection.rows):
            return
        self._read_ports()
        ports = find_service_ports(selection.rows, self._ports, self._own_namespace).tolist()
        for row, port, by_listener in zip(
            decode_rows(selection.rows), ports, selection.by_listener.tolist(), strict=True
        ):
            ends = row.endpoints
            serves = ends.protocol == TCP and self._is_served(row)
            peer = make_peer_key(
                ends.remote_address,
                ends.protocol,
                ends.local_port,
                ends.remote_port,
                ends.local_port if serves else port,
            )
            quality = Quality.LISTENER if by_listener else Quality.EXACT
            totals = _sum_up(row, payload)
            self._tally.add(peer, totals, {quality: totals.bytes})

    def _is_served(self, row: TrafficRow) -> bool:
        """Return whether the local port is that of a listening socket."""
        # Of a handshake at a listening socket that is older, the namespace is not recorded.
        held = self._held.get(row.cookie)
        return (row.owner.namespace, row.endpoints.local_port) in self._serving or (
            held is not None and held.listening_port != 0
        )

    def _select(self, rows: Rows) -> Selection:
        listening: set[Port] = {
            (one.namespace, one.listening_port) for one in self._held.values() if one.listening_port
        }
        return select_rows(rows, self._scope.includes, self._held.keys(), listening)

    def _read_held_sockets(self) -> None:
        """Add the sockets that the processes of the scope hold now. Raises OSError."""
        found: dict[int, HeldSocket] = {}
        for pid in self._scope.list_processes():
            with suppress(PermissionError):  # a process that may not be examined
                found |= {one.cookie: one for one in read_held_sockets(pid, self._procfs)}
        self._serving |= {
            (one.namespace, one.listening_port) for one in found.values() if one.listening_port
        }
        # What a closed socket still moves is its former holder's.
        self._held = self._held | found if len(self._held) < _MAX_HELD else found

    def _read_ports(self) -> None:
        """Add the ports on which sockets listen now."""
        now = read_service_ports(_PROCFS)
        known = (self._ports.listening or frozenset()) | (now.listening or frozenset())
        self._ports = ServicePorts(None if now.listening is None else known, now.ephemeral)

    def _read_losses(self) -> Losses:
        found = self._maps.read_losses()
        return Losses(found.packets, found.sockets, self._scope.lost_forks)


def _sum_up(row: TrafficRow, payload: Payload) -> Totals:
    """Return the counters of a row; of several rows of a connection, one gets its payload."""
    counts, ends = row.counts, row.endpoints
    transmit: int | None = 0
    receive: int | None = 0
    if not ends.local_address:
        transmit = receive = None  # a sum of flows that found no row
    elif ends.protocol == TCP:
        transmit, receive = payload.pop(row.cookie, (0, 0))
    elif ends.protocol in DATAGRAMS:
        headers = _IP_HEADER_BYTES[len(ends.local_address)] + _UDP_HEADER_BYTES
        transmit = counts.transmit_bytes - counts.transmit_packets * headers
        receive = counts.receive_bytes - counts.receive_packets * headers
    return Totals(
        transmit_bytes=counts.transmit_bytes,
        transmit_packets=counts.transmit_packets,
        receive_bytes=counts.receive_bytes,
        receive_packets=counts.receive_packets,
        transmit_payload_bytes=transmit,
        receive_payload_bytes=receive,
    )


def _subtract(now: Losses, before: Losses) -> Losses:
    return Losses(
        now.packets - before.packets, now.sockets - before.sockets, now.forks - before.forks
    )

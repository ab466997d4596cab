"""The kernel as a source: it counts at each socket, and its tables are read once a window.

Nothing wakes the thread but the end of a window, a process that uses a socket for the first time,
and a stop. It closes the windows itself: what is read from the tables at their end is what passed
in them. Their rows are of two kinds that take turns, so that the kernel goes on counting meanwhile;
so it may also be kept waiting.
"""

import logging
import math
import os
import select
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

from hogpipe.capture.ebpf.flow_sockets import FlowSockets
from hogpipe.capture.ebpf.process_owners import Owners
from hogpipe.capture.ebpf.row_aggregation import RowAggregator, Turn
from hogpipe.capture.ebpf.row_owners import RowOwners
from hogpipe.capture.ebpf.time_wait import TimeWaitTracker
from hogpipe.capture.source import WindowClock
from hogpipe.errors import CaptureError, ConfigurationError
from hogpipe.linux.bpf.maps import Losses
from hogpipe.linux.bpf.obstacles import BpfUnavailableError, Obstacle
from hogpipe.linux.bpf.programs import attach_traffic_programs
from hogpipe.linux.bpf.traffic_maps import TrafficMaps
from hogpipe.linux.bpf.traffic_rows import join_rows
from hogpipe.linux.cgroups import CgroupTree, in_initial_cgroup_namespace
from hogpipe.linux.netns.network_namespaces import NetworkNamespaces
from hogpipe.linux.process_starts import shows_host_pids
from hogpipe.linux.procfs import shows_live_processes
from hogpipe.model import FlowBatch

log = logging.getLogger(__name__)

# Tables are also emptied within long windows, so that they need not be larger for those.
_LONGEST_TURN = 2.0
_MILLISECONDS = 1000


class EbpfSource:
    """What all sockets of the host move; see PacketSource.

    `max_flows` bounds the connections, and the other flows, that are told apart in one turn of the
    tables. What the kernel knows of flows that are looked up goes to `noted`.
    """

    live = True
    closes_windows = True

    def __init__(
        self,
        procfs: Path,
        noted: FlowSockets,
        *,
        start_windows: Callable[[int], WindowClock],
        group_by: Collection[str],
        max_flows: int,
        command_line: bool = False,
    ) -> None:
        self._procfs = procfs
        self._command_line = command_line
        self._noted = noted
        self._start_windows = start_windows
        self._group_by = group_by
        self._max_flows = max_flows
        self._tables: TrafficMaps | None = None
        self._tree: CgroupTree | None = None
        self._stopping = threading.Event()
        # One thread stops what another may just be closing.
        self._stop_lock = threading.Lock()
        self._stop: int | None = None

    def open(self) -> None:
        """Have the kernel count; see PacketSource. Raises BpfUnavailableError, too."""
        if not shows_live_processes(self._procfs) or not shows_host_pids(self._procfs):
            raise ConfigurationError(
                f'capture.source: "ebpf" needs a procfs with the processes of this host by the '
                f"pids that its kernel tells, and {self._procfs} is none; set attribution.procfs"
            )
        try:
            self._attach()
        except OSError as error:
            self.close()
            raise BpfUnavailableError(
                Obstacle.LIMITS, f"eBPF: no room to count in ({error.strerror}); raise the limits"
            ) from error
        except BaseException:
            self.close()
            raise
        where = "this host" if in_initial_cgroup_namespace() else "this container's control groups"
        log.info("counting at all sockets of %s (eBPF)", where)

    def _attach(self) -> None:
        tree = self._tree = CgroupTree()
        self._owners = Owners(self._procfs, tree.path_of, command_line=self._command_line)
        namespaces = NetworkNamespaces(self._procfs)
        knowledge = RowOwners(self._owners, self._noted, namespaces)
        self._farewells = TimeWaitTracker(namespaces, self._max_flows)
        self._sorter = RowAggregator(knowledge, self._group_by)
        programs = attach_traffic_programs(max_flows=self._max_flows)
        self._tables = TrafficMaps(programs, self._max_flows)
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._packets_lost = 0
        self._windows = self._start_windows(time.time_ns())

    def run(self, offer: Callable[[FlowBatch], None]) -> None:
        """Count until stopped; see PacketSource."""
        assert self._tables is not None
        try:
            while self._wait(self._tables):
                self._take_turn(self._tables, offer, last=False)
            self._take_turn(self._tables, offer, last=True)
        except Exception as error:
            # What was handed over of this window is told, whatever went wrong.
            ends = self._windows.close(time.time_ns(), last=True)
            offer(FlowBatch(closed_window=ends, is_last=True))
            if isinstance(error, OSError):
                text = f"eBPF: the kernel's tables cannot be read ({error.strerror})"
                raise CaptureError(text) from error
            raise
        finally:
            self.close()

    def set_batch_interval(self, seconds: float) -> None:
        """Do nothing: owners are known from the first packet on."""

    def close(self) -> None:
        """Have the kernel count no more; see PacketSource."""
        with self._stop_lock:
            if self._stop is not None:
                os.close(self._stop)
                self._stop = None
        if self._tables is not None:
            self._tables.close()
        if self._tree is not None:
            self._tree.close()

    def stop(self) -> None:
        """Make `run` tell of the last window and return; see PacketSource."""
        with self._stop_lock:
            self._stopping.set()
            if self._stop is not None:
                os.eventfd_write(self._stop, 1)

    def _wait(self, tables: TrafficMaps) -> bool:
        """Wait for the end of the turn, and look at new processes; False if it is the last one."""
        assert self._stop is not None
        poller = select.poll()
        poller.register(self._stop, select.POLLIN)
        poller.register(tables.fileno(), select.POLLIN)
        turn_ends = time.monotonic() + _LONGEST_TURN
        while not self._stopping.is_set():
            delay = min(self._windows.delay(time.time_ns()), turn_ends - time.monotonic())
            if delay <= 0:
                return True
            if poller.poll(math.ceil(delay * _MILLISECONDS)):
                self._owners.look_at(tables.drain_process_events())
        return False

    def _take_turn(
        self, tables: TrafficMaps, offer: Callable[[FlowBatch], None], *, last: bool
    ) -> None:
        """Empty the tables, and end the window if its time has come."""
        now = time.time_ns()
        is_over = last or self._windows.delay(now) <= 0
        tables.begin_epoch()
        ends = self._windows.close(now, last=last) if is_over else None
        self._owners.look_at(tables.drain_process_events())
        self._owners.begin_turn()
        connections, unfinished = tables.take_connections()
        self._farewells.note(unfinished, time.monotonic())
        ended = self._farewells.find_ended(time.monotonic(), last=last)
        if len(ended):
            connections = join_rows(connections, ended)
        turn = Turn(tables.take_other_flows(), connections, tables.take_overflow())
        batches = self._sorter.sort(turn, window_ends=is_over, last=last)
        held = next(batches)
        self._count_losses(tables.read_losses(), held)
        for batch in batches:
            offer(held)
            held = batch
        held.time_ns, held.closed_window, held.is_last = now, ends, last
        offer(held)

    def _count_losses(self, losses: Losses, batch: FlowBatch) -> None:
        batch.counts.kernel_dropped = losses.packets - self._packets_lost
        self._packets_lost = losses.packets
        self._noted.tell_losses(losses, self._owners.missed)

"""The source `ebpf`: the kernel counts at each socket, and its maps are read once an epoch.

In: the traffic programs' maps (linux.bpf.traffic_maps). Out: flow batches, of flows whose owner the
kernel recorded and of flows whose owner is to be looked up.

Time. The source closes the windows itself: what it reads at the end of a window is exactly what
passed in that window. An epoch ends with its window, and after `_LONGEST_EPOCH`, so that the maps
need not be larger for long windows. `regroup` ends the window early, so that each window is grouped
in one way. The kernel fills another buffer meanwhile, so nothing is lost
if the pipeline makes the source wait.

The thread sleeps until an epoch ends, or `stop`. Another one reads new processes (`ProcessWatch`).
"""

import logging
import math
import select
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from hogpipe.capture.ebpf.flow_sockets import FlowSockets
from hogpipe.capture.ebpf.row_aggregation import EpochRows, RowAggregator
from hogpipe.capture.ebpf.row_names import UNKNOWN_TIMES, EpochTimes, RowNamer
from hogpipe.capture.ebpf.row_owners import RowOwners
from hogpipe.capture.ebpf.time_wait import TimeWaitTracker
from hogpipe.capture.ebpf.unresolved_rows import UnresolvedRows
from hogpipe.capture.live.link_selection import choose_transmitting
from hogpipe.capture.source import WindowClock
from hogpipe.capture.stop_signal import StopSignal
from hogpipe.enrichment.process_watch import ProcessWatch
from hogpipe.enrichment.processes import ProcessReader
from hogpipe.errors import CaptureError, ConfigurationError
from hogpipe.flows.flow_batch import FlowBatch
from hogpipe.flows.flow_table import FlowTable
from hogpipe.linux.bpf.obstacles import explain_failed_open
from hogpipe.linux.bpf.packet_hooks import PacketHooks
from hogpipe.linux.bpf.programs import attach_traffic_programs
from hogpipe.linux.bpf.traffic_maps import TrafficMaps
from hogpipe.linux.bpf.traffic_rows import join_rows
from hogpipe.linux.cgroups import CgroupTree, covers_host
from hogpipe.linux.clocks import read_boot_time
from hogpipe.linux.memory import MemoryRelease
from hogpipe.linux.netns.network_namespaces import NetworkNamespaces
from hogpipe.linux.process_starts import shows_host_pids
from hogpipe.linux.procfs import shows_live_processes
from hogpipe.model import Networks, ServicePorts

log = logging.getLogger(__name__)

# So that a flow that awaits the rows of the next epoch has them within the default of `hold`.
_LONGEST_EPOCH = 1.5
_MILLISECONDS = 1000


class _Regrouping(NamedTuple):
    interval_ns: int
    fields: Collection[str]
    networks: Networks


class EbpfSource:
    """A `PacketSource` of all sockets of the host.

    `max_flows` bounds the connections, and the other flows, that are kept apart in one epoch.
    `flow_sockets` receives what the kernel recorded about flows that are looked up, which have
    slots in `table`; `clock` is that of the table. `service_ports` returns what is known of this
    host's ports; `networks` are the named ones; `names` finds the names of peers. The thread that
    reads new processes calls `limit_events`, to drop rights.
    """

    live = True
    closes_windows = True

    def __init__(
        self,
        procfs: Path,
        flow_sockets: FlowSockets,
        table: FlowTable,
        clock: Callable[[], float],
        processes: ProcessReader,
        *,
        start_windows: Callable[[int], WindowClock],
        group_by: Collection[str],
        service_ports: Callable[[], ServicePorts],
        networks: Networks,
        max_flows: int,
        names: RowNamer | None = None,
        limit_events: Callable[[], None] = lambda: None,
    ) -> None:
        self._names = names
        self._procfs = procfs
        self._limit_events = limit_events
        self._flow_sockets = flow_sockets
        self._unresolved = UnresolvedRows(table, clock)
        self._start_windows = start_windows
        self._group_by = group_by
        self._service_ports = service_ports
        self._networks = networks
        self._max_flows = max_flows
        self._processes = processes
        self._reader: EpochReader | None = None
        self._windows: WindowClock | None = None
        self._stop = StopSignal()
        self._regrouping: _Regrouping | None = None

    def open(self) -> None:
        """Attach the programs; see PacketSource."""
        if not shows_live_processes(self._procfs) or not shows_host_pids(self._procfs):
            raise ConfigurationError(
                f'capture.source: "ebpf" needs a procfs that shows the processes of this host by '
                f"the pids that its kernel reports, and {self._procfs} does not; set "
                "attribution.procfs"
            )
        try:
            self._stop.open()
            self._reader = EpochReader(
                self._procfs,
                self._flow_sockets,
                self._unresolved,
                self._processes,
                self._group_by,
                service_ports=self._service_ports,
                networks=self._networks,
                max_flows=self._max_flows,
                names=self._names,
                limit_events=self._limit_events,
            )
            self._windows = self._start_windows(time.time_ns())
        except OSError as error:
            self.close()
            raise explain_failed_open(error, "the maps") from error
        except BaseException:
            self.close()
            raise
        where = "this host" if covers_host() else "this container's control groups"
        log.info("counting at all sockets of %s (eBPF)", where)

    def run(self, offer: Callable[[FlowBatch], None]) -> None:
        """Offer a batch or more for each epoch until stopped; see PacketSource."""
        reader, windows = self._reader, self._windows
        assert reader is not None
        assert windows is not None
        try:
            while self._wait(windows):
                # No further one comes before this one is done.
                if (regrouping := self._regrouping) is not None:
                    self._regrouping = None
                _end_epoch(reader, windows, offer, regrouping)
            _end_epoch(reader, windows, offer, last=True)
        except BaseException as error:
            # What was offered of this window becomes records, whatever failed.
            offer(FlowBatch(closed_window=windows.close(time.time_ns(), last=True), is_last=True))
            if isinstance(error, OSError):
                text = f"eBPF: the kernel's maps cannot be read ({error.strerror})"
                raise CaptureError(text) from error
            raise
        finally:
            self.close()

    def set_batch_interval(self, seconds: float) -> None:
        """Do nothing: batches follow the epochs."""

    def regroup(self, interval_ns: int, fields: Collection[str], networks: Networks) -> None:
        """Close the open window, and group by other fields; see PacketSource."""
        self._regrouping = _Regrouping(interval_ns, fields, networks)
        self._stop.wake()

    def close(self) -> None:
        """Detach the programs; see PacketSource."""
        self._stop.close()
        if self._reader is not None:
            self._reader.close()

    def stop(self) -> None:
        """Make `run` offer the last window and return; see PacketSource."""
        self._stop.set()

    def _wait(self, windows: WindowClock) -> bool:
        """Wait for the end of the epoch; return False if it is the last."""
        poller = select.poll()
        poller.register(self._stop.fileno(), select.POLLIN)
        epoch_ends = time.monotonic() + _LONGEST_EPOCH
        while not self._stop.is_set():
            delay = min(windows.delay(time.time_ns()), epoch_ends - time.monotonic())
            if delay <= 0 or self._regrouping is not None:
                return True
            poller.poll(math.ceil(delay * _MILLISECONDS))
            self._stop.rearm()
        return False


def _end_epoch(
    reader: "EpochReader",
    windows: WindowClock,
    offer: Callable[[FlowBatch], None],
    regrouping: _Regrouping | None = None,
    *,
    last: bool = False,
) -> None:
    """Offer the rows of the epoch, and close the window if it is due, or grouped otherwise now."""
    now, is_cut = time.time_ns(), last or regrouping is not None
    window_ends = is_cut or windows.delay(now) <= 0
    reader.begin_epoch()
    window = windows.close(now, last=is_cut) if window_ends else None
    batches = reader.read_epoch(window_ends=window_ends, last=last)
    final = next(batches)
    for batch in batches:
        offer(final)
        final = batch
    final.time_ns, final.closed_window, final.is_last = now, window, last
    if regrouping is not None:
        final.regroups = True
        windows.set_interval(regrouping.interval_ns)
        reader.regroup(regrouping.fields, regrouping.networks)
    offer(final)


class EpochReader:
    """The attached programs, and the state that reading their maps has from epoch to epoch.

    For one thread at a time. Raises BpfUnavailableError and OSError, with nothing left attached.
    """

    def __init__(
        self,
        procfs: Path,
        flow_sockets: FlowSockets,
        unresolved: UnresolvedRows,
        processes: ProcessReader,
        group_by: Collection[str],
        *,
        service_ports: Callable[[], ServicePorts],
        networks: Networks,
        max_flows: int,
        names: RowNamer | None = None,
        limit_events: Callable[[], None] = lambda: None,
    ) -> None:
        self._has_names = names is not None
        self._began_ns = deque([0, 0, time.time_ns()], maxlen=3)
        """When the last epochs began, the one that is written now the last one."""
        self._ending_ns = 0
        """When the epoch before was about to end."""
        namespaces = NetworkNamespaces(procfs)
        self._flow_sockets = flow_sockets
        self._unresolved = unresolved
        self._time_wait = TimeWaitTracker(namespaces, max_flows)
        self._packets_lost = 0
        self._memory = MemoryRelease()
        with ExitStack() as stack:
            tree = CgroupTree()
            stack.callback(tree.close)
            self._owners = RowOwners(procfs, processes, tree.path_of, flow_sockets, namespaces)
            self._aggregator = RowAggregator(
                self._owners, unresolved, group_by, service_ports, networks, names=names
            )
            programs = attach_traffic_programs(max_flows=max_flows)
            self._maps = TrafficMaps(programs, max_flows)
            stack.callback(self._maps.close)
            if programs.has_interface_program:
                hooks = PacketHooks(programs, choose_transmitting, limit_events=limit_events)
                stack.callback(hooks.close)
            watch = ProcessWatch(
                programs, processes, self._owners.starts, limit_events=limit_events
            )
            stack.callback(watch.close)
            self._opened = stack.pop_all()

    def begin_epoch(self) -> None:
        """Begin another epoch, so that that before can be read."""
        self._ending_ns = time.time_ns()
        self._maps.begin_epoch()
        self._began_ns.append(time.time_ns())

    def read_epoch(self, *, window_ends: bool, last: bool) -> Iterator[FlowBatch]:
        """Yield the batches of the epoch before, at least one. Raises OSError."""
        self._owners.begin_epoch()
        self._unresolved.evict()
        connections, awaiting_fin, health = self._maps.take_connections()
        self._time_wait.add(awaiting_fin, time.monotonic())
        closed = self._time_wait.take_closed(time.monotonic(), last=last)
        if len(closed):
            connections = join_rows(connections, closed)
        rows = EpochRows(self._maps.take_other_flows(), connections, self._maps.take_overflow())
        times = UNKNOWN_TIMES
        if self._has_names:
            begin_ns, _, end_ns = self._began_ns
            times = EpochTimes(begin_ns, self._ending_ns, end_ns, read_boot_time())
        batches = self._aggregator.aggregate(
            rows, health, window_ends=window_ends, last=last, times=times
        )
        first = next(batches)
        self._count_losses(first)
        yield first
        yield from batches
        self._memory.update(sum(map(len, rows)))  # columns of rows are many MiB in a flood

    def regroup(self, fields: Collection[str], networks: Networks) -> None:
        """Keep rows apart by other fields, from the next epoch that is read on."""
        self._aggregator.regroup(fields, networks)

    def close(self) -> None:
        """Detach the programs. May be called again."""
        self._opened.close()

    def _count_losses(self, batch: FlowBatch) -> None:
        losses = self._maps.read_losses()
        batch.counts.kernel_dropped = losses.packets - self._packets_lost
        self._packets_lost = losses.packets
        self._flow_sockets.set_losses(losses, self._owners.missed_processes)

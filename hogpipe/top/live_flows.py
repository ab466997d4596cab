"""The flows of a pipeline in this process, as the screen needs them: without records.

In: traffic of flows with their attributions, as the aggregator gets them. Out: at the end of each
window what moved (`DrainedFlows`), from which `build_live_window` makes an entry of the table of
connections.

Why not records: with 50,000 flows in a window, building their records takes 0.5 s, and finding the
group of each of them 0.2 s. A flow keeps its entry here from window to window, and its slot in the
table until the table is renumbered: 0.12 s for all of it.

Changes of a process: an entry has the owner as it was described when its first bytes of the window
came. When a description changes, what has moved until then stays with the former one.

Bounds: at most `max_flows` entries in a window; the traffic of further flows is summed up as that
of one without a path, by owner, and counted as folded. An entry without traffic for five windows
is evicted.
"""

from collections.abc import Callable, Collection, Iterator, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from hogpipe.aggregation.dimensions import Grouping
from hogpipe.aggregation.selectors import Selection, Selector
from hogpipe.model import (
    UNKNOWN_FLOW,
    Attribution,
    FlowKey,
    Process,
    Quality,
    ServicePorts,
    Span,
    TrafficCounts,
)
from hogpipe.protocols import NANOSECONDS
from hogpipe.records.schema import StatsBody, TrafficBody
from hogpipe.top.described_flows import (
    NO_PATH,
    REMAINDER,
    Owner,
    Path,
    describe_owner,
    describe_path,
)
from hogpipe.top.run_figures import parse_stats
from hogpipe.top.traffic_table import QUALITIES, Integers, TrafficTable, WindowTraffic

_GENERATION_WINDOWS = 5
_MAX_PROCESSES = 4096
_CODES = {quality: code for code, quality in enumerate(QUALITIES)}


class LiveFlow(TrafficCounts, gc=False, kw_only=True):
    """The entry of a flow: what it moved in this window, and where it is in the table."""

    flow: FlowKey
    attribution: Attribution
    owner: Owner
    flows: int = 0
    is_moving: bool = False
    """Whether it has traffic in this window."""
    slot: int = 0
    epoch: int = -1
    """The epoch of the table in which `slot` is that of the flow and its owner."""


class DrainedFlows(msgspec.Struct, frozen=True):
    """What moved in a window: entries, and their counters in columns."""

    entries: Sequence[LiveFlow]
    owners: Sequence[Owner]
    """Those of the entries then."""
    traffic: Integers
    flows: Integers
    codes: NDArray[np.uint8]
    ports: ServicePorts
    folded: int


class LiveFlows:
    """Takes the place of the aggregator in a pipeline; makes no records."""

    def __init__(
        self,
        only: Sequence[Selector],
        max_flows: int,
        recall_process: Callable[[Process], Process],
        on_drain: Callable[[DrainedFlows], None],
    ) -> None:
        self._only = Selection(only) if only else None
        self.needs_service_ports = True
        self.service_ports = ServicePorts()
        self._max_flows = max_flows
        self._recall_process = recall_process
        self._on_drain = on_drain
        self._flows: dict[FlowKey, LiveFlow] = {}
        self._former_flows: dict[FlowKey, LiveFlow] = {}
        self._windows = 0
        self._moving: list[LiveFlow] = []
        # A process by its identity as an object, as it was described last, and the owner it makes.
        self._latest: dict[int, tuple[Process, Process, Owner]] = {}
        self._former_latest: dict[int, tuple[Process, Process, Owner]] = {}
        self._folded = 0
        self.bytes_by_quality: dict[str, int] = {}
        """Bytes of both directions by quality, in the window that was drained last."""
        self.folded_groups = 0
        self.uncounted_flows = 0

    def ingest(self, flow: FlowKey, traffic: TrafficCounts, attribution: Attribution) -> None:
        """Add the traffic of a flow."""
        entry = self._flows.get(flow)
        if entry is None or entry.attribution is not attribution:
            entry = self._find(flow, attribution)
        if not entry.is_moving:
            self._start_moving(entry)
        entry.flows = 1
        entry.add_counts(traffic)

    def ingest_sum(
        self, flow: FlowKey, traffic: TrafficCounts, attribution: Attribution, flows: int
    ) -> None:
        """Add the traffic of several flows, of which `flow` is one."""
        entry = self._find(flow, attribution)
        if not entry.is_moving:
            self._start_moving(entry)
        entry.flows += flows
        entry.add_counts(traffic)

    def _find(self, flow: FlowKey, attribution: Attribution) -> LiveFlow:
        entry = self._flows.get(flow) or self._former_flows.pop(flow, None)
        if entry is None or entry.attribution != attribution:
            if len(self._moving) >= self._max_flows:
                return self._fold(attribution)
            entry = LiveFlow(flow=flow, attribution=attribution, owner=REMAINDER)
        entry.attribution = attribution
        self._flows[flow] = entry
        return entry

    def _fold(self, attribution: Attribution) -> LiveFlow:
        """Return the entry that sums up the flows of the same owner which have no entry."""
        self._folded += 1
        key = msgspec.structs.replace(UNKNOWN_FLOW, namespace=hash(attribution))
        entry = self._flows.get(key)
        if entry is None or entry.attribution != attribution:
            entry = LiveFlow(flow=UNKNOWN_FLOW, attribution=attribution, owner=REMAINDER)
            self._flows[key] = entry
        return entry

    def _start_moving(self, entry: LiveFlow) -> None:
        owner = self._describe(entry)
        if owner is not entry.owner and owner != entry.owner:
            entry.epoch = -1
        entry.owner = owner
        entry.is_moving = True
        self._moving.append(entry)

    def _describe(self, entry: LiveFlow) -> Owner:
        attribution, process = entry.attribution, entry.attribution.process
        if process is None:
            owner = describe_owner(attribution)
        else:
            known = self._latest.get(id(process)) or self._describe_process(process)
            owner = known[2]
            if self._only is not None and known[1] is not process:
                attribution = msgspec.structs.replace(attribution, process=known[1])
        only, ports = self._only, self.service_ports
        if only is not None and not only.selects(entry.flow, attribution, ports):
            return REMAINDER
        return owner

    def _describe_process(self, process: Process) -> tuple[Process, Process, Owner]:
        if len(self._latest) >= _MAX_PROCESSES:
            self._start_generation()
        former, latest = self._former_latest.get(id(process)), self._recall_process(process)
        if former is not None and former[1] is latest:
            known = former
        else:
            known = process, latest, describe_owner(Attribution(Quality.EXACT, process=latest))
        self._latest[id(process)] = known
        return known

    def _start_generation(self) -> None:
        self._former_latest, self._latest = self._latest, {}

    def regroup(
        self, group_by: Collection[str], only: Sequence[Selector], max_records: int
    ) -> None:
        """Select by other selectors; the screen groups as it likes."""
        del group_by, max_records
        self._only = Selection(only) if only else None

    def invalidate_routes(self) -> None:
        """Describe processes again, as the description of one has changed."""
        self._start_generation()
        moving, self._moving = self._moving, []
        for entry in moving:
            owner = self._describe(entry)
            if owner == entry.owner:
                entry.owner = owner
                self._moving.append(entry)
            else:
                self._moving.append(_split(entry))

    @property
    def processes(self) -> Collection[Process]:
        """The processes that had traffic in this window or in the one before."""
        return [known[1] for known in (*self._former_latest.values(), *self._latest.values())]

    def drain(self) -> Iterator[TrafficBody]:
        """End the window, and pass on what moved; there are no bodies."""
        moving, self._moving = self._moving, []
        drained = DrainedFlows(
            moving,
            [entry.owner for entry in moving],
            np.array(
                [
                    [entry.transmit_bytes for entry in moving],
                    [entry.receive_bytes for entry in moving],
                    [entry.transmit_packets for entry in moving],
                    [entry.receive_packets for entry in moving],
                ],
                np.int64,
            ),
            np.array([entry.flows for entry in moving], np.int64),
            np.array([_CODES[entry.attribution.quality] for entry in moving], np.uint8),
            self.service_ports,
            self._folded,
        )
        for entry in moving:
            entry.is_moving = False
            entry.flows = entry.transmit_bytes = entry.transmit_packets = 0
            entry.receive_bytes = entry.receive_packets = 0
        self._folded = 0
        sums = np.bincount(drained.codes, drained.traffic[:2].sum(axis=0), len(QUALITIES))
        self.bytes_by_quality = {
            str(name): int(size) for name, size in zip(QUALITIES, sums, strict=True) if size
        }
        self._start_generation()
        self._windows += 1
        if self._windows % _GENERATION_WINDOWS == 0 or len(self._flows) > self._max_flows:
            self._former_flows, self._flows = self._flows, {}
        self._on_drain(drained)
        return iter(())


def _split(entry: LiveFlow) -> LiveFlow:
    """Return what has moved until now as an entry of its own; `entry` counts from 0 then."""
    moved = msgspec.structs.replace(entry)
    entry.is_moving = False
    entry.epoch = -1
    entry.flows = entry.transmit_bytes = entry.transmit_packets = 0
    entry.receive_bytes = entry.receive_packets = 0
    return moved


def build_live_window(
    table: TrafficTable, drained: DrainedFlows, span: Span, stats: StatsBody
) -> WindowTraffic:
    """Return the window of drained flows, whose connections are in the table then."""
    entries = drained.entries
    table.make_room(sum(1 for entry in entries if entry.epoch < 0))
    epoch, describer = table.epoch, _Describer(drained.ports)
    found = []
    for entry, owner in zip(entries, drained.owners, strict=True):
        if entry.owner is not owner:  # it has moved on since
            found.append(_find_slot(table, entry, owner, describer))
            continue
        if entry.epoch != epoch:
            entry.slot, entry.epoch = _find_slot(table, entry, owner, describer), epoch
        found.append(entry.slot)
    slots = np.array(found, np.int32)
    figures = parse_stats(stats)
    figures.folded += drained.folded
    figures.seconds = (span.end_ns - span.start_ns) / NANOSECONDS
    return WindowTraffic(
        span.start_ns / NANOSECONDS,
        span.end_ns / NANOSECONDS,
        slots,
        drained.traffic,
        drained.flows,
        slots,
        drained.codes,
        drained.traffic[0] + drained.traffic[1],
        figures,
    )


def _find_slot(table: TrafficTable, entry: LiveFlow, owner: Owner, describer: "_Describer") -> int:
    if owner is REMAINDER:
        return table.find(REMAINDER, NO_PATH)
    return table.find(owner, describer.describe(entry.flow))


class _Describer:
    """Describes paths as records do."""

    def __init__(self, ports: ServicePorts) -> None:
        self._ports = ports
        self._grouping = Grouping(["transport"])
        self._names: dict[int, str] = {}

    def describe(self, flow: FlowKey) -> Path:
        """Return the path of a flow."""
        name = self._names.get(flow.protocol)
        if name is None:
            name = self._grouping.describe_path(flow).get("transport", "")
            self._names[flow.protocol] = name
        return describe_path(flow, name, self._ports.find(flow))

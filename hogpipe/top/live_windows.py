"""Windows of live flows, as the table of connections has them.

In: what moved in a window (live_flows.py). Out: the same by slots of the table, which has a
connection for each owner and path.

A flow of an owner, with the name of its peer, is found in an index of words, in columns; only a new
one is described and asked for in the table. The index holds until the table is renumbered, or until
it is full.
"""

import numpy as np

from hogpipe.aggregation.dimensions import Grouping
from hogpipe.flows.flow_words import WORDS, FlowPacker
from hogpipe.flows.key_index import ABSENT, KeyIndex, Keys, resize
from hogpipe.flows.packet_rows import Integers
from hogpipe.flows.row_order import find_heads
from hogpipe.model import FlowKey, ServicePorts, Span
from hogpipe.protocols import NANOSECONDS
from hogpipe.records.schema import StatsBody
from hogpipe.top.described_flows import NO_PATH, REMAINDER, Owner, Path, describe_path
from hogpipe.top.live_flows import DrainedFlows
from hogpipe.top.run_figures import parse_stats
from hogpipe.top.traffic_table import Slots, TrafficTable, WindowTraffic, select_known

_MAX_KNOWN = 400_000
_ABOVE_OWNER = np.uint64(32)


class LiveWindows:
    """Makes windows for `table`, whose connections are in it then."""

    def __init__(self, table: TrafficTable) -> None:
        self._table = table
        self._transports = _Transports()
        self._forget()

    def build(self, drained: DrainedFlows, span: Span, stats: StatsBody) -> WindowTraffic:
        """Return the window of drained flows."""
        slots = self._find_slots(drained)
        counters = drained.counters
        figures = parse_stats(stats)
        figures.folded += drained.folded
        figures.seconds = (span.end_ns - span.start_ns) / NANOSECONDS
        return WindowTraffic(
            span.start_ns / NANOSECONDS,
            span.end_ns / NANOSECONDS,
            slots,
            counters[:, [0, 2, 1, 3]].T.copy(),
            drained.new_flows,
            slots,
            drained.codes.astype(np.uint8),
            counters[:, 0] + counters[:, 2],
            figures,
            select_known(slots, drained.health),
        )

    def _forget(self) -> None:
        """Begin with an empty index."""
        self._epoch = self._table.epoch
        self._packer = FlowPacker()
        self._owners: dict[Owner, int] = {}
        self._names: dict[str, int] = {}
        self._index = KeyIndex(WORDS + 1, _MAX_KNOWN)
        self._slots: Slots = np.zeros(0, np.int32)
        """By the place in the index."""

    def _find_slots(self, drained: DrainedFlows) -> Slots:
        if self._epoch != self._table.epoch:
            self._forget()
        keys, new = self._find_new(drained)
        self._table.make_room(len(new))
        if self._epoch != self._table.epoch or len(self._index) + len(new) > _MAX_KNOWN:
            self._forget()
            keys, new = self._find_new(drained)
        if len(new):
            places = self._index.add(keys[new])
            self._slots = resize(self._slots, self._index.capacity)
            self._slots[places] = [self._find_slot(drained, row) for row in new.tolist()]
        found: Slots = self._slots[self._index.find(keys)]
        return found

    def _find_new(self, drained: DrainedFlows) -> tuple[Keys, Integers]:
        """Return the keys of all rows, and the first row of each key that is not in the index."""
        numbers = [self._owners.setdefault(one, len(self._owners)) for one in drained.described]
        owners = np.array(numbers, np.uint64)[drained.owners]
        names = [self._names.setdefault(one, len(self._names)) for one in drained.names]
        owners |= np.array(names, np.uint64)[drained.domains] << _ABOVE_OWNER
        keys = np.concatenate([drained.flows.renumber(self._packer), owners[:, None]], axis=1)
        missing = np.flatnonzero(self._index.find(keys) == ABSENT)
        return keys, missing[find_heads(keys[missing])] if len(missing) else missing

    def _find_slot(self, drained: DrainedFlows, row: int) -> int:
        owner = drained.described[drained.owners[row]]
        if owner is REMAINDER:
            return self._table.find(REMAINDER, NO_PATH)
        flow = drained.flows.flow(row)
        network = drained.networks.find(flow.remote_address)
        name = drained.names[drained.domains[row]]
        path = self._transports.describe(flow, drained.ports, network, name)
        return self._table.find(owner, path)


class _Transports:
    """Describes paths with the names that protocols have in records."""

    def __init__(self) -> None:
        self._grouping = Grouping(["transport"])
        self._names: dict[tuple[int, bool], str] = {}

    def describe(self, flow: FlowKey, ports: ServicePorts, network: str, domain: str) -> Path:
        """Return the path of a flow."""
        key = flow.protocol, bool(flow.local_address)
        name = self._names.get(key)
        if name is None:
            name = self._grouping.describe_path(flow).get("transport", "")
            self._names[key] = name
        return describe_path(flow, name, ports.find(flow), network, domain)

"""The aggregator as plain Python, flow by flow: the reference of property tests.

Keys of flows are tuples of their properties, by dimension; groups are in a dict.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from itertools import repeat

import msgspec

from hogpipe.aggregation.dimensions import DIMENSIONS, Grouping, OwnerDimension
from hogpipe.model import (
    BUILT_IN_NETWORKS,
    Attribution,
    FlowKey,
    Process,
    ServicePorts,
    TcpHealth,
    TrafficCounts,
    join_health,
)
from hogpipe.protocols import WITH_PORTS
from hogpipe.records.schema import NetworkInfo, TrafficBody, describe_io
from hogpipe.records.tcp_health import add_tcp
from support.flow_sums import Moved, list_counters

Selects = Callable[[FlowKey, Attribution, ServicePorts], bool]


def _identify_flow(flow: FlowKey) -> Hashable:
    ports = (flow.local_port, flow.remote_port) if flow.protocol in WITH_PORTS else (0, 0)
    return flow.protocol, flow.local_address, flow.remote_address, *ports


FLOW_KEYS: Mapping[str, Callable[[FlowKey, ServicePorts], Hashable]] = {
    "transport": lambda flow, _ports: flow.protocol,
    "network_type": lambda flow, _ports: len(flow.local_address),
    "interface": lambda flow, _ports: flow.interface,
    "port": lambda flow, ports: ports.find(flow),
    "network": lambda flow, _ports: BUILT_IN_NETWORKS.find(flow.remote_address),
    "remote": lambda flow, _ports: flow.remote_address,
    "domain": lambda _flow, _ports: None,  # no flow has a name here
    "flow": lambda flow, _ports: _identify_flow(flow),
}


class _Group(msgspec.Struct):
    flow: FlowKey
    attribution: Attribution
    port: int
    traffic: TrafficCounts = msgspec.field(default_factory=TrafficCounts)
    health: TcpHealth | None = None
    flows: set[FlowKey] = msgspec.field(default_factory=set)
    qualities: dict[str, int] = msgspec.field(default_factory=dict)


class PlainAggregator:
    """Takes what `Aggregator` takes, flow by flow."""

    def __init__(
        self,
        group_by: Collection[str],
        selects: Selects = lambda _flow, _attribution, _ports: True,
        max_records: int = 1000,
        recall_process: Callable[[Process], Process] = lambda process: process,
    ) -> None:
        self._grouping = Grouping(group_by)
        dimensions = [one for name, one in DIMENSIONS.items() if name in group_by]
        self._of_flows = [
            FLOW_KEYS[one.name] for one in dimensions if not isinstance(one, OwnerDimension)
        ]
        self._selects = selects
        self._max_records = max_records
        self._recall = recall_process
        self.ports = ServicePorts()
        self._groups: dict[Hashable, _Group] = {}
        self._remainder: _Group | None = None
        self.folded: set[Hashable] = set()

    def ingest(
        self, moved: Iterable[Moved], healths: Iterable[TcpHealth | None] | None = None
    ) -> None:
        """Add what flows moved; a flow with a place in `healths` may have moved nothing."""
        for (flow, traffic, attribution), health in zip(
            moved, repeat(None) if healths is None else healths, strict=False
        ):
            group = self._find(flow, self._describe(attribution))
            group.traffic.add_counts(traffic)
            group.health = join_health(group.health, health)
            if healths is None or any(list_counters(traffic)):
                group.flows.add(flow)
            name = str(attribution.quality)
            group.qualities[name] = group.qualities.get(name, 0) + traffic.total_bytes

    def _describe(self, attribution: Attribution) -> Attribution:
        if attribution.process is None:
            return attribution
        return msgspec.structs.replace(attribution, process=self._recall(attribution.process))

    def _find(self, flow: FlowKey, attribution: Attribution) -> _Group:
        if self._selects(flow, attribution, self.ports):
            owner = self._grouping.make_owner_key(attribution)
            key = owner, *[identify(flow, self.ports) for identify in self._of_flows]
            if key not in self._groups and len(self._groups) < self._max_records:
                self._groups[key] = _Group(flow, attribution, self.ports.find(flow))
            if key in self._groups:
                return self._groups[key]
            self.folded.add(key)
        if self._remainder is None:
            self._remainder = _Group(flow, attribution, 0)
        return self._remainder

    def drain(self) -> list[TrafficBody]:
        """End the window and return its bodies."""
        bodies = [self._build_body(group) for group in self._groups.values()]
        if self._remainder is not None:
            bodies.append({**_build_sums(self._remainder), "remainder": True})
        self._groups, self._remainder, self.folded = {}, None, set()
        return bodies

    def _build_body(self, group: _Group) -> TrafficBody:
        body = _build_sums(group)
        network = BUILT_IN_NETWORKS.find(group.flow.remote_address)
        path = self._grouping.describe_path(group.flow, network)
        body["network"] = {**body["network"], **path}
        if server := self._grouping.describe_server(group.port):
            body["server"] = server
        return {**self._grouping.describe_owner(group.attribution), **body}


def _build_sums(group: _Group) -> TrafficBody:
    network: NetworkInfo = {"flows": len(group.flows), "io": describe_io(group.traffic)}
    if group.health is not None:
        add_tcp(network, group.health)
    return {
        "network": network,
        "attribution": {name: size for name, size in group.qualities.items() if size},
    }


def select_by(texts: Sequence[str]) -> Selects:
    """Return what `pid:`, `port:` and `remote:` selectors select, addresses without prefixes."""

    def matches(text: str, flow: FlowKey, attribution: Attribution, ports: ServicePorts) -> bool:
        kind, _, value = text.removeprefix("!").partition(":")
        if kind == "pid":
            return attribution.process is not None and attribution.process.pid == int(value)
        if kind == "port":
            return ports.find(flow) == int(value)
        return ".".join(map(str, flow.remote_address)) == value

    def selects(flow: FlowKey, attribution: Attribution, ports: ServicePorts) -> bool:
        found = {text: matches(text, flow, attribution, ports) for text in texts}
        wanted = [text for text in texts if not text.startswith("!")]
        if any(found[text] for text in texts if text.startswith("!")):
            return False
        return not wanted or any(found[text] for text in wanted)

    return selects

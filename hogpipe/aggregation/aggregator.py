"""PURE: adds up what flows moved, by group, and makes one record body of each group and window.

In: traffic counters of flows with their attributions. Out: record bodies.

Descriptions in time
    The attribution of a flow may have been found long ago, and its process may have executed
    another program or moved to another control group since. So when a flow first has traffic in a
    window, its process is described as it was found last (`recall_process`), and the flow's route
    to its group is kept. `invalidate_routes` makes all flows find their groups again.

Conservation
    The bodies of a window add up to exactly what was ingested, in each direction and by quality.
    Traffic that no selector of `only` matches, and groups beyond the first `max_records`, are
    summed up in one more body, the remainder.

Bounds
    A group counts its distinct flows. For that, (flow, group) pairs are kept until the window ends,
    at most `max_flows` of them. Flows beyond are not counted in `network.flows`, which is then a
    lower bound, but in `uncounted_flows`. Groups number at most `max_records`.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence

import msgspec

from hogpipe.aggregation.dimensions import Grouping
from hogpipe.aggregation.selectors import Selection, Selector
from hogpipe.model import Attribution, FlowKey, Process, Quality, ServicePorts, TrafficCounts
from hogpipe.records.schema import TrafficBody, describe_io

_MAX_PROCESSES = 4096

_LatestProcess = tuple[Process, Process]
"""A process as it was described, by whose identity as an object it is found, and as of late."""


class _Group(msgspec.Struct, eq=False, gc=False):
    """The sums of a group, with the first flow and what was known of it, which describe it."""

    flow: FlowKey
    attribution: Attribution
    ports: ServicePorts
    traffic: TrafficCounts = msgspec.field(default_factory=TrafficCounts)
    flows: int = 0
    qualities: dict[Quality, int] = msgspec.field(default_factory=dict)

    def add(self, traffic: TrafficCounts, quality: Quality) -> None:
        self.traffic.add_counts(traffic)
        self.qualities[quality] = self.qualities.get(quality, 0) + traffic.total_bytes


class _Route(msgspec.Struct, gc=False):
    """The group of a flow in this window, valid while the flow's attribution stays the same."""

    attribution: Attribution
    group: _Group
    counted_by: tuple[_Group, ...] = ()
    """The groups that have counted the flow; more than one if its attribution changed."""


class Aggregator:
    """Aggregates one window after another: `ingest` traffic, then `drain` the bodies.

    `group_by` holds names of dimensions (dimensions.py). An empty `only` selects all traffic.
    `recall_process` returns the latest description of a process; by default there is no later one.
    """

    def __init__(
        self,
        group_by: Collection[str],
        only: Sequence[Selector],
        max_records: int,
        max_flows: int = 262_144,
        recall_process: Callable[[Process], Process] = lambda process: process,
    ) -> None:
        self._set_rules(group_by, only, max_records)
        self._recall_process = recall_process
        self.service_ports = ServicePorts()
        """What is known of this host's ports, for flows that are new in the window."""
        self._latest: dict[int, _LatestProcess] = {}
        self._former_latest: dict[int, _LatestProcess] = {}
        self._routes: dict[FlowKey, _Route] = {}
        self._invalid_routes: dict[FlowKey, _Route] = {}
        """Of flows that had traffic in this window, but none since their route was invalidated."""
        self._max_flows = max_flows
        self.bytes_by_quality: dict[str, int] = {}
        """Bytes of both directions by quality, in the window that was drained last."""
        self.folded_groups = 0
        """Groups of that window that were added to the remainder because of `max_records`.

        At most `max_flows` of them are counted.
        """
        self.uncounted_flows = 0
        """How often in that window a flow was not counted because of `max_flows`."""
        self._start_window()

    def ingest(self, flow: FlowKey, traffic: TrafficCounts, attribution: Attribution) -> None:
        """Add the traffic of `flow` to its group."""
        route = self._routes.get(flow)
        if route is not None and route.attribution is attribution:
            group = route.group
        else:
            group = self._route(flow, route, attribution)
        group.add(traffic, attribution.quality)

    def ingest_sum(
        self, flow: FlowKey, traffic: TrafficCounts, attribution: Attribution, flows: int
    ) -> None:
        """Add the traffic of several flows to their group.

        `flow` is any of them, and `flows` is how many are new in this window.
        """
        group = self._find_group(flow, attribution)
        group.flows += flows
        group.add(traffic, attribution.quality)

    def regroup(
        self, group_by: Collection[str], only: Sequence[Selector], max_records: int
    ) -> None:
        """Aggregate by other rules from now on; call it right after `drain`.

        So every body is by one set of rules.
        """
        assert not self._groups
        assert self._remainder is None
        self._set_rules(group_by, only, max_records)

    def invalidate_routes(self) -> None:
        """Find the group of each flow again, as the description of a process has changed.

        What was ingested stays in the groups it is in.
        """
        fewer, more = sorted((self._routes, self._invalid_routes), key=len)
        more.update(fewer)  # no flow is in both
        self._invalid_routes = more
        self._routes = {}
        self._start_generation()

    @property
    def processes(self) -> Collection[Process]:
        """The processes that had traffic in this window or in the one before, a bounded number.

        One may be there more than once. Empty if records do not depend on processes.
        """
        return [latest for _, latest in (*self._former_latest.values(), *self._latest.values())]

    def drain(self) -> Iterator[TrafficBody]:
        """End the window and return its bodies in order of first ingest, the remainder last.

        The next window has begun when this returns. Bodies are built during the iteration.
        """
        groups, remainder = list(self._groups.values()), self._remainder
        self.bytes_by_quality = {}
        for group in groups if remainder is None else (*groups, remainder):
            for name, size in _name_qualities(group).items():
                self.bytes_by_quality[name] = self.bytes_by_quality.get(name, 0) + size
        self.folded_groups = len(self._folded)
        self.uncounted_flows = self._uncounted
        self._start_window()
        return _build_bodies(self._grouping, groups, remainder)

    def _set_rules(
        self, group_by: Collection[str], only: Sequence[Selector], max_records: int
    ) -> None:
        self._grouping = Grouping(group_by)
        self._only = Selection(only) if only else None
        needs_owner = self._only is not None and self._only.needs_owner
        self._needs_processes = self._grouping.has_owner or needs_owner
        needs_port = self._only is not None and self._only.needs_service_port
        self.needs_service_ports = self._grouping.has_service_port or needs_port
        """Whether records depend on `service_ports`."""
        self._max_records = max_records

    def _start_window(self) -> None:
        self._groups: dict[Hashable, _Group] = {}
        self._remainder: _Group | None = None
        self._routes = {}
        self._invalid_routes = {}
        self._start_generation()
        self._counted_flows = 0
        self._folded: set[Hashable] = set()
        self._uncounted = 0

    def _route(self, flow: FlowKey, route: _Route | None, attribution: Attribution) -> _Group:
        """Return the group of `flow`; the group counts the flow once in a window."""
        group = self._find_group(flow, attribution)
        if route is None and (route := self._invalid_routes.pop(flow, None)) is not None:
            self._routes[flow] = route
        if route is None:
            if self._counted_flows >= self._max_flows:
                self._uncounted += 1
                return group
            route = self._routes[flow] = _Route(attribution, group)
        route.attribution = attribution
        route.group = group
        if group not in route.counted_by:
            if self._counted_flows >= self._max_flows:
                self._uncounted += 1
            else:
                self._counted_flows += 1
                route.counted_by += (group,)
                group.flows += 1
        return group

    def _find_group(self, flow: FlowKey, attribution: Attribution) -> _Group:
        if self._needs_processes and attribution.process is not None:
            attribution = self._describe_now(attribution, attribution.process)
        ports = self.service_ports
        if self._only is None or self._only.selects(flow, attribution, ports):
            key = self._grouping.make_key(flow, attribution, ports)
            if (group := self._groups.get(key)) is not None:
                return group
            if len(self._groups) < self._max_records:
                group = self._groups[key] = _Group(flow, attribution, ports)
                return group
            if len(self._folded) < self._max_flows:
                self._folded.add(key)
        if self._remainder is None:
            self._remainder = _Group(flow, attribution, ports)
        return self._remainder

    def _describe_now(self, attribution: Attribution, process: Process) -> Attribution:
        """Return an attribution to the same process as it was described last."""
        known = self._latest.get(id(process))
        if known is None:
            if len(self._latest) >= _MAX_PROCESSES:
                self._start_generation()
            known = self._latest[id(process)] = process, self._recall_process(process)
        latest = known[1]
        if latest is process:
            return attribution
        return msgspec.structs.replace(attribution, process=latest)

    def _start_generation(self) -> None:
        """Recall processes again from now on."""
        self._former_latest, self._latest = self._latest, {}


def _build_bodies(
    grouping: Grouping, groups: Iterable[_Group], remainder: _Group | None
) -> Iterator[TrafficBody]:
    for group in groups:
        yield _build_body(grouping, group)
    if remainder is not None:
        yield {**_build_sums(remainder), "remainder": True}


def _build_body(grouping: Grouping, group: _Group) -> TrafficBody:
    body = _build_sums(group)
    body["network"] = {**body["network"], **grouping.describe_path(group.flow)}
    owner = grouping.describe_owner(group.attribution)
    if server := grouping.describe_server(group.flow, group.ports):
        return {**owner, "server": server, **body}
    return {**owner, **body}


def _build_sums(group: _Group) -> TrafficBody:
    """Return the counters of a group as a body, without a description."""
    return {
        "network": {"flows": group.flows, "io": describe_io(group.traffic)},
        "attribution": _name_qualities(group),
    }


def _name_qualities(group: _Group) -> dict[str, int]:
    return {str(quality): size for quality, size in group.qualities.items() if size}

"""PURE: windows. Deltas of flows go in with their owners; one record body a group comes out.

Bytes are conserved: the bodies of a window add up to exactly what was ingested, in each direction
and of each quality. What `only` leaves out, and the groups that come after the first `max_records`,
are summed up in one more body, the remainder.

Memory is bounded. Each group counts its distinct flows, for which (flow, group) pairs are
remembered until the window ends, at most `max_flows` of them. A flow that comes after that is not
counted in `network.flows`, which is then the least it can be; `uncounted_flows` says how often.
"""

from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence

import msgspec

from hogpipe.aggregation.dimensions import Grouping
from hogpipe.aggregation.selectors import Selector
from hogpipe.model import Attribution, FlowKey, Quality, TrafficCounts
from hogpipe.records.network_io import describe_io
from hogpipe.records.schema import TrafficBody


class _Group(msgspec.Struct, eq=False, gc=False):
    """The sums of a group, and the flow and owner that describe it (the first ones)."""

    flow: FlowKey
    attribution: Attribution
    traffic: TrafficCounts = msgspec.field(default_factory=TrafficCounts)
    flows: int = 0
    qualities: dict[Quality, int] = msgspec.field(default_factory=dict)

    def add(self, traffic: TrafficCounts, quality: Quality) -> None:
        self.traffic.add_counts(traffic)
        self.qualities[quality] = self.qualities.get(quality, 0) + traffic.total_bytes


class _Route(msgspec.Struct, gc=False):
    """Where a flow's deltas go in this window for as long as its attribution stays the same."""

    attribution: Attribution
    group: _Group
    counted: tuple[_Group, ...] = ()
    """The groups that have counted this flow: more than one only if its owner changed."""


class Aggregator:
    """One window after the other: `ingest` what moved, `drain` the bodies.

    `group_by` names dimensions (config/settings.py). An empty `only` selects everything.
    """

    def __init__(
        self,
        group_by: Collection[str],
        only: Sequence[Selector],
        max_records: int,
        max_flows: int = 262_144,
    ) -> None:
        self._grouping = Grouping(group_by)
        self._only = only
        self._max_records = max_records
        self._max_flows = max_flows
        self.bytes_by_quality: dict[str, int] = {}
        """Bytes of both directions by quality, of the window that was drained last."""
        self.folded_groups = 0
        """How many groups of that window went to the remainder for want of records.

        Told apart up to `max_flows` of them; more are not counted.
        """
        self.uncounted_flows = 0
        """How often in that window a flow came that its group could not remember."""
        self._start_window()

    def ingest(self, flow: FlowKey, traffic: TrafficCounts, attribution: Attribution) -> None:
        """Add what `flow` moved to the group it belongs to."""
        route = self._routes.get(flow)
        if route is not None and route.attribution is attribution:
            group = route.group
        else:
            group = self._route(flow, route, attribution)
        group.add(traffic, attribution.quality)

    def ingest_sum(
        self, flow: FlowKey, traffic: TrafficCounts, attribution: Attribution, flows: int
    ) -> None:
        """Add what several flows moved to the group that they belong to.

        `flow` is one of them, and `flows` is how many were not ingested before in this window.
        """
        group = self._find_group(flow, attribution)
        group.flows += flows
        group.add(traffic, attribution.quality)

    def drain(self) -> Iterator[TrafficBody]:
        """End the window and return its bodies: in order of first ingest, the remainder last.

        The next window has begun when this returns; bodies are built as they are asked for.
        """
        groups, remainder = list(self._groups.values()), self._remainder
        self.bytes_by_quality = {}
        for group in groups if remainder is None else (*groups, remainder):
            for name, size in _name_qualities(group).items():
                self.bytes_by_quality[name] = self.bytes_by_quality.get(name, 0) + size
        self.folded_groups = len(self._folded)
        self.uncounted_flows = self._uncounted
        self._start_window()
        return self._build_bodies(groups, remainder)

    def _build_bodies(
        self, groups: Iterable[_Group], remainder: _Group | None
    ) -> Iterator[TrafficBody]:
        for group in groups:
            yield self._build_body(group)
        if remainder is not None:
            yield {**_build_sums(remainder), "remainder": True}

    def _start_window(self) -> None:
        self._groups: dict[Hashable, _Group] = {}
        self._remainder: _Group | None = None
        self._routes: dict[FlowKey, _Route] = {}
        self._remembered = 0
        self._folded: set[Hashable] = set()
        self._uncounted = 0

    def _route(self, flow: FlowKey, route: _Route | None, attribution: Attribution) -> _Group:
        """Return the group of `flow`, which counts it if it has not done so in this window."""
        group = self._find_group(flow, attribution)
        if route is None:
            if self._remembered >= self._max_flows:
                self._uncounted += 1
                return group
            route = self._routes[flow] = _Route(attribution, group)
        route.attribution = attribution
        route.group = group
        if group not in route.counted:
            if self._remembered >= self._max_flows:
                self._uncounted += 1
            else:
                self._remembered += 1
                route.counted += (group,)
                group.flows += 1
        return group

    def _find_group(self, flow: FlowKey, attribution: Attribution) -> _Group:
        selected = not self._only or any(one.matches(attribution) for one in self._only)
        if selected:
            key = self._grouping.make_key(flow, attribution)
            if (group := self._groups.get(key)) is not None:
                return group
            if len(self._groups) < self._max_records:
                group = self._groups[key] = _Group(flow, attribution)
                return group
            if len(self._folded) < self._max_flows:
                self._folded.add(key)
        if self._remainder is None:
            self._remainder = _Group(flow, attribution)
        return self._remainder

    def _build_body(self, group: _Group) -> TrafficBody:
        body = _build_sums(group)
        body["network"] = {**body["network"], **self._grouping.describe_path(group.flow)}
        return {**self._grouping.describe_owner(group.attribution), **body}


def _build_sums(group: _Group) -> TrafficBody:
    """Return the body of a group of which nothing but its numbers is told."""
    return {
        "network": {"flows": group.flows, "io": describe_io(group.traffic)},
        "attribution": _name_qualities(group),
    }


def _name_qualities(group: _Group) -> dict[str, int]:
    return {str(quality): size for quality, size in group.qualities.items() if size}

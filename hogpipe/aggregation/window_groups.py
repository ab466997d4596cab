"""PURE: the groups of one window with what describes them, and the bodies of their records.

In: flows with their attributions. Out: the number of each flow's group; at the end, bodies.

A group is described by its first flow, and by what was known of that flow's owner then.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hogpipe.aggregation.dimensions import Grouping
from hogpipe.aggregation.flow_columns import DerivedColumns, FlowColumns, count_key_words
from hogpipe.aggregation.group_table import REMAINDER, GroupSums, GroupTable
from hogpipe.flows.flow_words import Numbering
from hogpipe.flows.packet_rows import Flags, Integers
from hogpipe.model import Attribution
from hogpipe.model.peer_names import PeerName
from hogpipe.records.schema import NetworkInfo, TrafficBody, describe_io
from hogpipe.records.tcp_health import add_tcp

_UNNUMBERED = -1


@dataclass(frozen=True, slots=True, eq=False)
class _Heads:
    """The first flows of groups that were found in one call, in the order of the groups."""

    flows: FlowColumns
    derived: DerivedColumns
    attributions: list[Attribution]


class WindowGroups:
    """The groups that `grouping` makes of flows.

    At most `max_groups`, as in GroupTable; at most `max_folded` further owners have numbers.
    `networks` are the names of networks by number.
    """

    def __init__(
        self, grouping: Grouping, networks: Sequence[str], max_groups: int, max_folded: int
    ) -> None:
        self._grouping = grouping
        self._networks = networks
        self.table = GroupTable(1 + count_key_words(grouping.fields), max_groups, max_folded)
        self._max_owners = max_groups + max_folded
        self._owners: dict[Hashable, int] = {}
        self._interfaces: Numbering[str] = Numbering()
        self._peer_names = Numbering[PeerName | None]()
        self._heads: list[_Heads] = []

    def find(
        self,
        flows: FlowColumns,
        derived: DerivedColumns,
        owners: Integers,
        attributions: Sequence[Attribution],
        is_selected: Flags,
    ) -> Integers:
        """Return the group of each flow; those that are not selected are in the remainder."""
        numbers = np.array([self._number_owner(one) for one in attributions], np.int64)[owners]
        fields = self._grouping.fields
        keys = np.empty((len(flows), 1 + count_key_words(fields)), np.uint64)
        keys[:, 0] = numbers
        if fields:
            keys[:, 1:] = flows.make_keys(fields, derived, self._interfaces, self._peer_names)
        is_selected = is_selected & (numbers != _UNNUMBERED)
        if is_selected.all():
            groups, begun = self.table.find(keys)
        else:
            selected = np.flatnonzero(is_selected)
            groups = np.full(len(flows), REMAINDER, np.int64)
            groups[selected], begun = self.table.find(keys[selected])
            begun = selected[begun]
        if len(begun):
            begun_by = [attributions[owner] for owner in owners[begun].tolist()]
            heads = _Heads(flows.take(begun), derived.take(begun), begun_by)
            self._heads.append(heads)
        return groups

    def build_bodies(self) -> Iterator[TrafficBody]:
        """Return the bodies of all groups in their order, the remainder last if there is one.

        Each is built when it is asked for.
        """
        sums = self.table.list_sums()
        for heads in self._heads:
            ports = heads.derived.service_ports.tolist()
            networks, naming = heads.derived.networks.tolist(), heads.derived.naming
            peers = [naming.names[number] for number in naming.numbers.tolist()]
            for row, (port, network, peer, owner) in enumerate(
                zip(ports, networks, peers, heads.attributions, strict=True)
            ):
                body = _build_sums(next(sums))
                if self._grouping.fields:
                    flow, name = heads.flows.flow(row), self._networks[network]
                    path = self._grouping.describe_path(flow, name, peer)
                    body["network"] = {**body["network"], **path}
                yield self._describe(body, port, owner)
        for remainder in sums:
            yield {**_build_sums(remainder), "remainder": True}

    def _number_owner(self, attribution: Attribution) -> int:
        key = self._grouping.make_owner_key(attribution)
        number = self._owners.get(key)
        if number is None:
            if len(self._owners) >= self._max_owners:
                return _UNNUMBERED
            number = self._owners[key] = len(self._owners)
        return number

    def _describe(self, body: TrafficBody, port: int, attribution: Attribution) -> TrafficBody:
        """Return a body with its owner and its service."""
        owner = self._grouping.describe_owner(attribution)
        if server := self._grouping.describe_server(port):
            return {**owner, "server": server, **body}
        return {**owner, **body}


def _build_sums(sums: GroupSums) -> TrafficBody:
    """Return the counters of a group as a body, without a description."""
    network: NetworkInfo = {"flows": sums.flows, "io": describe_io(sums.traffic)}
    if sums.health is not None:
        add_tcp(network, sums.health)
    return {"network": network, "attribution": sums.qualities}

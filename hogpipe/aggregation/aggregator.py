"""PURE: adds up what flows moved, by group, and makes one record body of each group and window.

In: sums of flows with their attributions, in columns. Out: record bodies.

Algorithm
    Each attribution becomes the number of an owner, each flow a key with the fields that the
    dimensions need (flow_columns.py); both together are the key of a group, which has a number
    (window_groups.py). Columns are added up by these numbers. So Python runs for each owner and
    each body, and not for each flow.

Descriptions in time
    The attribution of a flow may have been found long ago, and its process may have executed
    another program or moved to another control group since. So in each window a process is
    described as it was found last when it is ingested or named to `recall_processes`, and again
    after `invalidate_routes`.

Conservation
    The bodies of a window add up to exactly what was ingested, in each direction and by quality.
    Traffic that no selector of `only` matches, and groups beyond the first `max_records`, are
    summed up in one more body, the remainder.

Order
    Bodies are in the order in which their groups were ingested first. Sums of one call are in the
    order of the slots of their flows, which follow from the order of the packets.

Bounds
    Groups number at most `max_records`, and owners at most `max_records` and `max_flows`: what
    further owners move is in the remainder. A group counts its distinct flows; counted_flows.py has
    the bound where their owners change, beyond which `network.flows` is too low and
    `uncounted_flows` counts.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import numpy as np

from hogpipe.aggregation.counted_flows import CountedFlows
from hogpipe.aggregation.dimensions import Grouping
from hogpipe.aggregation.flow_columns import FlowColumns
from hogpipe.aggregation.group_table import QUALITIES
from hogpipe.aggregation.latest_processes import LatestProcesses
from hogpipe.aggregation.selectors import Selection, Selector
from hogpipe.aggregation.window_groups import WindowGroups
from hogpipe.flows.network_columns import NetworkColumns
from hogpipe.flows.packet_rows import FlowSums, Integers
from hogpipe.model import BUILT_IN_NETWORKS, Attribution, Networks, Process, ServicePorts
from hogpipe.records.schema import TrafficBody

_CODES = {quality: code for code, quality in enumerate(QUALITIES)}


class Aggregator:
    """Aggregates one window after another: `ingest` traffic, then `drain` the bodies.

    `group_by` holds names of dimensions (dimensions.py). An empty `only` selects all traffic; its
    selectors were parsed with the same `networks`. `recall_process` returns the latest description
    of a process; by default there is no later one.
    """

    def __init__(
        self,
        group_by: Collection[str],
        only: Sequence[Selector],
        max_records: int,
        max_flows: int = 262_144,
        *,
        recall_process: Callable[[Process], Process] = lambda process: process,
        networks: Networks = BUILT_IN_NETWORKS,
    ) -> None:
        self._max_flows = max_flows
        self._set_rules(group_by, only, max_records, networks)
        self._latest = LatestProcesses(recall_process)
        self.service_ports = ServicePorts()
        """What is known of this host's ports, for what is ingested from now on."""
        self._counted = CountedFlows(max_flows)
        self.bytes_by_quality: dict[str, int] = {}
        """Bytes of both directions by quality, in the window that was drained last."""
        self.folded_groups = 0
        """Groups of that window that were added to the remainder because of `max_records`.

        At most `max_flows` of them are counted.
        """
        self.uncounted_flows = 0
        """How often in that window a flow was not counted because of `max_flows`."""
        self._start_window()

    def ingest(self, sums: FlowSums) -> None:
        """Add what flows moved to their groups; may be called several times in a window."""
        if not len(sums):
            return
        flows = FlowColumns(sums.words, sums.packer)
        groups = self._add(flows, sums)
        if sums.health is not None:
            self._groups.table.add_health(groups, sums.health)
        if sums.new_flows is not None:
            self._groups.table.add_flows(groups, sums.new_flows)
            return
        slots, ids = sums.slots, sums.ids
        if sums.health is not None:  # of some flows only that has changed
            has_moved = sums.counters.any(axis=1)
            slots, ids, groups = slots[has_moved], ids[has_moved], groups[has_moved]
        is_new = self._counted.count(slots, ids, groups)
        self._groups.table.add_flows(groups[is_new], 1)

    def regroup(
        self,
        group_by: Collection[str],
        only: Sequence[Selector],
        max_records: int,
        networks: Networks,
    ) -> None:
        """Aggregate by other rules from now on; call it right after `drain`.

        So every body is by one set of rules.
        """
        assert self._groups.table.is_empty
        self._set_rules(group_by, only, max_records, networks)
        self._start_window()

    def invalidate_routes(self) -> None:
        """Describe processes again from now on, as the description of one has changed.

        What was ingested stays in the groups it is in.
        """
        self._latest.start_generation()

    def recall_processes(self, attributions: Iterable[Attribution]) -> None:
        """Describe the processes of this window's traffic that is not ingested yet as of now."""
        if self._needs_processes:
            for attribution in attributions:
                self._latest.describe(attribution)

    @property
    def processes(self) -> Collection[Process]:
        """The processes that had traffic in this window or in the one before, a bounded number.

        One may be there more than once. Empty if records do not depend on processes.
        """
        return self._latest.list_all()

    def drain(self) -> Iterator[TrafficBody]:
        """End the window and return its bodies in order of first ingest, the remainder last.

        The next window has begun when this returns. Bodies are built during the iteration.
        """
        groups = self._groups
        self.bytes_by_quality = groups.table.sum_qualities()
        self.folded_groups = groups.table.folded
        self.uncounted_flows = self._counted.uncounted
        self._start_window()
        return groups.build_bodies()

    def _set_rules(
        self,
        group_by: Collection[str],
        only: Sequence[Selector],
        max_records: int,
        networks: Networks,
    ) -> None:
        self._grouping = Grouping(group_by)
        self._only = Selection(only) if only else None
        needs_owner = self._only is not None and self._only.needs_owner
        self._needs_processes = self._grouping.has_owner or needs_owner
        needs_port = self._only is not None and self._only.needs_service_port
        self.needs_service_ports = self._grouping.has_service_port or needs_port
        """Whether records depend on `service_ports`."""
        needs_network = self._only is not None and self._only.needs_network
        needs_network |= self._grouping.has_network
        self._networks = NetworkColumns(networks) if needs_network else None
        self._network_names = networks.names
        self._max_records = max_records

    def _start_window(self) -> None:
        self._groups = WindowGroups(
            self._grouping, self._network_names, self._max_records, self._max_flows
        )
        self._latest.start_generation()
        self._counted.start_window()

    def _add(self, flows: FlowColumns, sums: FlowSums) -> Integers:
        """Add what flows moved; return the groups of the flows."""
        owners, attributions = sums.owners, sums.attributions
        codes = np.array([_CODES[one.quality] for one in attributions], np.int64)
        if self._needs_processes:
            attributions = [self._latest.describe(one) for one in attributions]
        ports = self.service_ports if self.needs_service_ports else None
        derived = flows.derive(ports, self._networks, sums.naming)
        if self._only is None:
            is_selected = np.ones(len(flows), np.bool_)
        else:
            is_selected = self._only.select(flows, derived, owners, attributions)
        groups = self._groups.find(flows, derived, owners, attributions, is_selected)
        self._groups.table.add(groups, sums.counters, codes[owners])
        return groups

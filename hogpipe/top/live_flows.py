"""The flows of a pipeline in this process, as the screen needs them: without records.

In: sums of flows with their attributions, as the aggregator gets them. Out: at the end of each
window what moved (`DrainedFlows`), from which live_windows.py makes entries of the table of
connections.

Why not records: with 50,000 flows in a window, building their records takes half a second.

Changes of a process: its owner is described as it was when the process was ingested first in a
window, or named to `recall_processes`. When a description changes, what was ingested until then
stays with the former one.

Bounds: at most twice `max_flows` rows in a window, and `max_flows` at its end; the traffic of
further flows is summed up as that of one without a path, by owner, and counted as folded.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hogpipe.aggregation.counted_flows import CountedFlows
from hogpipe.aggregation.flow_columns import FlowColumns
from hogpipe.aggregation.latest_processes import LatestProcesses
from hogpipe.aggregation.selectors import Selection, Selector
from hogpipe.flows.flow_words import WORDS, FlowPacker
from hogpipe.flows.health_columns import make_health, sum_health
from hogpipe.flows.key_index import Keys
from hogpipe.flows.network_columns import NetworkColumns
from hogpipe.flows.packet_rows import Counters, Flags, FlowNaming, FlowSums, Health, Integers
from hogpipe.flows.row_order import order_by_key
from hogpipe.model import (
    UNKNOWN_FLOW,
    Attribution,
    Networks,
    Process,
    ServicePorts,
)
from hogpipe.records.schema import TrafficBody
from hogpipe.top.described_flows import REMAINDER, Owner, describe_owner
from hogpipe.top.traffic_table import QUALITIES

_CODES = {quality: code for code, quality in enumerate(QUALITIES)}
_ABOVE_OWNER = 40
"""The bits of a label below the number of the peer's name."""
_FLOWS = 4
"""The column behind the counters."""


@dataclass(frozen=True, slots=True, eq=False)
class DrainedFlows:
    """What moved in a window, a row for each flow, owner and quality; a flow may have several."""

    flows: FlowColumns
    owners: Integers
    """The place of each row's owner in `described`."""
    described: Sequence[Owner]
    codes: Integers
    """Of the quality (QUALITIES)."""
    counters: Counters
    new_flows: Integers
    """How many flows a row adds to those of its owner."""
    health: Health | None
    """That of each row; None if it is not known of any."""
    ports: ServicePorts
    networks: Networks
    folded: int
    domains: Integers
    """The place of the name of each row's peer in `names`."""
    names: Sequence[str]
    """Empty first, for peers without a name."""


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Rows of a window until its end."""

    words: Keys
    labels: Integers
    """The number of the owner, times the number of qualities, and the code of the quality; above
    that the number of the peer's name."""
    moved: Integers
    """Counters, and the number of flows behind them."""
    health: Health | None = None
    """That of each row; None if it is not known of any."""

    def __len__(self) -> int:
        return len(self.words)


class LiveFlows:
    """Takes the place of the aggregator in a pipeline; makes no records."""

    def __init__(
        self,
        only: Sequence[Selector],
        max_flows: int,
        recall_process: Callable[[Process], Process],
        on_drain: Callable[[DrainedFlows], None],
        networks: Networks,
    ) -> None:
        self._use_networks(networks)
        self._only = Selection(only) if only else None
        self.needs_service_ports = True
        self.service_ports = ServicePorts()
        self._max_flows = max_flows
        self._on_drain = on_drain
        self._latest = LatestProcesses(recall_process)
        self._counted = CountedFlows(max_flows)
        self.bytes_by_quality: dict[str, int] = {}
        """Bytes of both directions by quality, in the window that was drained last."""
        self.folded_groups = 0
        self.uncounted_flows = 0
        self._start_window()

    def ingest(self, sums: FlowSums) -> None:
        """Add what flows moved."""
        if not len(sums):
            return
        flows = FlowColumns(sums.words, sums.packer)
        labels, is_selected = self._label(flows, sums)
        new_flows = sums.new_flows
        if new_flows is None:
            # With health, some flows have only that, and moved nothing.
            moved = np.flatnonzero(sums.counters.any(axis=1))
            new_flows = np.zeros(len(labels), np.int64)
            new_flows[moved] = self._counted.count(
                sums.slots[moved], sums.ids[moved], labels[moved] // len(QUALITIES)
            )
        counters = np.concatenate([sums.counters, new_flows[:, None]], axis=1)
        if sums.naming is not None:
            labels = labels | self._number_names(sums.naming, is_selected) << _ABOVE_OWNER
        self._add(flows, is_selected, _Rows(sums.words, labels, counters, sums.health))

    def regroup(
        self,
        group_by: Collection[str],
        only: Sequence[Selector],
        max_records: int,
        networks: Networks,
    ) -> None:
        """Select by other selectors; the screen groups as it likes."""
        del group_by, max_records
        self._use_networks(networks)
        self._only = Selection(only) if only else None

    def invalidate_routes(self) -> None:
        """Describe processes again, as the description of one has changed."""
        self._latest.start_generation()

    def recall_processes(self, attributions: Iterable[Attribution]) -> None:
        """Describe the processes of this window's traffic that is not ingested yet as of now."""
        for attribution in attributions:
            self._latest.describe(attribution)

    @property
    def processes(self) -> Collection[Process]:
        """The processes that had traffic in this window or in the one before."""
        return self._latest.list_all()

    def drain(self) -> Iterator[TrafficBody]:
        """End the window, and pass on what moved; there are no bodies."""
        rows = (
            self._compact() if self._has_repeats or self._size > self._max_flows else self._join()
        )
        domains, labels = np.divmod(rows.labels, 1 << _ABOVE_OWNER)
        owners, codes = np.divmod(labels, len(QUALITIES))
        drained = DrainedFlows(
            FlowColumns(rows.words, self._packer),
            owners,
            list(self._owners),
            codes,
            rows.moved[:, :_FLOWS],
            rows.moved[:, _FLOWS],
            rows.health,
            self.service_ports,
            self._networks,
            self._folded,
            domains,
            list(self._names),
        )
        sizes = np.zeros(len(QUALITIES), np.int64)
        np.add.at(sizes, codes, rows.moved[:, 0] + rows.moved[:, 2])
        self.bytes_by_quality = {
            str(name): size for name, size in zip(QUALITIES, sizes.tolist(), strict=True) if size
        }
        self.uncounted_flows = self._counted.uncounted
        self._start_window()
        self._on_drain(drained)
        return iter(())

    def _use_networks(self, networks: Networks) -> None:
        self._networks, self._network_columns = networks, NetworkColumns(networks)

    def _start_window(self) -> None:
        self._packer = FlowPacker()
        self._unknown_words = self._packer.pack([UNKNOWN_FLOW])
        self._parts: list[_Rows] = []
        self._size = 0
        self._has_repeats = False
        self._owners: dict[Owner, int] = {REMAINDER: 0}
        self._names: dict[str, int] = {"": 0}
        self._folded = 0
        self._latest.start_generation()
        self._counted.start_window()

    def _label(self, flows: FlowColumns, sums: FlowSums) -> tuple[Integers, Flags]:
        """Return the label of each row, and whether it is selected; the others have no path.

        The number of the name of the peer is not in it yet.
        """
        owners = sums.owners
        described = [self._latest.describe(one) for one in sums.attributions]
        numbers = np.array([self._number(describe_owner(one)) for one in described], np.int64)
        codes = np.array([_CODES[one.quality] for one in described], np.int64)
        owned = numbers[owners]
        is_selected = owned != self._owners[REMAINDER]
        if self._only is not None:
            derived = flows.derive(self.service_ports, self._network_columns, sums.naming)
            is_selected &= self._only.select(flows, derived, owners, described)
            owned = np.where(is_selected, owned, self._owners[REMAINDER])
        return owned * len(QUALITIES) + codes[owners], is_selected

    def _number_names(self, naming: FlowNaming, has_path: Flags) -> Integers:
        """Return the number of the name of each row's peer; 0 of one without a path."""
        texts = ["" if one is None else one.domain for one in naming.names]
        numbers = [self._names.setdefault(text, len(self._names)) for text in texts]
        return np.where(has_path, np.array(numbers, np.int64)[naming.numbers], 0)

    def _number(self, owner: Owner) -> int:
        """Return the number of an owner; further ones are in the remainder."""
        if owner not in self._owners and len(self._owners) > self._max_flows:
            return self._owners[REMAINDER]
        return self._owners.setdefault(owner, len(self._owners))

    def _add(self, flows: FlowColumns, has_path: Flags, rows: _Rows) -> None:
        words = flows.renumber(self._packer)
        words[~has_path] = self._unknown_words
        self._has_repeats |= bool(self._parts) or not has_path.all()
        self._parts.append(replace(rows, words=words))
        self._size += len(rows)
        if self._size > 2 * self._max_flows:
            self._parts = [self._compact()]
            self._size = len(self._parts[0])

    def _join(self) -> _Rows:
        """Return all rows."""
        if not self._parts:
            return _Rows(
                np.zeros((0, WORDS), np.uint64),
                np.zeros(0, np.int64),
                np.zeros((0, _FLOWS + 1), np.int64),
            )
        return _Rows(
            np.concatenate([part.words for part in self._parts]),
            np.concatenate([part.labels for part in self._parts]),
            np.concatenate([part.moved for part in self._parts]),
            _join_health(self._parts),
        )

    def _compact(self) -> _Rows:
        """Return one row for each flow, owner and quality, and fold what is too much."""
        rows = _sum_equal(self._join())
        excess = len(rows) - self._max_flows
        if excess > 0:
            rows.words[self._max_flows :] = self._unknown_words
            rows.labels[self._max_flows :] &= (1 << _ABOVE_OWNER) - 1
            self._folded += excess
            rows = _sum_equal(rows)
        return rows


def _join_health(parts: Sequence[_Rows]) -> Health | None:
    if all(part.health is None for part in parts):
        return None
    return np.concatenate(
        [make_health(len(part)) if part.health is None else part.health for part in parts]
    )


def _sum_equal(rows: _Rows) -> _Rows:
    """Return the sums of rows with the same words and label, in the order of their first ones."""
    order, bounds = order_by_key(
        np.concatenate([rows.words, rows.labels[:, None].astype(np.uint64)], axis=1)
    )
    if len(bounds) < 2:  # there is no row
        return rows
    heads = np.minimum.reduceat(order, bounds[:-1])
    moved = np.add.reduceat(rows.moved[order], bounds[:-1], axis=0)
    first, by_first = np.sort(heads), heads.argsort()
    health = None if rows.health is None else sum_health(rows.health, order, bounds)[by_first]
    return _Rows(rows.words[first], rows.labels[first], moved[by_first], health)

"""PURE: connections grouped by a dimension, as rows that are sorted and filtered.

In: the table of connections and what is asked for (`Query`). Out: `Rows`: columns of numbers by
group, of which only the visible ones become `Row`s with text.

The filter selects connections before they are grouped: with `10.0.0.5`, a row of a process has
its traffic with that address only. Words are separated by spaces; each must be in the text of the
connection, or, with a `!` before it, must not be.

Costs: with 50,000 connections in 5,000 groups a query takes some 10 ms; a new dimension or a new
filter once some 50 ms.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec
import numpy as np
from numpy.typing import NDArray

from hogpipe.flows.health_columns import (
    FIELDS,
    add_health,
    decode_health,
    find_known,
    make_health,
)
from hogpipe.flows.packet_rows import Health
from hogpipe.model import FAILURES, TcpHealth
from hogpipe.top.described_flows import Owner, Path, format_address, format_endpoint
from hogpipe.top.traffic_table import (
    QUALITIES,
    TRAFFIC,
    TrafficTable,
    WindowTraffic,
    select_known,
)

Numbers = NDArray[np.float64]
_TX_BYTES, _RX_BYTES, _TX_PACKETS, _RX_PACKETS = range(len(TRAFFIC))


@dataclass(frozen=True, slots=True)
class GroupDimension:
    """What connections are grouped by."""

    name: str
    key: str
    """The key of the keyboard that selects it."""
    identify: Callable[[Owner, Path], Hashable]
    columns: tuple[str, ...]
    """The headings of its columns of text."""
    describe: Callable[[Owner, Path], tuple[str, ...]]
    """The text of these columns."""


def _describe_process(owner: Owner, _path: Path) -> tuple[str, ...]:
    return (str(owner.pid) if owner.pid else "-", owner.user, name_owner(owner))


def _describe_flow(owner: Owner, path: Path) -> tuple[str, ...]:
    if path.remote_address and not path.local_address:
        remote = format_endpoint(path.remote_address, path.service_port)
        return (path.transport, "(ended)", remote, name_owner(owner))
    local = format_endpoint(path.local_address, path.local_port)
    remote = format_endpoint(path.remote_address, path.remote_port)
    return (path.transport, local or "-", remote or "-", name_owner(owner))


def name_owner(owner: Owner) -> str:
    """Return the name of the program, or in parentheses why there is none."""
    if owner.is_remainder:
        return "(all others)"
    if owner.program:
        return owner.program
    if owner.kernel:
        return f"(kernel: {owner.kernel})"
    return "(unknown)" if owner.user else "(unattributed)"


def _one_column(
    name: str, key: str, heading: str, get: Callable[[Owner, Path], str]
) -> GroupDimension:
    return GroupDimension(
        name, key, get, (heading,), lambda owner, path: (get(owner, path) or "-",)
    )


GROUP_DIMENSIONS: tuple[GroupDimension, ...] = (
    GroupDimension(
        "process",
        "p",
        lambda owner, _path: (
            owner.pid, owner.created, owner.program, owner.user, owner.kernel, owner.is_remainder
        ),
        ("PID", "USER", "PROGRAM"),
        _describe_process,
    ),
    _one_column("program", "g", "PROGRAM", lambda owner, _path: name_owner(owner)),
    _one_column("parent", "j", "PARENT", lambda owner, _path: owner.parent),
    _one_column("user", "e", "USER", lambda owner, _path: owner.user),
    _one_column("unit", "n", "UNIT", lambda owner, _path: owner.unit),
    _one_column("cgroup", "c", "CGROUP", lambda owner, _path: owner.cgroup),
    GroupDimension(
        "container",
        "d",
        lambda owner, _path: owner.container,
        ("CONTAINER",),
        lambda owner, _path: (owner.container_name or "-",),
    ),
    GroupDimension(
        "pod",
        "k",
        lambda owner, _path: owner.pod,
        ("POD",),
        lambda owner, _path: (owner.pod_name or "-",),
    ),
    _one_column("network", "w", "NETWORK", lambda _owner, path: path.network),
    _one_column("domain", "m", "DOMAIN", lambda _owner, path: path.domain),
    _one_column("remote", "a", "REMOTE", lambda _owner, path: format_address(path.remote_address)),
    _one_column(
        "port",
        "o",
        "PORT",
        lambda _owner, path: (
            f"{path.transport}/{path.service_port}" if path.service_port else path.transport
        ),
    ),
    _one_column("transport", "x", "TRANSPORT", lambda _owner, path: path.transport),
    _one_column("network_type", "y", "TYPE", lambda _owner, path: path.network_type),
    _one_column("interface", "i", "INTERFACE", lambda _owner, path: path.interface),
    GroupDimension(
        "flow",
        "f",
        lambda owner, path: (owner, path),
        ("PROTO", "LOCAL", "REMOTE", "PROGRAM"),
        _describe_flow,
    ),
)  # fmt: skip
GROUP_DIMENSION_OF = {one.name: one for one in GROUP_DIMENSIONS}


class SortKey(StrEnum):
    """What rows are sorted by."""

    RATE = "rate"
    TRANSMIT = "transmit"
    RECEIVE = "receive"
    TOTAL = "total"
    PACKETS = "packets"
    FLOWS = "flows"
    AGE = "age"
    NAME = "name"
    RETRANSMITS = "retransmits"
    RTT = "round trip"
    CONNECTIONS = "connections"
    FAILED = "failed"


HEALTH_KEYS = (SortKey.RETRANSMITS, SortKey.RTT, SortKey.CONNECTIONS, SortKey.FAILED)
"""What sorts by the health of TCP connections."""
SORT_DIGITS = "1234567890"
"""The keys of the keyboard for the first sort keys."""


class Query(msgspec.Struct, frozen=True):
    """What rows are asked for."""

    dimension: str = "process"
    sort: SortKey = SortKey.RATE
    reverse: bool = False
    """Whether the smallest comes first; of names, the last."""
    filter: str = ""
    within: tuple[str, Hashable] | None = None
    """A dimension and a group of it: only its connections."""
    totals: bool = False
    """Whether `transmit` and `receive` sort by the totals instead of the rates."""


@dataclass(frozen=True, slots=True)
class Row:
    """A group at the time of the cursor; rates are a second."""

    key: Hashable
    texts: tuple[str, ...]
    """One for each column of the dimension."""
    owner: Owner
    path: Path
    """Those of one of its connections."""
    transmit_rate: float
    receive_rate: float
    packet_rate: float
    transmit_bytes: int
    receive_bytes: int
    packets: int
    flows: int
    """How many moved something in the last window."""
    connections: int
    """How many there were."""
    qualities: tuple[int, ...]
    """Bytes by quality, in the order of QUALITIES."""
    age: float
    history: tuple[float, ...]
    """Bytes a second of both directions in the last windows, the newest last."""
    health: TcpHealth | None = None
    """Of the last window, or in total if totals are asked for; None where it is unknown."""
    health_packets: int = 0
    """The packets transmitted in that time."""
    health_seconds: float = 1.0
    """The length of that time."""


class _Groups:
    """The group of each slot for one dimension; follows the table as it grows."""

    def __init__(self, dimension: GroupDimension) -> None:
        self.dimension = dimension
        self.keys: list[Hashable] = []
        self.example: list[int] = []
        """A slot of each group."""
        self._index: dict[Hashable, int] = {}
        self._of_slot: list[int] = []
        self._array = np.empty(0, np.int32)
        self._epoch = -1

    def update(self, table: TrafficTable) -> NDArray[np.int32]:
        """Return the group of each slot."""
        if table.epoch != self._epoch:
            self._epoch = table.epoch
            self.keys, self.example, self._index, self._of_slot = [], [], {}, []
            self._array = np.empty(0, np.int32)
        known = len(self._of_slot)
        if known == len(table):
            return self._array
        identify = self.dimension.identify
        for slot in range(known, len(table)):
            key = identify(table.owner(slot), table.paths[slot])
            group = self._index.setdefault(key, len(self.keys))
            if group == len(self.keys):
                self.keys.append(key)
                self.example.append(slot)
            self._of_slot.append(group)
        self._array = np.array(self._of_slot, np.int32)
        return self._array

    def find(self, key: Hashable) -> int:
        """Return the number of a group, -1 if there is none."""
        return self._index.get(key, -1)


class RowGroups:
    """Answers queries about one table."""

    def __init__(self, table: TrafficTable) -> None:
        self._table = table
        self._groups: OrderedDict[str, _Groups] = OrderedDict()
        self._texts: list[str] = []
        self._texts_epoch = -1
        self._matches = np.empty(0, np.bool_)
        self._matches_of: tuple[int, str] = (-1, "")

    def query(self, query: Query) -> "Rows":
        """Return the rows of a query."""
        groups = self._find_groups(query.dimension)
        group_of = groups.update(self._table)
        selected = self._select(query)
        return Rows(self._table, query, groups, group_of, selected)

    def _find_groups(self, dimension: str) -> _Groups:
        groups = self._groups.get(dimension)
        if groups is None:
            # Two are kept: that of the list and that of the connections.
            while len(self._groups) > 2:
                self._groups.popitem(last=False)
            groups = self._groups[dimension] = _Groups(GROUP_DIMENSION_OF[dimension])
        return groups

    def _select(self, query: Query) -> NDArray[np.bool_] | None:
        """Return which slots are asked for; None for all."""
        selected: NDArray[np.bool_] | None = None
        if query.within is not None:
            groups = self._find_groups(query.within[0])
            selected = groups.update(self._table) == groups.find(query.within[1])
        if query.filter.strip():
            matches = self._match(query.filter)
            selected = matches if selected is None else selected & matches
        return selected

    def _match(self, text: str) -> NDArray[np.bool_]:
        table, wanted = self._table, text.casefold().split()
        if self._texts_epoch != table.epoch:
            self._texts_epoch, self._texts = table.epoch, []
        for slot in range(len(self._texts), len(table)):
            self._texts.append(_make_text(table.owner(slot), table.paths[slot]))
        made_of = (table.epoch, text)
        if made_of != self._matches_of:
            self._matches_of, self._matches = made_of, np.empty(0, np.bool_)
        known = self._matches.size
        if known < len(self._texts):
            new = [_contains(one, wanted) for one in self._texts[known:]]
            self._matches = np.concatenate([self._matches, np.array(new, np.bool_)])
        return self._matches


def _make_text(owner: Owner, path: Path) -> str:
    """Return what the filter looks for its words in."""
    parts = (
        str(owner.pid) if owner.pid else "", name_owner(owner), owner.command, owner.executable,
        owner.user, owner.cgroup, owner.unit, owner.container, owner.pod, owner.parent,
        owner.container_name, owner.pod_name,
        path.transport,
        path.network_type, path.interface, format_endpoint(path.local_address, path.local_port),
        format_endpoint(path.remote_address, path.remote_port or path.service_port), path.network,
        path.domain,
    )  # fmt: skip
    return "\n".join(parts).casefold()


def _contains(text: str, words: Sequence[str]) -> bool:
    return all(
        word[1:] not in text if word.startswith("!") and len(word) > 1 else word in text
        for word in words
    )


def _sum_by(groups: NDArray[np.int32], column: NDArray[np.int64], count: int) -> Numbers:
    return np.bincount(groups, column, count).astype(np.float64, copy=False)


class Rows:
    """The rows of a query in their order; `slice` makes those that are visible."""

    def __init__(
        self,
        table: TrafficTable,
        query: Query,
        groups: _Groups,
        group_of: NDArray[np.int32],
        selected: NDArray[np.bool_] | None,
    ) -> None:
        self._table = table
        self._query = query
        self._groups = groups
        self._group_of = group_of
        self._selected = selected
        self._count = len(groups.keys)
        current = table.current
        self._seconds = current.seconds if current else 1.0
        self._totals = [self._sum(column) for column in table.traffic]
        if current is None:
            self._now = [np.zeros(self._count) for _ in TRAFFIC]
            self._flows = np.zeros(self._count)
        else:
            self._now = [self._sum_window(current, column) for column in current.traffic]
            self._flows = self._sum_window(current, current.flows)
        self._health = self._sum_health()
        self._order = self._sort()

    def _sum(self, column: NDArray[np.int64]) -> Numbers:
        if self._selected is not None:
            column = column * self._selected
        return _sum_by(self._group_of, column, self._count)

    def _sum_window(self, window: WindowTraffic, column: NDArray[np.int64]) -> Numbers:
        slots = window.slots
        if self._selected is not None:
            column = column * self._selected[slots]
        return _sum_by(self._group_of[slots], column, self._count)

    def _sum_health(self) -> Health | None:
        """Return the health of each group, in the last window or in total; None without any."""
        table = self._table
        if table.health is None:
            return None
        rows = table.current.health if table.current else None
        if self._query.totals:
            rows = select_known(np.arange(len(table), dtype=np.int32), table.health)
        total = make_health(self._count)
        if rows is not None:
            slots, health = rows.slots, rows.health
            if self._selected is not None:
                is_selected = self._selected[slots]
                slots, health = slots[is_selected], health[is_selected]
            add_health(total, self._group_of[slots].astype(np.int64), health)
        return total

    def _sort(self) -> NDArray[np.int64]:
        """Return the groups that have traffic, or health alone, in their order."""
        totals = self._totals
        there = np.flatnonzero(totals[_TX_PACKETS] + totals[_RX_PACKETS])
        there = np.union1d(there, np.flatnonzero(totals[_TX_BYTES] + totals[_RX_BYTES]))
        if (health := self._table.health) is not None:
            is_known = find_known(health)
            if self._selected is not None:
                is_known &= self._selected
            there = np.union1d(there, self._group_of[is_known])
        query = self._query
        if query.sort is SortKey.NAME:
            named = sorted(there.tolist(), key=self._name, reverse=query.reverse)
            return np.array(named, np.int64)
        # Groups with equal values, such as all idle ones, are sorted by their totals.
        total = totals[_TX_BYTES] + totals[_RX_BYTES]
        values = self._sort_values()
        order = there[np.lexsort((-total[there], -values[there]))]
        return order[::-1] if query.reverse else order

    def _name(self, group: int) -> tuple[str, ...]:
        return tuple(text.casefold() for text in self._describe(group)[::-1])

    def _sort_values(self) -> Numbers:
        key = self._query.sort
        if key in HEALTH_KEYS:
            return self._sort_health(key)
        if key is SortKey.AGE:
            return -self._began()
        if key is SortKey.FLOWS:
            return self._flows
        if key is SortKey.TOTAL:
            return self._totals[_TX_BYTES] + self._totals[_RX_BYTES]
        if key is SortKey.RATE:
            return self._now[_TX_BYTES] + self._now[_RX_BYTES]
        counters = self._totals if self._query.totals else self._now
        columns = {
            SortKey.TRANSMIT: (_TX_BYTES,),
            SortKey.RECEIVE: (_RX_BYTES,),
            SortKey.PACKETS: (_TX_PACKETS, _RX_PACKETS),
        }[key]
        return sum((counters[column] for column in columns), np.zeros(self._count))

    def _began(self) -> Numbers:
        began = np.full(self._count, np.inf)
        np.minimum.at(began, self._group_of, self._table.first_seen)
        return began

    def _sort_health(self, key: SortKey) -> Numbers:
        """Return what groups are sorted by; those of unknown health are less than any other."""
        if self._health is None:
            return np.zeros(self._count)
        columns = dict(zip(FIELDS, self._health.T, strict=False))
        if key is SortKey.RTT:
            values = columns["rtt_sum_us"] / np.maximum(columns["rtt_samples"], 1)
            return np.where(columns["rtt_samples"] == 0, -1.0, values)
        names = {
            SortKey.RETRANSMITS: ("retransmits",),
            SortKey.CONNECTIONS: ("opened", "accepted"),
            SortKey.FAILED: FAILURES,
        }[key]
        values = sum((columns[name] for name in names), np.zeros(self._count))
        return np.where(find_known(self._health), values, -1.0)

    def _describe_health(self, group: int) -> TcpHealth | None:
        if self._health is None:
            return None
        return decode_health(self._health[group : group + 1].tolist())[0]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._order)

    def find(self, key: Hashable) -> int | None:
        """Return the place of a group in the order; None if it is not there."""
        found = np.flatnonzero(self._order == self._groups.find(key))
        return int(found[0]) if found.size else None

    def _describe(self, group: int) -> tuple[str, ...]:
        slot = self._groups.example[group]
        return self._groups.dimension.describe(self._table.owner(slot), self._table.paths[slot])

    def key(self, place: int) -> Hashable:
        """Return the group at a place in the order."""
        return self._groups.keys[int(self._order[place])]

    def slice(self, start: int, stop: int, history: int = 0) -> list[Row]:
        """Return the rows from `start` up to `stop`, with the rates of `history` windows."""
        chosen = self._order[max(0, start) : stop]
        if not chosen.size:
            return []
        qualities = [self._sum(column)[chosen] for column in self._table.qualities]
        connections = np.bincount(
            self._group_of,
            weights=None if self._selected is None else self._selected,
            minlength=self._count,
        )
        began = self._began()[chosen]
        rates = self._list_rates(chosen, history)
        current = self._table.current
        now = current.end if current else 0.0
        return [
            self._make_row(
                int(group),
                int(connections[group]),
                tuple(int(column[index]) for column in qualities),
                now - float(began[index]),
                tuple(float(rate[index]) for rate in rates),
            )
            for index, group in enumerate(chosen)
        ]

    def _list_rates(self, chosen: NDArray[np.int64], history: int) -> list[Numbers]:
        return [
            self._sum_window(window, window.traffic[_TX_BYTES] + window.traffic[_RX_BYTES])[chosen]
            / window.seconds
            for window in self._table.recent(history)
        ]

    def _make_row(
        self,
        group: int,
        connections: int,
        qualities: tuple[int, ...],
        age: float,
        history: tuple[float, ...],
    ) -> Row:
        slot = self._groups.example[group]
        seconds, now, totals = self._seconds, self._now, self._totals
        sent = totals if self._query.totals else now
        return Row(
            key=self._groups.keys[group],
            texts=self._describe(group),
            owner=self._table.owner(slot),
            path=self._table.paths[slot],
            transmit_rate=float(now[_TX_BYTES][group]) / seconds,
            receive_rate=float(now[_RX_BYTES][group]) / seconds,
            packet_rate=float(now[_TX_PACKETS][group] + now[_RX_PACKETS][group]) / seconds,
            transmit_bytes=int(totals[_TX_BYTES][group]),
            receive_bytes=int(totals[_RX_BYTES][group]),
            packets=int(totals[_TX_PACKETS][group] + totals[_RX_PACKETS][group]),
            flows=int(self._flows[group]),
            connections=connections,
            qualities=qualities,
            age=max(0.0, age),
            history=history,
            health=self._describe_health(group),
            health_packets=int(sent[_TX_PACKETS][group]),
            health_seconds=self._seconds,
        )

    def sum_up(self) -> Row:
        """Return the sum of all rows, without text."""
        totals, now, seconds = self._totals, self._now, self._seconds
        return Row(
            key=None,
            texts=(),
            owner=Owner(),
            path=Path(),
            transmit_rate=float(now[_TX_BYTES].sum()) / seconds,
            receive_rate=float(now[_RX_BYTES].sum()) / seconds,
            packet_rate=float((now[_TX_PACKETS] + now[_RX_PACKETS]).sum()) / seconds,
            transmit_bytes=int(totals[_TX_BYTES].sum()),
            receive_bytes=int(totals[_RX_BYTES].sum()),
            packets=int((totals[_TX_PACKETS] + totals[_RX_PACKETS]).sum()),
            flows=int(self._flows.sum()),
            connections=len(self._group_of),
            qualities=tuple(int(self._sum(column).sum()) for column in self._table.qualities),
            age=0.0,
            history=(),
        )


def describe_quality(qualities: Sequence[int]) -> tuple[str, float]:
    """Return the quality with the most bytes, and its share; empty and 0 without bytes."""
    total = sum(qualities)
    if not total:
        return "", 0.0
    most = max(range(len(qualities)), key=qualities.__getitem__)
    return str(QUALITIES[most]), qualities[most] / total

"""PURE: the groups of one window, in columns.

In: for each flow the key of its group, and counters. Out: groups with their sums.

Groups are numbered in the order of their first flows; group 0 is the remainder, in which the flows
of all groups beyond `max_groups` are. The keys of those are counted, at most `max_folded`.
"""

from collections.abc import Iterator

import msgspec
import numpy as np

from hogpipe.flows.health_columns import add_health, decode_health, make_health
from hogpipe.flows.key_index import ABSENT, KeyIndex, Keys, resize
from hogpipe.flows.packet_rows import Counters, Health, Integers
from hogpipe.flows.row_order import order_by_key
from hogpipe.model import Quality, TcpHealth, TrafficCounts

QUALITIES = tuple(Quality)
"""The index of a quality is its code."""
REMAINDER = 0
_SLICE = 500


class GroupSums(msgspec.Struct, frozen=True):
    """What the flows of one group moved."""

    number: int
    flows: int
    traffic: TrafficCounts
    qualities: dict[str, int]
    """Bytes of both directions by quality."""
    health: TcpHealth | None = None
    """None where it is not known of any connection."""


class GroupTable:
    """Groups, whose keys have `words` words; `find` them, then `add` what moved."""

    def __init__(self, words: int, max_groups: int, max_folded: int) -> None:
        self._index = KeyIndex(words, max_groups)
        self._folded = KeyIndex(words, max_folded)
        self._counters: Counters = np.zeros((1, 4), np.int64)
        self._qualities: Integers = np.zeros((1, len(QUALITIES)), np.int64)
        self._flows: Integers = np.zeros(1, np.int64)
        self._health: Health | None = None
        """None as long as none was added."""
        self.has_remainder = False
        """Whether anything is in the remainder."""

    def __len__(self) -> int:
        """Return the number of groups, the remainder aside."""
        return len(self._index)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was added."""
        return not (len(self) or self.has_remainder)

    @property
    def folded(self) -> int:
        """How many groups are in the remainder, at most `max_folded`."""
        return len(self._folded)

    def find(self, keys: Keys) -> tuple[Integers, Integers]:
        """Return the group of each key, and the places of the keys that begin groups.

        The latter are in the order of the numbers of their groups, which are the next ones.
        """
        found = self._index.find(keys).astype(np.int64)
        missing = np.flatnonzero(found == ABSENT)
        if not len(missing):
            return found + 1, missing
        order, bounds = order_by_key(keys[missing])
        heads = np.minimum.reduceat(order, bounds[:-1])
        by_head = heads.argsort()
        begun, folded = np.split(missing[heads[by_head]], [self._index.room])
        slots = np.full(len(heads), ABSENT, np.int64)
        slots[by_head[: len(begun)]] = self._index.add(keys[begun])
        found[missing[order]] = np.repeat(slots, np.diff(bounds))
        self._fit()
        if len(folded) and self._folded.room:
            self._fold(keys[folded])
        return found + 1, begun

    def add(self, groups: Integers, counters: Counters, codes: Integers) -> None:
        """Add what moved, a row for each of `groups`; `codes` are those of the qualities."""
        self.has_remainder |= bool((groups == REMAINDER).any())
        totals = self._counters.reshape(-1)
        for place in range(counters.shape[1]):
            np.add.at(totals, groups * counters.shape[1] + place, counters[:, place])
        sizes = counters[:, 0] + counters[:, 2]
        np.add.at(self._qualities.reshape(-1), groups * len(QUALITIES) + codes, sizes)

    def add_health(self, groups: Integers, health: Health) -> None:
        """Add the health of connections, a row for each of `groups`, which have been added."""
        if self._health is None:
            self._health = make_health(len(self._flows))
        add_health(self._health, groups, health)

    def add_flows(self, groups: Integers, flows: Integers | int) -> None:
        """Add numbers of flows."""
        np.add.at(self._flows, groups, flows)

    def sum_qualities(self) -> dict[str, int]:
        """Return the bytes of all groups by quality."""
        return _name_qualities(self._qualities.sum(axis=0).tolist())

    def list_sums(self) -> Iterator[GroupSums]:
        """Return the sums of all groups in their order, the remainder last if there is one."""
        for start in range(1, len(self) + 1, _SLICE):
            yield from self._list_slice(start, min(start + _SLICE, len(self) + 1))
        if self.has_remainder:
            yield from self._list_slice(REMAINDER, REMAINDER + 1)

    def _list_slice(self, start: int, end: int) -> Iterator[GroupSums]:
        counters, flows = self._counters[start:end].tolist(), self._flows[start:end].tolist()
        qualities = self._qualities[start:end].tolist()
        health: list[TcpHealth | None] = [None] * len(flows)
        if self._health is not None:
            health = decode_health(self._health[start:end].tolist())
        for place, (transmit, sent, receive, received) in enumerate(counters):
            traffic = TrafficCounts(
                transmit_bytes=transmit,
                transmit_packets=sent,
                receive_bytes=receive,
                receive_packets=received,
            )
            named = _name_qualities(qualities[place])
            yield GroupSums(start + place, flows[place], traffic, named, health[place])

    def _fold(self, keys: Keys) -> None:
        """Count the keys of groups that have no place; they are distinct."""
        missing = np.flatnonzero(self._folded.find(keys) == ABSENT)[: self._folded.room]
        if len(missing):
            self._folded.add(keys[missing])

    def _fit(self) -> None:
        """Give all columns as many rows as the index has slots, and one for the remainder."""
        size = self._index.capacity + 1
        if size != len(self._flows):
            self._counters = resize(self._counters, size)
            self._qualities = resize(self._qualities, size)
            self._flows = resize(self._flows, size)
            if self._health is not None:
                self._health = resize(self._health, size)


def _name_qualities(sizes: list[int]) -> dict[str, int]:
    return {str(name): size for name, size in zip(QUALITIES, sizes, strict=True) if size}

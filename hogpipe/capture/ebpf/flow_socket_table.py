"""PURE: the sockets of flows that are looked up, in columns.

In: flows with their sockets, a column for each epoch; the processes that closed sockets. Out: the
socket of a flow. An owner is one object for all sockets that it has.

Bounds: at most `max_flows` flows. The ones that were recorded longest ago are evicted, several at
once, since each eviction passes over the whole table.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from hogpipe.capture.ebpf.row_flows import RowFlows
from hogpipe.flows.flow_words import FLOW_WORDS, WORDS, FlowPacker, Numbering
from hogpipe.flows.key_index import ABSENT, KeyIndex, resize
from hogpipe.flows.packet_rows import Flags, Integers
from hogpipe.flows.row_order import find_heads
from hogpipe.model import FlowKey, Quality, SocketOwner
from hogpipe.protocols import TCP

Cookies = NDArray[np.uint64]

_EVICTED_SHARE = 64  # of a full table, a part of this many is evicted
_MIN_OWNERS = 256


@dataclass(frozen=True, slots=True, eq=False)
class RowSockets:
    """A socket for each row."""

    cookies: Cookies
    namespaces: Cookies
    """The cookies of their network namespaces, 0 where not known."""
    owners: Integers
    """The place of each socket's owner in `described`."""
    described: Sequence[SocketOwner | None]
    by_listener: Flags
    """Whether the owner is that of the listening socket."""

    def take(self, rows: Flags) -> "RowSockets":
        """Return these rows."""
        return RowSockets(
            self.cookies[rows],
            self.namespaces[rows],
            self.owners[rows],
            self.described,
            self.by_listener[rows],
        )


class FlowSocket(msgspec.Struct, frozen=True, gc=False):
    """The socket that a flow was recorded with last."""

    cookie: int
    namespace: int
    """The cookie of its network namespace, 0 if not known."""
    owner: SocketOwner | None
    quality: Quality
    is_released: bool


class SocketTable:
    """At most `max_flows` flows with their sockets. For one thread at a time."""

    def __init__(self, max_flows: int) -> None:
        self._max_flows = max_flows
        self._packer = FlowPacker()
        self._index = KeyIndex(WORDS, max_flows)
        self._known: Numbering[SocketOwner | None] = Numbering()
        self._recorded = 0
        """How many rows were recorded so far."""
        self._cookie: Cookies = np.zeros(0, np.uint64)
        self._namespace: Cookies = np.zeros(0, np.uint64)
        self._owner: Integers = np.zeros(0, np.int64)
        self._by_listener: Flags = np.zeros(0, np.bool_)
        self._is_released: Flags = np.zeros(0, np.bool_)
        self._recorded_at: Integers = np.zeros(0, np.int64)
        """What `recorded` was then."""
        self._fit()

    def __len__(self) -> int:
        return len(self._index)

    @property
    def recorded(self) -> int:
        """How many rows were recorded so far."""
        return self._recorded

    def record(self, flows: RowFlows, sockets: RowSockets) -> tuple[Flags, int]:
        """Record the sockets of flows; of several rows of a flow, the last one is kept.

        Return which flows were another socket's before, and how many flows were evicted.
        """
        if len(self._known) > 2 * len(self._index) + _MIN_OWNERS:
            self._drop_owners()
        words = flows.pack(self._packer)
        found = self._index.find(words)
        missing = np.flatnonzero(found == ABSENT)
        is_other = (found != ABSENT) & (self._cookie[found] != sockets.cookies)
        self._recorded += len(words)
        evicted = 0
        if len(missing):
            self._recorded_at[found[found != ABSENT]] = self._recorded
            heads = missing[find_heads(words[missing])]
            evicted = max(0, len(heads) - self._max_flows)
            heads = heads[evicted:]
            evicted += self._make_room(len(heads))
            self._index.add(words[heads])
            self._fit()
            found = self._index.find(words)
        kept = found != ABSENT
        slots, sockets = found[kept], sockets.take(kept)
        self._set(slots, sockets)
        is_other[kept] |= self._cookie[slots] != sockets.cookies
        return is_other, evicted

    def find(self, flows: Sequence[FlowKey]) -> list[FlowSocket | None]:
        """Return the sockets of flows, None for each that is not known."""
        if not flows:
            return []
        slots = self._index.find(self._packer.pack(flows)).tolist()
        return [None if slot == ABSENT else self._socket(slot) for slot in slots]

    def find_awaiting_release(self, cookies: Cookies) -> Flags:
        """Return of which sockets `record_releases` has something to change."""
        return np.asarray(self._find_accepted(cookies) != ABSENT)

    def record_releases(
        self, cookies: Cookies, owners: Integers, described: Sequence[SocketOwner]
    ) -> None:
        """Record the processes that closed accepted connections."""
        slots = self._find_accepted(cookies)
        is_known = slots != ABSENT
        slots, numbers = slots[is_known], self._number(described)
        self._owner[slots] = numbers[owners[is_known]]
        self._by_listener[slots] = False
        self._is_released[slots] = True

    def expire(self, recorded: int) -> None:
        """Evict the flows that were recorded last when `recorded` was at most that, and names."""
        self._remove(np.flatnonzero(self._index.is_used & (self._recorded_at <= recorded)))
        used = self._index.is_used
        self._packer.namespaces.keep(
            np.unique(self._index.keys[used].view(FLOW_WORDS)["namespace"]).tolist()
        )
        self._drop_owners()

    def _set(self, slots: NDArray[np.int32], sockets: RowSockets) -> None:
        self._cookie[slots], self._namespace[slots] = sockets.cookies, sockets.namespaces
        self._owner[slots] = self._number(sockets.described)[sockets.owners]
        self._by_listener[slots] = sockets.by_listener
        self._is_released[slots] = False
        first = self._recorded - len(slots)
        self._recorded_at[slots] = np.arange(first + 1, self._recorded + 1)

    def _drop_owners(self) -> None:
        """Drop the owners that no flow has."""
        self._known.keep(np.unique(self._owner[self._index.is_used]).tolist())

    def _number(self, described: Sequence[SocketOwner | None]) -> Integers:
        return np.array([self._known.number(one) for one in described], np.int64)

    def _find_accepted(self, cookies: Cookies) -> Integers:
        """Return the slots of accepted connections that are open as far as is recorded."""
        accepted = np.flatnonzero(self._index.is_used & self._by_listener)
        protocols = self._index.keys[accepted].view(FLOW_WORDS)[:, 0]["protocol"]
        accepted = accepted[protocols == TCP]
        if not len(accepted):
            return np.full(len(cookies), ABSENT, np.int64)
        order = self._cookie[accepted].argsort()
        known = self._cookie[accepted[order]]
        places = np.searchsorted(known, cookies).clip(max=len(known) - 1)
        return np.where(known[places] == cookies, accepted[order[places]], ABSENT)

    def _make_room(self, flows: int) -> int:
        """Evict flows if there is no room for so many; return how many were evicted."""
        lacking = flows - self._index.room
        if lacking <= 0:
            return 0
        used = np.flatnonzero(self._index.is_used)
        number = min(max(lacking, 1 + self._max_flows // _EVICTED_SHARE), len(used))
        self._remove(used[self._recorded_at[used].argsort(kind="stable")[:number]])
        return number

    def _remove(self, slots: Integers) -> None:
        if len(slots):
            self._index.remove(slots.astype(np.int32))
            self._fit()

    def _socket(self, slot: int) -> FlowSocket:
        return FlowSocket(
            int(self._cookie[slot]),
            int(self._namespace[slot]),
            self._known.name(int(self._owner[slot])),
            Quality.LISTENER if self._by_listener[slot] else Quality.EXACT,
            bool(self._is_released[slot]),
        )

    def _fit(self) -> None:
        """Give all columns as many rows as the index has slots."""
        size = self._index.capacity
        if size != len(self._cookie):
            self._cookie = resize(self._cookie, size)
            self._namespace = resize(self._namespace, size)
            self._owner = resize(self._owner, size)
            self._by_listener = resize(self._by_listener, size)
            self._is_released = resize(self._is_released, size)
            self._recorded_at = resize(self._recorded_at, size)

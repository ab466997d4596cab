"""Which flow the fragments of an IP packet belong to.

Only the first fragment holds the ports; the later ones of the same packet follow it to its flow. A
later fragment that comes before its first waits, and is settled under its own, portless key when
the first does not come in time, when too many wait, or at the end. So each byte is settled exactly
once. Time is packet time: the newest seen, for frames of a live capture may be out of order.
"""

from collections import OrderedDict

import msgspec

MAX_ENTRIES = 4096
FLOW_TTL_NS = 30_000_000_000
"""Linux gives up reassembly after as long (ipfrag_time)."""
PARKING_NS = 2_000_000_000


class FirstFragment(msgspec.Struct, frozen=True, gc=False):
    """Has the ports. `ident` is the same for all fragments of a packet."""

    ident: bytes


class LaterFragment(msgspec.Struct, frozen=True, gc=False):
    """Has no ports. `ident` is the same for all fragments of a packet."""

    ident: bytes


class Settled(msgspec.Struct, frozen=True, gc=False):
    """Later fragments that have found their flow: its key, how many, their IP bytes.

    And when the first and the last of them passed.
    """

    key: bytes
    packets: int
    bytes: int
    first_ns: int
    last_ns: int


class _Flow(msgspec.Struct, gc=False):
    key: bytes
    since_ns: int


class _Parked(msgspec.Struct, gc=False):
    waiting: Settled
    since_ns: int


class FragmentTable:
    """Fragments of one link. At most `max_entries` packets are known, and as many waited for.

    A packet's flow is known for `ttl_ns` after its first fragment; a later fragment waits
    `parking_ns` for it.
    """

    def __init__(
        self,
        max_entries: int = MAX_ENTRIES,
        ttl_ns: int = FLOW_TTL_NS,
        parking_ns: int = PARKING_NS,
    ) -> None:
        self._max_entries = max_entries
        self._ttl_ns = ttl_ns
        self._parking_ns = parking_ns
        self._now_ns = 0
        # Both are in order of time, for the clock does not go back.
        self._flows: OrderedDict[bytes, _Flow] = OrderedDict()
        self._parked: OrderedDict[bytes, _Parked] = OrderedDict()

    def first(self, ident: bytes, key: bytes, now_ns: int) -> list[Settled]:
        """Note that the packet `ident` is of the flow `key`; return what is settled by that.

        The first fragment itself is the caller's to count.
        """
        settled = self.advance(now_ns)
        if parked := self._parked.pop(ident, None):
            settled.append(msgspec.structs.replace(parked.waiting, key=key))
        self._flows.pop(ident, None)
        if len(self._flows) >= self._max_entries:
            self._flows.popitem(last=False)
        self._flows[ident] = _Flow(key, self._now_ns)
        return settled

    def later(
        self, ident: bytes, key: bytes, length: int, now_ns: int, at_ns: int
    ) -> list[Settled]:
        """Take a later fragment of `length` IP bytes under the portless `key`; it passed `at_ns`.

        Returns what is settled by now: the fragment itself if its flow is known.
        """
        settled = self.advance(now_ns)
        if flow := self._flows.get(ident):
            settled.append(Settled(flow.key, 1, length, at_ns, at_ns))
        elif parked := self._parked.get(ident):
            before = parked.waiting
            parked.waiting = Settled(
                before.key,
                before.packets + 1,
                before.bytes + length,
                min(before.first_ns, at_ns),
                max(before.last_ns, at_ns),
            )
        else:
            if len(self._parked) >= self._max_entries:
                _, oldest = self._parked.popitem(last=False)
                settled.append(oldest.waiting)
            self._parked[ident] = _Parked(Settled(key, 1, length, at_ns, at_ns), self._now_ns)
        return settled

    def advance(self, now_ns: int) -> list[Settled]:
        """Let time pass; return what has waited long enough."""
        self._now_ns = max(self._now_ns, now_ns)
        while self._flows:
            ident, flow = next(iter(self._flows.items()))
            if self._now_ns - flow.since_ns < self._ttl_ns:
                break
            del self._flows[ident]
        settled = []
        while self._parked:
            ident, parked = next(iter(self._parked.items()))
            if self._now_ns - parked.since_ns < self._parking_ns:
                break
            del self._parked[ident]
            settled.append(parked.waiting)
        return settled

    def flush(self) -> list[Settled]:
        """Settle all that waits, and forget all flows."""
        settled = [parked.waiting for parked in self._parked.values()]
        self._parked.clear()
        self._flows.clear()
        return settled
